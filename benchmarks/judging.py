"""Measure how often `plateau judge` keeps changes that do nothing, over whole loops, and finds ones that do something.

python -m benchmarks.judging --loops 2000
"""

import argparse
from collections.abc import Iterator

import numpy as np
from scipy.special import stdtrit

from benchmarks.evidence import NOISES, Noise
from harness.evidence.judging.error_budget import find_one_run_level
from harness.evidence.judging.judgement import Judgement
from harness.evidence.judging.noise_tests import MOST_FREEDOM
from harness.evidence.judging.referee import judge_candidate
from harness.evidence.judging.run_log import LoggedRun, RunLog

NULL_NOISES = ("normal", "Student t, 3", "Student t, 2", "lognormal", "minus lognormal",
               "10% of seeds 10 SD worse", "two basins")  # fmt: skip
POWER_NOISES = ("normal", "Student t, 3", "lognormal")
REPEATS = (3, 4, 5)
TRIES = (20, 100)
GAINS = (1, 2, 3, 4, 6, 20, 40)
MOST_RUNS = 12
"""Runs of a candidate, after which a loop gives it up."""


class SimulatedLoop:
    """A loop whose changes are better than its baseline by `gain`."""

    def __init__(self, noise: Noise, n_repeats: int, seed: int, gain: float = 0.0) -> None:
        self._noise, self._rng, self._gain = noise, np.random.default_rng(seed), gain
        self.runs = [self._make_run("baseline", 0.0) for _ in range(n_repeats)]

    def add_useless_tries(self, number: int) -> None:
        """Log changes that were clearly worse."""
        self.runs += [self._make_run(f"useless {index}", -100.0) for index in range(number)]

    def try_change(self, name: str, reruns: bool) -> Judgement:
        """Run a change and judge it; with `reruns`, run it as often as the referee asks for."""
        self.runs.append(self._make_run(name, self._gain))
        while True:
            log = RunLog("loop", "loss", "minimize", tuple(self.runs))
            found = judge_candidate(log, log.configs[-1], log.configs[0])
            more = dict(found.needed).get("candidate", 0)
            if not reruns or not more or len(log.configs[-1].runs) + more > MOST_RUNS:
                return found
            self.runs += [self._make_run(name, self._gain) for _ in range(more)]

    def _make_run(self, name: str, gain: float) -> LoggedRun:
        value = float(self._noise(self._rng, (1, 1))[0, 0]) - gain
        number = len(self.runs) + 1 if hasattr(self, "runs") else 1
        return LoggedRun(number, name, name, value, is_baseline=name == "baseline")


def find_first_keeps(noise: Noise, n_repeats: int, n_tries: int, reruns: bool, n_loops: int) -> np.ndarray:
    """Return for each loop of useless changes the number of the first one that is kept; infinity without any."""
    first = np.full(n_loops, np.inf)
    for seed in range(n_loops):
        loop = SimulatedLoop(noise, n_repeats, seed)
        verdicts = (loop.try_change(f"change {index}", reruns).verdict for index in range(n_tries))
        first[seed] = next((number for number, verdict in enumerate(verdicts, 1) if verdict == "keep"), np.inf)
    return first


def measure_one_run_claims(noise: Noise, n_repeats: int, n_loops: int) -> list[float]:
    """Return the shares of loops of so many tries as in TRIES that keep a useless change by its first run.

    By the formula of the referee instead of the referee, for many loops.
    """
    rng, n_tries = np.random.default_rng(0), max(TRIES)
    repeats, values = noise(rng, (n_loops, n_repeats)), noise(rng, (n_loops, n_tries))
    levels = np.array([find_one_run_level(number) for number in range(1, n_tries + 1)])
    margins = stdtrit(min(n_repeats - 1, MOST_FREEDOM), 1 - levels) * np.sqrt(1 + 1 / n_repeats)
    spread = repeats.std(axis=1, ddof=1, keepdims=True)
    kept = (repeats.mean(axis=1, keepdims=True) - values > margins * spread) & (spread > 0)
    return [float(kept[:, :number].any(axis=1).mean()) for number in TRIES]


def measure_power(noise: Noise, n_repeats: int, gain: float, before: int, reruns: bool, n_loops: int) -> float:
    """Return how often a change that is better by `gain` is kept after so many useless ones."""
    n_kept = 0
    for seed in range(n_loops):
        loop = SimulatedLoop(noise, n_repeats, seed, gain)
        loop.add_useless_tries(before)
        n_kept += loop.try_change("change", reruns).verdict == "keep"
    return n_kept / n_loops


def list_results(n_loops: int) -> Iterator[str]:
    """Yield the tables of docs/benchmarks.md."""
    yield "| noise; repeats | 3 | 4 | 5 | 10 |\n|---|---|---|---|---|"
    for name in (*NULL_NOISES, "Cauchy"):
        rates = [measure_one_run_claims(NOISES[name], n_repeats, 20 * n_loops) for n_repeats in (*REPEATS, 10)]
        cells = [" / ".join(f"{100 * rate:.1f}" for rate in pair) for pair in rates]
        yield f"| {name} | {' | '.join(cells)} |"
    yield "\n| noise; repeats | 3 | 4 | 5 |\n|---|---|---|---|"
    for name in NULL_NOISES:
        cells = []
        for n_repeats in REPEATS:
            first = find_first_keeps(NOISES[name], n_repeats, max(TRIES), True, n_loops)
            cells.append(" / ".join(f"{100 * np.mean(first <= n_tries):.1f}" for n_tries in TRIES))
        yield f"| {name} | {' | '.join(cells)} |"
    yield f"\n| noise, repeats, tries before | {' | '.join(f'{gain} SD' for gain in GAINS)} |"
    yield f"|---{'|---' * len(GAINS)}|"
    for name in POWER_NOISES:
        scale = float(np.std(NOISES[name](np.random.default_rng(0), (1, 10**6)))) if name != "Student t, 3" else 3**0.5
        for n_repeats in REPEATS:
            for before in (0, 19):
                pairs = [
                    [measure_power(NOISES[name], n_repeats, gain * scale, before, reruns, n_loops)
                     for reruns in (False, True)]
                    for gain in GAINS
                ]  # fmt: skip
                cells = [f"{100 * single:.0f} / {100 * rerun:.0f}" for single, rerun in pairs]
                yield f"| {name}, {n_repeats}, {before} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", type=int, default=1000, help="simulated loops for a number")
    for line in list_results(parser.parse_args().loops):
        print(line, flush=True)


if __name__ == "__main__":
    main()
