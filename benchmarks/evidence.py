"""Measure how often comparisons of seeds make false claims, and how often they find real differences.

python -m benchmarks.evidence                          # simulated noise: false claims, power, seeds added in steps
python -m benchmarks.evidence repeats runs.json        # real runs: JSON {"config": [loss, ...]}, or CSV config,loss
python -m benchmarks.evidence train runs.json          # make such a file: small networks trained with many seeds
"""

import argparse
import csv
import itertools
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from scipy.special import factorial

from harness.evidence.statistics.candidates import compare_candidates
from harness.evidence.statistics.rank_tests import mann_whitney_tail
from harness.evidence.statistics.sample_differences import SampleResults, compare_samples, find_smallest_pair_level
from harness.evidence.statistics.seed_plan import SeedPlan

ALPHA = 0.05
SEEDS = (2, 3, 4, 5, 7, 10, 20)
MARGIN = 2.0

Noise = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


def mix_basins(share: float, distance: float, spread: float = 1.0) -> Noise:
    """Return noise of which a share of the seeds ends `distance` higher."""
    return lambda rng, shape: spread * rng.normal(size=shape) + distance * (rng.random(shape) < share)


def add_divergence(share: float) -> Noise:
    """Return normal noise of which a share of the seeds diverges."""
    return lambda rng, shape: np.where(rng.random(shape) < share, np.inf, rng.normal(size=shape))


# In units of the standard deviation, or of that of the bulk where some seeds are far off or the variance is infinite.
NOISES: dict[str, Noise] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "uniform": lambda rng, shape: np.sqrt(12) * rng.random(shape),
    "Student t, 3": lambda rng, shape: rng.standard_t(3, shape) / np.sqrt(3),
    "Student t, 2": lambda rng, shape: rng.standard_t(2, shape),
    "Cauchy": lambda rng, shape: rng.standard_cauchy(shape),
    "exponential": lambda rng, shape: rng.exponential(size=shape),
    "lognormal": lambda rng, shape: rng.lognormal(size=shape) / 2.16,
    "minus lognormal": lambda rng, shape: -rng.lognormal(size=shape) / 2.16,
    "2% of seeds 10 SD worse": mix_basins(0.02, 10),
    "10% of seeds 10 SD worse": mix_basins(0.1, 10),
    "20% of seeds 10 SD worse": mix_basins(0.2, 10),
    "two basins": mix_basins(0.5, 2, 0.1),
    "two narrow basins": mix_basins(0.5, 2, 0.001),
    "two values": lambda rng, shape: 2.0 * rng.integers(0, 2, shape),
    "rounded to 1 SD": lambda rng, shape: np.round(rng.normal(size=shape)),
    "constant": lambda rng, shape: np.ones(shape),
    "2% at 1e30": lambda rng, shape: np.where(rng.random(shape) < 0.02, 1e30, rng.normal(size=shape)),
    "10% diverge": add_divergence(0.1),
    "30% diverge": add_divergence(0.3),
}
MISLED = "10% of seeds 10 SD worse"
POWER_NOISES = ("normal", "Student t, 3", "lognormal", "10% of seeds 10 SD worse", "two basins", "10% diverge")


def draw_pair(noise: Noise, rng: np.random.Generator, shape: tuple[int, int], shared: float) -> list[np.ndarray]:
    """Draw baseline and candidate; `shared` is the share of the variance that a seed gives to both."""
    if not shared:
        return [noise(rng, shape), noise(rng, shape)]
    common = np.sqrt(shared) * noise(rng, shape)
    return [common + np.sqrt(1 - shared) * noise(rng, shape) for _ in range(2)]


def compare_at_levels(
    baseline: np.ndarray, candidate: np.ndarray, paired: bool, margin: float | None = None, alpha: float = ALPHA
) -> SampleResults:
    return compare_samples(baseline, candidate, paired, margin, alpha, alpha)


DESIGNS = {"unpaired": (False, 0.0), "paired": (True, 0.0), "paired, half of the variance shared": (True, 0.5)}


def tabulate_false_claims(n_draws: int, rng: np.random.Generator) -> Iterator[str]:
    """Yield tables of the rate of "better" with the candidate equal to the baseline; "worse" is its mirror image."""
    for design, (paired, shared) in DESIGNS.items():
        yield f'\n"better" under the null, %, {design}; {n_draws} comparisons a cell'
        yield format_header("noise, by seeds a side", *SEEDS)
        worst = 0.0
        for name, noise in NOISES.items():
            rates = []
            for n_seeds in SEEDS:
                codes = compare_at_levels(*draw_pair(noise, rng, (n_draws, n_seeds), shared), paired).codes
                rates.append(np.mean(codes == 1))
            worst = max(worst, *rates)
            yield format_row(name, *(f"{100 * rate:.1f}" for rate in rates))
        yield f"worst: {100 * worst:.1f}"


def tabulate_worst_pairs(n_draws: int, rng: np.random.Generator) -> Iterator[str]:
    """Yield the greatest rate of "better" that a search over distributions finds where the t interval stands alone.

    Losses are independent draws from n equally spaced values, whose probabilities are changed at random. All are
    taken to have a jitter: equal differences are claimed, and differences of zero are such a comparison again.
    """
    yield '\nmost "better" of few pairs under the null, %, that a search over all noise on a few values finds'
    yield format_header("pairs, level in %", *(sizes := (2, 3, 5, 9, 13)))
    for n_pairs, divisor in itertools.product((3, 4, 5, 6), (1, 1.5, 2, 3, 4, 5)):
        alpha = ALPHA / divisor
        if not find_smallest_pair_level(n_pairs) <= alpha < 0.5**n_pairs:
            continue
        cells = []
        for n_values in sizes:
            chosen = np.array(list(itertools.combinations_with_replacement(range(1, n_values), n_pairs)))
            differences = -chosen.astype(float)
            claimed = compare_at_levels(np.zeros_like(differences), differences, True, alpha=alpha).codes == 1
            rows = chosen[claimed | (differences.std(1) == 0)]
            repeats = (rows[:, :, None] == np.arange(n_values)).sum(1)
            weights = factorial(n_pairs) / factorial(repeats).prod(1)
            best = 0.0
            for _ in range(20):
                shares, rate, step = rng.dirichlet(np.full(n_values, rng.choice([0.2, 1, 3]))), 0.0, 0.3
                for _ in range(250):
                    moved = rng.choice([0, 1], n_values)
                    changed = np.abs(shares + step / n_values * moved * rng.normal(size=n_values))
                    changed /= changed.sum()
                    chances = np.correlate(changed, changed, "full")[n_values - 1 :]  # of each size of difference
                    if chances[0] < 1 - 1e-6:
                        found = (weights * chances[rows].prod(1)).sum() / (1 - chances[0] ** n_pairs)
                        shares, rate, step = (changed, found, step) if found > rate else (shares, rate, step * 0.985)
                best = max(best, rate)
            cells.append(f"{100 * best:.2f}")
        yield format_row(f"{n_pairs}, {100 * alpha:.2f}", *cells)


def claim_by_t_test(baseline: np.ndarray, candidate: np.ndarray, **options: Any) -> np.ndarray:
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return stats.ttest_ind(candidate, baseline, axis=1, alternative="less", **options).pvalue <= ALPHA / 2


def claim_by_ranks(baseline: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    greater = (candidate[:, :, None] >= baseline[:, None, :]).sum((1, 2))
    return mann_whitney_tail(baseline.shape[1], candidate.shape[1])[greater] <= ALPHA / 2


METHODS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "Welch's t": lambda *sides: claim_by_t_test(*sides, equal_var=False),
    "Student's t, pooled": claim_by_t_test,
    "Yuen's t, 20% trimmed": lambda baseline, candidate: claim_by_t_test(
        baseline, candidate, equal_var=False, trim=0.2
    ),
    "Mann-Whitney": claim_by_ranks,
    "compare_losses": lambda *sides: compare_at_levels(*sides, paired=False).codes == 1,
}


def tabulate_methods(n_draws: int, rng: np.random.Generator) -> Iterator[str]:
    """Yield a table of the usual tests beside ours, unpaired."""
    yield '\nusual tests at one-sided 2.5%, unpaired: most "better" under the null over all finite noise, %; power, %'
    cases = [
        ("normal", 3, 2),
        ("normal", 5, 2),
        ("normal", 10, 1),
        ("Student t, 3", 5, 2),
        (MISLED, 5, 3),
        (MISLED, 10, 2),
    ]
    titles = (f"{name}, {n_seeds} seeds, {effect} SD" for name, n_seeds, effect in cases)
    yield format_header("test", "null, 2 seeds", "3 seeds", "4 to 20 seeds", *titles)
    finite = [noise for name, noise in NOISES.items() if "diverge" not in name]
    for method, claim in METHODS.items():
        worst = {}
        for n_seeds in SEEDS:
            rates = [np.mean(claim(*draw_pair(noise, rng, (n_draws, n_seeds), 0.0))) for noise in finite]
            worst[min(n_seeds, 4)] = max(worst.get(min(n_seeds, 4), 0.0), *rates)
        power = []
        for name, n_seeds, effect in cases:
            baseline, candidate = draw_pair(NOISES[name], rng, (n_draws, n_seeds), 0.0)
            power.append(f"{100 * np.mean(claim(baseline, candidate - effect)):.0f}")
        yield format_row(method, *(f"{100 * rate:.1f}" for rate in worst.values()), *power)


def tabulate_unequal_spreads(n_draws: int, rng: np.random.Generator) -> Iterator[str]:
    sizes = ((3, 3), (5, 5), (10, 10), (20, 20), (5, 10), (10, 5), (3, 10), (10, 3), (2, 20), (20, 2))
    yield '\n"better" with equal means, %, unpaired, normal: SD of the candidate over that of the baseline'
    yield format_header("seeds of baseline, candidate", *(ratios := (0.2, 0.5, 1, 2, 5)))
    for n_baseline, n_candidate in sizes:
        rates = []
        for ratio in ratios:
            candidate = ratio * rng.normal(size=(n_draws, n_candidate))
            codes = compare_at_levels(rng.normal(size=(n_draws, n_baseline)), candidate, False).codes
            rates.append(f"{100 * np.mean(codes == 1):.1f}")
        yield format_row(f"{n_baseline}, {n_candidate}", *rates)


def tabulate_power(n_draws: int, rng: np.random.Generator) -> Iterator[str]:
    """Yield tables of the rate of "better" with the candidate 1, 2 and 3 standard deviations lower."""
    sizes = (3, 4, 5, 7, 10)
    for design, (paired, shared) in DESIGNS.items():
        yield f'\npower: "better" with a candidate 1 / 2 / 3 SD lower, %, {design}'
        yield format_header("noise, by seeds a side", *sizes)
        for name in POWER_NOISES:
            cells = []
            for n_seeds in sizes:
                baseline, candidate = draw_pair(NOISES[name], rng, (n_draws, n_seeds), shared)
                found = [compare_at_levels(baseline, candidate - effect, paired).codes == 1 for effect in (1, 2, 3)]
                cells.append(" / ".join(f"{100 * np.mean(one):.0f}" for one in found))
            yield format_row(name, *cells)


def tabulate_equivalence(n_draws: int, rng: np.random.Generator) -> Iterator[str]:
    """Yield a table of the rate of "equivalent" at the margin, where it is false, and without any difference."""
    yield f'\n"equivalent" within {MARGIN:g} SD, %: at a true difference of the margin (false), of zero (power)'
    yield format_header("noise, by seeds a side", *(sizes := (3, 5, 7, 10, 20)))
    for design, (paired, shared) in DESIGNS.items():
        for name in ("normal", "uniform", "Student t, 3", "lognormal", "two basins", "rounded to 1 SD"):
            cells = []
            for n_seeds in sizes:
                baseline, candidate = draw_pair(NOISES[name], rng, (n_draws, n_seeds), shared)
                at_margin, at_zero = (
                    np.mean(compare_at_levels(baseline, candidate + shift, paired, MARGIN).codes == 3)
                    for shift in (MARGIN, 0.0)
                )
                cells.append(f"{100 * at_margin:.1f}, {100 * at_zero:.0f}")
            yield format_row(f"{design}: {name}", *cells)


def tabulate_candidates(n_draws: int, rng: np.random.Generator) -> Iterator[str]:
    """Yield the rate of any "better" of several candidates that equal the baseline."""
    n_draws //= 5
    yield f'\nany "better" of m candidates under the null, %, Holm, normal noise; {n_draws} comparisons a cell'
    yield format_header("seeds a side", *(totals := (1, 3, 5)))
    for n_seeds in (5, 10):
        cells = []
        for total in totals:
            wrong = 0
            for losses in rng.normal(size=(n_draws, total + 1, n_seeds)):
                results = compare_candidates(losses[0], dict(enumerate(losses[1:])))
                wrong += any(result.status == "better" for result in results.values())
            cells.append(f"{100 * wrong / n_draws:.1f}")
        yield format_row(n_seeds, *cells)


def run_plan(
    plan: SeedPlan, baseline: np.ndarray, candidate: np.ndarray, paired: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the final code of each comparison and the number of seeds a side that it took."""
    codes, used = np.zeros(len(baseline), int), np.full(len(baseline), plan.looks[-1])
    open_rows = np.arange(len(baseline))
    for look, level in zip(plan.looks, plan.levels, strict=True):
        sides = baseline[open_rows, :look], candidate[open_rows, :look]
        found = compare_samples(*sides, paired, None, level, level).codes
        codes[open_rows], used[open_rows] = found, look
        open_rows = open_rows[found == 0]
    return codes, used


def tabulate_plans(n_draws: int, rng: np.random.Generator) -> Iterator[str]:
    """Yield a table of plans that add seeds in steps."""
    yield "\nseeds added in steps"
    yield format_header(
        "plan", "design", "noise", "better under the null, %", "1 / 2 / 3 SD lower, %", "mean seeds then"
    )
    for looks in ((3, 4, 5), (3, 5, 7, 10), tuple(range(2, 11))):
        plan = SeedPlan(looks)
        for design, (paired, shared) in DESIGNS.items():
            for name in POWER_NOISES:
                baseline, candidate = draw_pair(NOISES[name], rng, (n_draws, looks[-1]), shared)
                results = [run_plan(plan, baseline, candidate - effect, paired) for effect in (0, 1, 2, 3)]
                rates = [100 * np.mean(codes == 1) for codes, _ in results]
                power = " / ".join(f"{rate:.0f}" for rate in rates[1:])
                used = " / ".join(f"{np.mean(seeds):.1f}" for _, seeds in results[1:])
                steps = ", ".join(map(str, looks))
                yield format_row(steps, design, name, f"{rates[0]:.1f}", power, used)


def tabulate_repeats(groups: dict[str, np.ndarray], n_draws: int, rng: np.random.Generator) -> Iterator[str]:
    """Yield the rates of claims between disjoint random subsets of the runs of one configuration."""
    yield f"{len(groups)} configurations, {sum(map(len, groups.values()))} runs; {n_draws} draws a configuration"
    yield format_header(
        "design, seeds a side", "configurations", "better %", "worse %", "most, of one configuration, %"
    )
    for design, paired in (("unpaired", False), ("paired", True)):
        for n_seeds in SEEDS:
            rates = []
            for losses in groups.values():
                if len(losses) >= 2 * n_seeds:
                    order = rng.permuted(np.tile(np.arange(len(losses)), (n_draws, 1)), axis=1)
                    sides = losses[order[:, :n_seeds]], losses[order[:, n_seeds : 2 * n_seeds]]
                    codes = compare_at_levels(*sides, paired).codes
                    rates.append((np.mean(codes == 1), np.mean(codes == 2)))
            if rates:
                better, worse = np.mean(rates, axis=0)
                values = (f"{100 * better:.2f}", f"{100 * worse:.2f}", f"{100 * np.max(rates):.2f}")
                yield format_row(f"{design}, {n_seeds}", len(rates), *values)


def read_repeats(file: Path) -> dict[str, np.ndarray]:
    """Read groups of final losses of one configuration each."""
    if file.suffix == ".csv":
        with file.open(newline="") as rows:
            found: dict[str, list[float]] = {}
            for row in csv.DictReader(rows):
                found.setdefault(row["config"], []).append(float(row["loss"]))
    else:
        found = json.loads(file.read_text())
    groups = {name: np.array([np.nan if x is None else x for x in losses], float) for name, losses in found.items()}
    return {name: np.where(np.isfinite(losses), losses, np.inf) for name, losses in groups.items()}


def train_repeats(file: Path, n_runs: int) -> None:
    """Train small networks on scikit-learn's digits, each configuration with `n_runs` seeds; write the losses."""
    from sklearn.datasets import load_digits
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import log_loss
    from sklearn.neural_network import MLPClassifier

    warnings.simplefilter("ignore", ConvergenceWarning)
    images, labels = load_digits(return_X_y=True)
    images = images / 16
    configs = {
        "adam": {"solver": "adam", "learning_rate_init": 3e-3},
        "adam, rate too high": {"solver": "adam", "learning_rate_init": 0.1},
        "SGD": {"solver": "sgd", "learning_rate_init": 0.1},
        "SGD, rate too high": {"solver": "sgd", "learning_rate_init": 1.5},
        "SGD, 2 units": {"solver": "sgd", "learning_rate_init": 0.1, "hidden_layer_sizes": (2,)},
        "2 layers of 4 units": {"solver": "adam", "learning_rate_init": 0.02, "hidden_layer_sizes": (4, 4)},
    }
    found: dict[str, list[float | None]] = {}
    for name, options in configs.items():
        for seed in range(n_runs):
            usual = {"hidden_layer_sizes": (16,), "max_iter": 8, "batch_size": 64, "random_state": seed}
            try:
                model = MLPClassifier(**{**usual, **options}).fit(images[:1200], labels[:1200])
                loss = float(log_loss(labels[1200:], model.predict_proba(images[1200:])))
            except ValueError:  # scikit-learn's error for weights that are not finite
                loss = float("nan")
            found.setdefault(name, []).append(loss if np.isfinite(loss) else None)
    file.write_text(json.dumps(found))


def format_row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def format_header(*cells: object) -> str:
    return f"{format_row(*cells)}\n{format_row(*('---' for _ in cells))}"


TABLES = (
    tabulate_methods, tabulate_false_claims, tabulate_worst_pairs, tabulate_unequal_spreads, tabulate_power,
    tabulate_equivalence, tabulate_candidates, tabulate_plans,
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", nargs="?", choices=["simulate", "repeats", "train"], default="simulate")
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--draws", type=int, default=10_000, help="comparisons of a cell, or of a configuration")
    parser.add_argument("--runs", type=int, default=150, help="seeds of each configuration to train")
    chosen = parser.parse_args()
    if chosen.action != "simulate" and chosen.file is None:
        parser.error(f"{chosen.action}: name the file of the runs")
    rng = np.random.default_rng(0)
    if chosen.action == "train":
        train_repeats(chosen.file, chosen.runs)
    elif chosen.action == "repeats":
        print(*tabulate_repeats(read_repeats(chosen.file), chosen.draws, rng), sep="\n")
    else:
        for tabulate in TABLES:
            for line in tabulate(chosen.draws, rng):
                print(line, flush=True)


if __name__ == "__main__":
    main()
