"""Synthetic curves with known faults, from seeded code."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from harness.diagnosis.history import History, RunFacts, SpikeRecord

NONE: frozenset[str] = frozenset()
DEV, HELD_OUT = range(3), range(200, 210)
"""Seeds; held-out ones also draw from other ranges."""


@dataclass(frozen=True)
class Curve:
    """A history with its faults: kinds that must be diagnosed (`labels`), and kinds that are also right (`allowed`)."""

    name: str
    history: History
    labels: frozenset[str] = NONE
    allowed: frozenset[str] = NONE
    is_held_out: bool = False  # not looked at when thresholds were chosen
    source: str = "synthetic"


@dataclass
class SimulatedRun:
    """One value per step, before rows are averaged; evaluations at `eval_steps`."""

    rng: np.random.Generator
    facts: RunFacts
    lr: np.ndarray
    clean: np.ndarray  # loss without noise; the validation loss adds its own
    train: np.ndarray
    norm: np.ndarray
    eval_steps: np.ndarray
    val: np.ndarray
    speed: np.ndarray
    layers: dict[str, np.ndarray] = field(default_factory=dict)
    coverage: np.ndarray | None = None
    has_train: bool = True
    spikes: list[SpikeRecord] = field(default_factory=list)

    @property
    def steps(self) -> int:
        return len(self.lr)

    def to_history(self) -> History:
        """Return rows as a run records them: means over log_every steps, and evaluations."""
        history = History(self.facts, list(self.spikes), [int(step) for step in self.eval_steps])
        every, clip = self.facts.log_every, self.facts.grad_clip or math.inf
        evals = iter(range(len(self.eval_steps)))
        due = next(evals)
        for step in range(0, self.steps + 1, every):
            if step and self.has_train:
                window = slice(step - every, step)
                history.add_row(step, self._train_row(window, step, clip))
            while due is not None and self.eval_steps[due] <= step:
                history.add_row(int(self.eval_steps[due]), self._eval_row(due))
                due = next(evals, None)
        return history

    def _train_row(self, window: slice, step: int, clip: float) -> dict[str, float]:
        return {
            "train/loss": float(self.train[window].mean()),
            "train/lr": float(self.lr[step - 1]),
            "train/grad_norm": float(self.norm[window].mean()),
            "train/clip_fraction": float((self.norm[window] > clip).mean()),
            "train/tokens": float(step * (self.facts.tokens_per_step or 1)),
            "perf/tokens_per_second": float(self.speed[step - 1]),
        }

    def _eval_row(self, at: int) -> dict[str, float]:
        row = {"val/loss": float(self.val[at])}
        row |= {f"grad_norm/{name}": float(norms[at]) for name, norms in self.layers.items()} if at else {}
        return row | ({} if self.coverage is None else {"val/coverage": float(self.coverage[at])})


def simulate_run(
    seed: int,
    *,
    steps: int = 1000,
    log_every: int = 5,
    evals: int = 10,
    schedule: str = "Cosine",
    warmup: int = 50,
    floor: tuple[float, float] = (2.5, 4.0),
    exponent: tuple[float, float] = (0.35, 0.5),
    pace: float = 0.01,
    noise: float = 0.04,
    val_noise: float = 0.0005,
    stall_at: float = 1.0,
) -> SimulatedRun:
    """Return a run whose loss falls from about 8 by a power law of the summed LR.

    A high LR adds to the loss. From `stall_at` of the run on nothing more is learnt.
    """
    rng = np.random.default_rng(seed)
    is_other = seed >= HELD_OUT[0]
    steps = int(steps * (rng.uniform(1.2, 2.0) if is_other else 1))
    noise *= rng.uniform(0.5, 1.5) if is_other else 1
    at = np.arange(steps) / steps
    shape = {"Cosine": (1 + np.cos(np.pi * at)) / 2, "WSD": np.minimum(1, (1 - at) / 0.2)}.get(schedule, np.ones(steps))
    multiplier = np.minimum((np.arange(steps) + 1) / max(1, warmup), 1) * shape
    learnt = np.cumsum(np.where(at < stall_at, multiplier, 0))
    low, power = rng.uniform(*floor), rng.uniform(*exponent)
    lr_penalty = np.where(at < stall_at, 0.03 * multiplier * np.minimum(1, learnt / 100), 0)
    if stall_at < 1:
        lr_penalty[at >= stall_at] = lr_penalty[at < stall_at][-1]
    clean = low + (8 - low) * (1 + learnt * pace * 10) ** -power + lr_penalty
    eval_steps = np.linspace(0, steps, evals + 1).astype(int) // log_every * log_every
    val = clean[np.maximum(eval_steps - 1, 0)] * (1 + val_noise * rng.standard_normal(evals + 1))
    facts = RunFacts(
        name=f"seed {seed}", status="completed", total_steps=steps // log_every * log_every, log_every=log_every,
        batch_size=32, tokens_per_step=4096.0, optimizer="AdamW", peak_lr=1e-3, grad_clip=1.0, schedule=schedule,
        requested_warmup=float(warmup), warmup_steps=warmup, uniform_loss=9.0, unigram_loss=7.2, unit="nats/token",
    )  # fmt: skip
    return SimulatedRun(
        rng, facts, 1e-3 * multiplier, clean, clean * (1 + noise * rng.standard_normal(steps)),
        0.4 * np.exp(0.25 * rng.standard_normal(steps)) * (1 + 2 * np.exp(-np.arange(steps) / 30)), eval_steps, val,
        2e4 * (1 + 0.08 * rng.standard_normal(steps)),
    )  # fmt: skip


def healthy_run(seed: int, **changes: object) -> SimulatedRun:
    """Return a healthy run that learns most of what there is."""
    return simulate_run(seed, **{"steps": 4000, "pace": 0.05, "log_every": 10, **changes})


def loose_clip(seed: int) -> SimulatedRun:
    run = healthy_run(seed)
    run.norm *= 2.2  # a third to a half of the steps clipped
    return run


def odd_batch(seed: int) -> SimulatedRun:
    run = replace_facts(healthy_run(seed, log_every=1, steps=1500, pace=0.1), log_every=1)
    run.train[run.rng.integers(300, 1200, 4)] *= 1.6
    return run


def slow_machine_noise(seed: int) -> SimulatedRun:
    run = healthy_run(seed)
    run.speed *= 1 - 0.15 * (np.sin(np.arange(run.steps) / 300) > 0)
    return run


def decaying_norms(seed: int) -> SimulatedRun:
    run = healthy_run(seed)
    sizes = {"embedding": 0.5, "blocks.0": 0.3, "blocks.1": 0.2, "blocks.2": 0.15, "norm": 0.02}
    return with_layers(run, sizes)


def overfit_run(seed: int, has_train: bool = True) -> SimulatedRun:
    run = healthy_run(seed)
    turn = run.rng.uniform(0.25, 0.5)
    share = run.eval_steps / run.steps
    run.val = run.val + 0.8 * np.maximum(0, share - turn)
    run.train *= 1 - 0.15 * np.maximum(0, np.arange(run.steps) / run.steps - turn)
    run.has_train = has_train
    return run


def at_unigram(seed: int) -> SimulatedRun:
    run = healthy_run(seed)
    run.clean = 7.25 + 1.5 * np.exp(-np.arange(run.steps) / 100)
    return recompute_losses(run)


def no_fall(seed: int) -> SimulatedRun:
    run = replace_facts(healthy_run(seed), uniform_loss=None, unigram_loss=None)
    run.clean = 4.0 - 0.001 * np.arange(run.steps) / run.steps
    return recompute_losses(run)


def small_gain(seed: int, **facts: object) -> SimulatedRun:
    """Return a run from trained weights that gains less than 1%, which is far above the noise."""
    run = replace_facts(healthy_run(seed), **{"uniform_loss": None, "unigram_loss": None, **facts})
    run.clean = 2.0 - 0.018 * np.linspace(0, 1, run.steps) ** 0.5
    recompute_losses(run)
    run.val = run.clean[np.maximum(run.eval_steps - 1, 0)] * (1 + 2e-5 * run.rng.standard_normal(len(run.eval_steps)))
    return run


def other_loss(seed: int, unit: float = 1.0, dropout: float = 1.08) -> SimulatedRun:
    """Return a run whose training loss has dropout, or another unit than the validation loss."""
    run = healthy_run(seed)
    run.train = unit * (dropout - 1) * 8 + unit * run.train
    return run


def loss_bump(seed: int, *, height: float = 0.6, comes_back: bool = True, log_every: int = 5) -> SimulatedRun:
    run = healthy_run(seed, log_every=log_every)
    at = int(run.rng.uniform(0.4, 0.7) * run.steps)
    after = np.arange(run.steps) - at
    shape = np.where(after >= 0, np.exp(-after / 60) if comes_back else 1.0, 0.0)
    run.clean = run.clean * (1 + height * shape)
    return recompute_losses(run)


def rolled_back(seed: int) -> SimulatedRun:
    run = healthy_run(seed)
    at = int(run.rng.uniform(0.3, 0.8) * run.steps)
    run.spikes = [SpikeRecord(at + 3, at, 6.2, 4.1, (32 * at, 32 * (at + 3)), max(0, at - at % 100))]
    return run


def to_infinity(seed: int) -> SimulatedRun:
    run = healthy_run(seed)
    at = int(run.rng.uniform(0.3, 0.8) * run.steps)
    run.train[at:] = math.inf
    run.val[run.eval_steps > at] = math.inf
    return replace_facts(run, status="diverged")


def clipped(seed: int, optimizer: str = "AdamW") -> SimulatedRun:
    run = replace_facts(healthy_run(seed), optimizer=optimizer)
    run.norm *= run.rng.uniform(8, 50)
    return run


def with_layers(run: SimulatedRun, sizes: dict[str, float]) -> SimulatedRun:
    count = len(run.eval_steps)
    run.layers = {name: size * np.exp(0.3 * run.rng.standard_normal(count)) for name, size in sizes.items()}
    return run


def vanishing(seed: int) -> SimulatedRun:
    least = 0.0 if seed % 2 else 1e-6
    return with_layers(healthy_run(seed), {"blocks.0": least, "blocks.1": 0.1, "blocks.2": 0.1, "head": 0.3})


def dominating(seed: int) -> SimulatedRun:
    return with_layers(healthy_run(seed), {"blocks.0": 0.05, "blocks.1": 0.06, "blocks.2": 0.04, "head": 2.0})


def truncated(seed: int) -> SimulatedRun:
    known = 0 if seed % 2 else None
    return replace_facts(healthy_run(seed, warmup=0), requested_warmup=100.0, warmup_steps=known)


def short_warmup(seed: int) -> SimulatedRun:
    run = healthy_run(seed, warmup=40)
    after = np.arange(run.steps) - 40
    run.clean = run.clean * (1 + run.rng.uniform(0.6, 1.0) * np.where(after >= 0, np.exp(-after / 80), 0))
    return recompute_losses(run)


def norm_jump(seed: int) -> SimulatedRun:
    run = healthy_run(seed, warmup=100)
    after = np.arange(run.steps) - 100
    run.norm *= 1 + 20 * np.where(after >= 0, np.exp(-after / 40), 0) * (after < 200)
    return run


def stalled(seed: int, schedule: str = "Constant", **facts: object) -> SimulatedRun:
    share = np.random.default_rng(seed + 1).uniform(0.2, 0.35)
    return replace_facts(healthy_run(seed, schedule=schedule, stall_at=share), schedule=schedule, **facts)


def watching_training(seed: int) -> SimulatedRun:
    run = healthy_run(seed, schedule="Constant", exponent=(0.15, 0.2))
    return replace_facts(run, schedule="Plateau", monitor="train/loss", patience=5)


def train_cuts(seed: int) -> SimulatedRun:
    """Return a run whose LR is halved twice although every evaluation improves."""
    run = replace_facts(healthy_run(seed, schedule="Constant", pace=0.02), schedule="ReduceLROnPlateau")
    run.lr = run.lr * np.where(np.arange(run.steps) > 0.55 * run.steps, 0.5, 1)
    run.lr = run.lr * np.where(np.arange(run.steps) > 0.75 * run.steps, 0.5, 1)
    return run


def replace_facts(run: SimulatedRun, **changes: object) -> SimulatedRun:
    run.facts = replace(run.facts, **changes)
    return run


def in_band(seed: int, low: float, high: float) -> SimulatedRun:
    return replace_facts(healthy_run(seed), lr_band=(low, high))


def noisy_evals(seed: int) -> SimulatedRun:
    return healthy_run(seed, evals=24, val_noise=0.03)


def slowing(seed: int) -> SimulatedRun:
    run = healthy_run(seed)
    run.speed *= np.where(np.arange(run.steps) > run.rng.uniform(0.5, 0.7) * run.steps, run.rng.uniform(0.4, 0.62), 1)
    return run


def partial_coverage(seed: int) -> SimulatedRun:
    run = healthy_run(seed)
    run.coverage = np.where(np.arange(len(run.eval_steps)) > 5, 0.94, 1.0)
    return run


def recompute_losses(run: SimulatedRun) -> SimulatedRun:
    """Derive both curves from a changed `clean`."""
    run.train = run.clean * (1 + 0.03 * run.rng.standard_normal(run.steps))
    run.val = run.clean[np.maximum(run.eval_steps - 1, 0)] * (1 + 0.0005 * run.rng.standard_normal(len(run.eval_steps)))
    return run


FAMILIES: dict[str, tuple[Callable[[int], SimulatedRun], set[str], set[str]]] = {
    # factory, kinds that must be diagnosed, kinds that are also right
    "healthy cosine": (healthy_run, set(), set()),
    "healthy, many evaluations": (partial(healthy_run, evals=40), set(), set()),
    "healthy, wsd": (partial(healthy_run, schedule="WSD"), set(), set()),
    "healthy, constant, still improving": (
        partial(healthy_run, schedule="Constant", exponent=(0.15, 0.2)), set(), set(),
    ),
    "healthy, noisy batches": (partial(healthy_run, noise=0.12), set(), set()),
    "healthy, a third of the steps clipped": (loose_clip, set(), set()),
    "healthy, single odd batches": (odd_batch, set(), set()),
    "healthy, a machine with ups and downs": (slow_machine_noise, set(), set()),
    "healthy, layers of other sizes": (decaying_norms, set(), set()),
    "healthy, dropout": (other_loss, set(), set()),
    "healthy, label smoothing": (partial(other_loss, dropout=1.15), set(), set()),
    "healthy, training in another unit": (partial(other_loss, unit=1.55), set(), set()),
    "a small gain on trained weights": (small_gain, set(), {"plateau"}),
    "healthy, LR in its band": (partial(in_band, low=1e-4, high=1e-2), set(), set()),
    "stalled, constant": (stalled, {"plateau"}, set()),
    "stalled, cosine": (partial(stalled, schedule="Cosine"), {"plateau"}, set()),
    "short, constant": (partial(simulate_run, schedule="Constant", pace=0.002), {"underfitting"}, set()),
    "short, cosine": (partial(simulate_run, pace=0.002), set(), {"underfitting"}),  # the LR decays
    "overfit": (overfit_run, {"overfitting"}, set()),
    "overfit, no training curve": (partial(overfit_run, has_train=False), {"overfitting"}, set()),
    "at the unigram level": (at_unigram, {"never learnt"}, set()),
    "no fall": (no_fall, {"never learnt"}, set()),
    "spike that comes back": (loss_bump, {"spike"}, set()),
    "spike, every step logged": (partial(loss_bump, log_every=1), {"spike"}, set()),
    "spike, rolled back": (rolled_back, {"spike"}, set()),
    "rise that stays": (partial(loss_bump, comes_back=False), {"divergence"}, {"spike"}),
    "to infinity": (to_infinity, {"divergence"}, set()),
    "clipped, AdamW": (clipped, {"clipping binds"}, set()),
    "clipped, SGD": (partial(clipped, optimizer="SGD"), {"clipping binds"}, set()),
    "a layer without gradient": (vanishing, {"vanishing gradients"}, set()),
    "a layer with all of it": (dominating, {"dominating layer"}, set()),
    "warm-up asked, none in effect": (truncated, {"warm-up truncated"}, set()),
    "rise at the peak": (short_warmup, {"warm-up too short"}, {"spike"}),
    "norms jump at the peak": (norm_jump, {"warm-up too short"}, set()),
    "plateau schedule that cannot act": (
        partial(stalled, schedule="Plateau", monitor="val/loss", patience=20), {"scheduler idle", "plateau"}, set(),
    ),
    "schedule monitor train/loss": (watching_training, {"scheduler misled"}, set()),
    "cuts while improving": (train_cuts, {"scheduler misled"}, set()),
    "LR under its band": (partial(in_band, low=1e-2, high=1e-1), {"learning rate too low"}, set()),
    "LR over its band": (partial(in_band, low=1e-5, high=1e-4), {"learning rate too high"}, set()),
    "evaluations of few examples": (noisy_evals, {"noisy evaluation"}, set()),
    "throughput falls": (slowing, {"throughput fell"}, set()),
    "coverage changes": (partial_coverage, {"incomparable"}, set()),
}  # fmt: skip


def synthetic_curves() -> Iterator[Curve]:
    for family, (make, labels, may) in FAMILIES.items():
        for seed in (*DEV, *HELD_OUT):
            name = f"{family}, {seed}"
            yield Curve(name, make(seed).to_history(), frozenset(labels), frozenset(may), seed in HELD_OUT)
