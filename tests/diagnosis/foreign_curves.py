"""Families of curves as strangers log them, of any length, interval, noise, scale and completeness; seeded."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from harness.diagnosis.history import History, RunFacts

Rng = np.random.Generator
ANY = frozenset({"*"})


@dataclass(frozen=True)
class Family:
    """A maker of logs, the kinds of which one must be found, and those that are also right."""

    make: Callable[[Rng], History]
    labels: frozenset[str] = frozenset()
    allowed: frozenset[str] = frozenset()


def build_log(
    train: Sequence[float] | None = None,
    val: Sequence[float] | None = None,
    *,
    every: int = 1,
    eval_every: int | None = None,
    first: int = 0,
    lr: Sequence[float] | None = None,
    norm: Sequence[float] | None = None,
    starts_with_eval: bool = False,
    **facts: object,
) -> History:
    """Return a log with training rows every `every` steps and evaluations every `eval_every`, after step `first`."""
    rows: dict[int, dict[str, float]] = {}
    for name, values in (("train/loss", train), ("train/lr", lr), ("train/grad_norm", norm)):
        for index, value in enumerate([] if values is None else values, start=1):
            rows.setdefault(first + every * index, {})[name] = float(value)
    values = [] if val is None else list(val)
    spacing = eval_every or max(1, every * (1 if train is None else max(1, len(train) // max(1, len(values)))))
    for index, value in enumerate(values, start=0 if starts_with_eval else 1):
        rows.setdefault(first + spacing * index, {})["val/loss"] = float(value)
    history = History(RunFacts(**{"source": "a log", **facts}))  # type: ignore[arg-type]
    for step in sorted(rows):
        history.add_row(step, rows[step])
    return history


def noisy(rng: Rng, clean: np.ndarray, noise: float) -> np.ndarray:
    return clean * (1 + noise * rng.standard_normal(len(clean)))


def draw_count(rng: Rng, low: int, high: int) -> int:
    """Return a number of rows, uniform on a logarithmic scale."""
    return int(np.exp(rng.uniform(np.log(low), np.log(high + 1))))


def draw_interval(rng: Rng) -> int:
    return int(rng.choice([1, 1, 5, 10, 10, 25, 50, 100, 200, 500]))


def power_law(
    rng: Rng, count: int, start: float, floor: float, end_share: tuple[float, float] = (0.02, 0.12)
) -> np.ndarray:
    """Return a power law from `start`, of whose fall to `floor` a share is left at the end."""
    left, knee = rng.uniform(*end_share), count * 10 ** rng.uniform(-2.5, -1.3)
    power = math.log(1 / left) / math.log(1 + count / knee)
    return floor + (start - floor) * (1 + np.arange(1, count + 1) / knee) ** -power


def decay_lr(rng: Rng, count: int, kind: str, peak: float | None = None) -> np.ndarray:
    at, peak = np.arange(1, count + 1) / count, peak or 10 ** rng.uniform(-5, -2.5)
    warmup = np.minimum(1, at / rng.choice([1e-9, 0.03, 0.1]))
    shape = {
        "constant": np.ones(count), "linear": 1 - at, "cosine": (1 + np.cos(np.pi * at)) / 2,
        "wsd": np.minimum(1, (1 - at) / rng.uniform(0.15, 0.6)),
    }[kind]  # fmt: skip
    return peak * shape * warmup


# Healthy runs: nothing may be diagnosed.


def speedrun(rng: Rng) -> History:
    """Evaluations of a short pretraining, whose LR decays to 0 over the last 20% to 60% and is not in the log."""
    steps = draw_count(rng, 1200, 12000)
    every = int(rng.choice([25, 50, 125, 125, 250]))
    at = np.arange(0, steps + 1, every) / steps
    share = rng.uniform(0.2, 0.7)
    gain = rng.uniform(0.12, 0.3)
    stable = 3.28 + gain + 7.5 * (1 + at * 10 ** rng.uniform(2, 3)) ** -rng.uniform(0.7, 1.0)
    cooled = np.clip((at - (1 - share)) / share, 0, 1)
    val = stable - gain * cooled ** rng.uniform(0.8, 1.3) * (1 + 0.3 * cooled)
    starts = bool(rng.integers(2))
    val = noisy(rng, val, 10 ** rng.uniform(-4, -3))
    total = steps if rng.integers(2) else None
    return build_log(
        val=val if starts else val[1:], eval_every=every, starts_with_eval=starts, total_steps=total,
    )  # fmt: skip


def pretraining(rng: Rng, has_lr: bool = False, has_val: bool = False) -> History:
    count, every = draw_count(rng, 30, 3000), draw_interval(rng)
    clean = power_law(rng, count, rng.uniform(9, 11.5), rng.uniform(2, 3.5), (0.02, 0.06))
    kind = str(rng.choice(["cosine", "linear", "wsd"]))
    lr = decay_lr(rng, count, kind)
    clean = clean - 0.04 * clean * (1 - lr / lr.max()) * (np.arange(count) > count // 2)
    train = noisy(rng, clean, rng.uniform(0.005, 0.04))
    evals = draw_count(rng, 4, 30)
    at = np.linspace(0, count - 1, evals + 1).astype(int)[1:]
    val = noisy(rng, clean[at] + 0.02, 10 ** rng.uniform(-4, -3))
    return build_log(train, val if has_val else None, every=every, lr=lr if has_lr else None,
                     norm=np.exp(0.3 * rng.standard_normal(count)) if rng.integers(2) else None)  # fmt: skip


def fine_tune(rng: Rng) -> History:
    """A loss that starts low, falls by 8% to 40% and has an LR that decays to 0."""
    count, every = draw_count(rng, 20, 1000), int(rng.choice([1, 5, 10, 50]))
    start = rng.uniform(0.6, 3)
    at = np.arange(count) / count
    clean = start * (1 - rng.uniform(0.08, 0.4) * (1 - np.exp(-at * rng.uniform(3, 20))) - 0.03 * at)
    lr = decay_lr(rng, count, str(rng.choice(["linear", "cosine"])))
    train = noisy(rng, clean, rng.uniform(0.02, 0.08))
    evals = int(rng.choice([0, 0, 2, 3, 5, 10]))
    val = noisy(rng, clean[np.linspace(0, count - 1, evals + 1).astype(int)[1:]] * 1.05, 0.002)
    return build_log(train, val, every=every, lr=lr, norm=np.exp(0.4 * rng.standard_normal(count)))


def staircase(rng: Rng) -> History:
    """Several epochs: the training loss falls at each boundary, the validation loss falls ever less."""
    epochs, per = int(rng.integers(2, 5)), draw_count(rng, 10, 200)
    start = rng.uniform(1, 3)
    levels = start * 0.85 ** np.arange(epochs)
    clean = np.concatenate([level * (1 - 0.05 * np.linspace(0, 1, per)) for level in levels])
    val = start * (1 - 0.1 * (1 - 0.5 ** np.arange(1, epochs + 1)))
    lr = decay_lr(rng, len(clean), "linear") if rng.integers(2) else None
    return build_log(noisy(rng, clean, rng.uniform(0.02, 0.08)), noisy(rng, val, 0.001), every=10, eval_every=10 * per,
                     lr=lr)  # fmt: skip


def epochs_log(rng: Rng) -> History:
    """One row per epoch with training and validation loss, which still falls slowly at the end."""
    count = draw_count(rng, 5, 100)
    start, left = 10 ** rng.uniform(-1, 2), rng.uniform(0.4, 0.7)
    clean = start * (left + (1 - left) * (1 + np.arange(count) / (0.15 * count)) ** -0.5)
    noise = 10 ** rng.uniform(-3.5, -2)
    lr = decay_lr(rng, count, "cosine") if rng.integers(2) else None
    return build_log(noisy(rng, clean, noise), noisy(rng, clean * 1.05, noise), lr=lr)


def preference(rng: Rng) -> History:
    count = draw_count(rng, 30, 600)
    clean = 0.45 + rng.uniform(-0.05, 0.1) + 0.243 * np.exp(-np.arange(count) / count * rng.uniform(3, 8))
    train = noisy(rng, clean, rng.uniform(0.03, 0.12))
    train[0] = 0.6931
    return build_log(train, every=10, lr=decay_lr(rng, count, "linear"))


def denoising(rng: Rng) -> History:
    """A diffusion loss: flat and noisy, or as a running mean, although the model learns."""
    count = draw_count(rng, 30, 3000)
    level = 10 ** rng.uniform(-1.7, -0.4)
    train = level * np.exp(rng.uniform(0.15, 0.6) * rng.standard_normal(count))
    if rng.integers(2):
        train = np.cumsum(train) / np.arange(1, count + 1)
    return build_log(train, every=int(rng.choice([1, 10, 50])),
                     lr=np.full(count, 1e-4) if rng.integers(2) else None)  # fmt: skip


def adversarial(rng: Rng) -> History:
    count = draw_count(rng, 30, 2000)
    level = rng.uniform(0.6, 3) + 0.3 * np.sin(np.arange(count) / count * rng.uniform(5, 60))
    return build_log(level * np.exp(rng.uniform(0.2, 0.4) * rng.standard_normal(count)), every=draw_interval(rng))


def negative(rng: Rng) -> History:
    """A log-likelihood or ELBO that passes 0, or lies far below it."""
    count, scale = draw_count(rng, 12, 1000), 10 ** rng.uniform(-1, 3)
    first, last = ((2.0, -3.0), (-1.0, -2.0), (0.5, -0.5), (-3.0, -3.6))[int(rng.integers(4))]
    clean = power_law(rng, count, first, last)
    train = clean + abs(first - last) * rng.uniform(0.005, 0.05) * rng.standard_normal(count)
    val = train[:: max(1, count // 8)] if rng.integers(2) else None
    return build_log(scale * train, None if val is None else scale * val, every=draw_interval(rng))


def scaled(rng: Rng) -> History:
    """A loss that is a sum, of tens of thousands, or a tiny squared error, and falls by orders of magnitude."""
    count, scale = draw_count(rng, 12, 1000), float(10.0 ** rng.choice([-4, -2, 3, 4]))
    clean = scale * (1 + np.arange(count) / (0.02 * count)) ** -rng.uniform(0.5, 0.9)
    train = noisy(rng, clean, rng.uniform(0.01, 0.1))
    return build_log(train, noisy(rng, clean[count // 5 :: max(1, count // 6)] * 1.1, 0.01), every=draw_interval(rng),
                     lr=decay_lr(rng, count, "cosine"))  # fmt: skip


def half_precision(rng: Rng) -> History:
    """The search for a loss scale: norms that are not finite at first, and single rows later."""
    count = draw_count(rng, 40, 1000)
    train = noisy(rng, power_law(rng, count, 10, 3, (0.02, 0.06)), 0.02)
    norm = np.exp(0.3 * rng.standard_normal(count))
    norm[: int(rng.integers(1, 8))] = math.inf if rng.integers(2) else math.nan
    for at in rng.integers(8, count - 2, 3):
        norm[at] = math.nan
        train[at] = math.nan if rng.integers(2) else train[at]
    return build_log(train, every=draw_interval(rng), lr=decay_lr(rng, count, "cosine"), norm=norm)


def policy_gradient(rng: Rng) -> History:
    """A GRPO loss: 0 by construction, or close to it, of either sign, with gradients."""
    count = draw_count(rng, 20, 500)
    size = rng.choice([0.0, 1e-4, 1e-2])
    return build_log(np.round(size * rng.standard_normal(count), 4), every=10,
                     norm=0.1 * np.exp(0.3 * rng.standard_normal(count)), lr=np.full(count, 1e-6))  # fmt: skip


def healthy_tail(rng: Rng) -> History:
    """The end of a long run: a slow fall through noise, over a small part of a doubling."""
    count, every = draw_count(rng, 5, 200), draw_interval(rng)
    first = int(count * every * rng.uniform(2, 20))
    at = first + every * np.arange(1, count + 1)
    clean = 3 - rng.uniform(0.04, 0.1) * np.log2(at / first)
    return build_log(noisy(rng, clean, rng.uniform(0.003, 0.02)), every=every, first=first)


def short_log(rng: Rng) -> History:
    """Three to twelve rows of a healthy run."""
    count = int(rng.integers(3, 13))
    clean = rng.uniform(1, 10) * (0.6 + 0.4 * np.exp(-np.arange(count) / rng.uniform(1, 5)))
    train = noisy(rng, clean, rng.uniform(0.01, 0.15))
    val = noisy(rng, clean * 1.02, rng.uniform(0.001, 0.02)) if rng.integers(2) else None
    return build_log(train, val, every=draw_interval(rng), lr=np.full(count, 1e-4) if rng.integers(2) else None)


def odd_row(rng: Rng) -> History:
    count = draw_count(rng, 30, 500)
    train = noisy(rng, power_law(rng, count, 8, 3, (0.02, 0.06)), 0.01)
    for at in rng.integers(5, count - 1, 2):
        train[at] *= rng.uniform(1.2, 1.8)
    return build_log(train, every=int(rng.choice([10, 50, 100, 200, 500])))


def tiny_batches(rng: Rng) -> History:
    """Losses of single batches that vary by 20% to 40%, of a run that learns."""
    count = draw_count(rng, 10, 5000)
    clean = power_law(rng, count, rng.uniform(4, 8), rng.uniform(1, 2), (0.02, 0.1))
    return build_log(clean * np.exp(rng.uniform(0.2, 0.4) * rng.standard_normal(count)), every=draw_interval(rng))


# Faults.


def not_finite(rng: Rng, metric: str = "train") -> History:
    count = draw_count(rng, 4, 600)
    train = noisy(rng, power_law(rng, count, rng.uniform(1, 10), rng.uniform(0.5, 0.9)), 0.03)
    bad = max(1, int(count * rng.uniform(0, 0.4))) if rng.integers(2) else 1
    val = None
    if metric == "train":
        train[-bad:] = math.nan if rng.integers(2) else math.inf
        if bad > 6:
            train[-int(rng.integers(2, 5))] = 3.0  # a finite row among them
    else:
        val = np.r_[np.linspace(2, 1, int(rng.integers(1, 6))), [math.nan] * int(rng.integers(1, 4))]
    lr = decay_lr(rng, count, "cosine") if rng.integers(2) else None
    total = int(count * every_of(rng) * rng.uniform(1, 30)) if rng.integers(2) else None
    return build_log(train, val, every=10, lr=lr, total_steps=total)


def every_of(rng: Rng) -> int:
    return int(rng.choice([10, 20]))


def norm_gone(rng: Rng, loss: str = "zero") -> History:
    """The norm ceases to be finite; the loss is then logged as 0, as NaN, or not at all, or stands still."""
    count, good = draw_count(rng, 10, 400), rng.uniform(0.2, 0.8)
    turn = max(3, min(count - 4, int(count * good)))
    train = noisy(rng, power_law(rng, count, rng.uniform(1, 3), rng.uniform(0.4, 0.9)), 0.02)
    norm = np.exp(0.3 * rng.standard_normal(count))
    norm[turn:] = math.nan if rng.integers(2) else math.inf
    if loss == "zero":
        train[turn:] = 0.0
        return build_log(train, every=10, norm=norm if rng.integers(3) else None, lr=decay_lr(rng, count, "linear"))
    if loss == "gone":
        train = train[:turn]
    else:
        train[turn:] = noisy(rng, np.full(count - turn, train[turn - 1]), 0.002)
    return build_log(train, every=10, norm=norm, lr=decay_lr(rng, count, "constant"))


def explosion(rng: Rng, rows: tuple[int, int] = (8, 14)) -> History:
    """A loss that falls for a few rows, then jumps to twice to five times that and stays."""
    count = draw_count(rng, *rows)
    turn = max(2, int(count * rng.uniform(0.2, 0.5)))
    before = rng.uniform(0.5, 4) * np.linspace(1.1, 1, turn)
    factor, rest = rng.uniform(2, 5), count - turn
    after = before[-1] * factor * (1 + 0.4 * np.exp(-np.arange(rest) / 1.5))
    after[0] *= rng.uniform(0.7, 1)
    train = noisy(rng, np.r_[before, after], rng.uniform(0.005, 0.04))
    lr = np.full(count, 10 ** rng.uniform(-5, -3)) if rng.integers(2) else None
    return build_log(train, every=draw_interval(rng), lr=lr, first=int(rng.choice([0, 0, 9000])))


def lasting_spike(rng: Rng) -> History:
    """A jump that still comes back when the log ends."""
    count = int(rng.integers(8, 14))
    turn = int(rng.integers(3, 6))
    level, rest = rng.uniform(1, 4), count - turn
    after = level * (1.5 + rng.uniform(0.8, 2) * np.exp(-np.arange(rest) / 4))
    return build_log(noisy(rng, np.r_[np.full(turn, level), after], 0.005), every=10, first=9000,
                     lr=np.full(count, 1e-4))  # fmt: skip


def few_evals_overfit(rng: Rng) -> History:
    count = int(rng.integers(3, 5))
    val = rng.uniform(0.2, 3) * np.cumprod(np.r_[1, 1 + rng.uniform(0.1, 0.35, count - 1)])
    train = rng.uniform(0.3, 3) * np.cumprod(np.r_[1, rng.uniform(0.4, 0.8, count - 1)])
    if rng.integers(2):
        train = np.repeat(train, 10) * (1 + 0.03 * rng.standard_normal(10 * count))
        return build_log(train, val, every=10, eval_every=100)
    return build_log(train, val)


def overfit(rng: Rng) -> History:
    """Evaluations that turn up, after a quarter of the run or from the second one on."""
    count = draw_count(rng, 6, 40)
    at = np.arange(count) / count
    turn = rng.uniform(0.15, 0.5)
    clean = rng.uniform(0.3, 3) * (0.7 + 0.3 * np.exp(-at / 0.15) + rng.uniform(0.3, 2) * np.maximum(0, at - turn))
    train = rng.uniform(0.5, 3) * np.exp(-at * rng.uniform(1.5, 4))
    return build_log(noisy(rng, train, 0.01), noisy(rng, clean, 0.004),
                     lr=decay_lr(rng, count, "linear") if rng.integers(2) else None)  # fmt: skip


def memorised(rng: Rng) -> History:
    """Overfitting, with spikes of a training loss that is almost 0."""
    count = draw_count(rng, 400, 2000)
    train = 0.02 + 4 * np.exp(-np.arange(count) / (0.06 * count))
    for at in rng.integers(int(0.5 * count), count - 10, 4):
        train[at : at + 8] += rng.uniform(0.1, 0.5) * np.exp(-np.arange(8) / 4)
    at = np.linspace(0, 1, 13)
    val = 2.5 - 2.5 * np.minimum(at, 0.3) + 2 * np.maximum(0, at - 0.3)
    return build_log(noisy(rng, train, 0.01), val, every=1, eval_every=count // 12)


def flat_from_start(rng: Rng) -> History:
    """A loss that never moves, through noise of 1% to 6%."""
    count = draw_count(rng, 80, 600)
    lr = decay_lr(rng, count, str(rng.choice(["constant", "cosine", "linear"]))) if rng.integers(2) else None
    noise = rng.uniform(0.01, 0.05 if count < 150 else 0.06)
    return build_log(noisy(rng, np.full(count, rng.uniform(0.6, 11)), noise), every=draw_interval(rng), lr=lr)


def flat_after_first_epoch(rng: Rng) -> History:
    count = draw_count(rng, 6, 30)
    level = 10 ** rng.uniform(0, 2)
    train = noisy(rng, level * np.r_[rng.uniform(1.3, 3), rng.uniform(1, 1.1), np.ones(count - 2)], 0.003)
    val = noisy(rng, level * np.full(count, rng.uniform(0.9, 1.2)), rng.uniform(0.001, 0.004))
    return build_log(train, val, lr=np.full(count, 4e-5) if rng.integers(2) else None)


def stalled(rng: Rng, has_lr: bool = False) -> History:
    """A fall over the first 15%, then nothing."""
    count = draw_count(rng, 40, 800)
    start = 10 ** rng.uniform(0, 2)
    clean = start * (0.5 + 0.5 * np.exp(-np.arange(count) / (0.03 * count)))
    lr = np.full(count, 1e-3) if has_lr else None
    val = noisy(rng, clean[:: max(1, count // 20)], 0.002) if rng.integers(2) else None
    return build_log(noisy(rng, clean, rng.uniform(0.002, 0.03)), val, every=draw_interval(rng), lr=lr)


def hot_evaluations(rng: Rng) -> History:
    """A validation loss that is worse than its first value from then on, at random, while training does not fall."""
    count = draw_count(rng, 8, 30)
    val = rng.uniform(0.5, 3) * np.r_[1, 1 + rng.uniform(0.2, 0.8, count - 1)]
    train = rng.uniform(0.5, 3) * (1 + rng.uniform(0, 0.3, count)) if rng.integers(2) else None
    return build_log(train, val, every=100, eval_every=100, lr=np.full(count, 3e-3))


def drift_up(rng: Rng) -> History:
    count = draw_count(rng, 60, 600)
    clean = rng.uniform(1, 4) * (1 + rng.uniform(0.15, 0.4) * np.arange(count) / count)
    return build_log(noisy(rng, clean, rng.uniform(0.005, 0.03)), every=10, lr=np.full(count, 1e-3))


def steep_at_peak_lr(rng: Rng) -> History:
    """A run of a constant LR, in the log, that ends in the middle of its fall."""
    count = draw_count(rng, 40, 600)
    clean = rng.uniform(6, 10) * (1 + np.arange(count) / (0.1 * count)) ** -rng.uniform(0.2, 0.5)
    return build_log(noisy(rng, clean, 0.01), every=10, lr=np.full(count, 1e-3))


def _family(make: Callable[[Rng], History], labels: str = "", allowed: str = "") -> Family:
    split = [frozenset(filter(None, (part.strip() for part in text.split(",")))) for text in (labels, allowed)]
    return Family(make, *split)


HEALTHY = {
    "speedrun": _family(speedrun),
    "pretraining": _family(pretraining),
    "pretraining with LR": _family(partial(pretraining, has_lr=True)),
    "pretraining with LR and evaluations": _family(partial(pretraining, has_lr=True, has_val=True)),
    "fine-tune": _family(fine_tune),
    "staircase of epochs": _family(staircase),
    "a row per epoch": _family(epochs_log),
    "preference": _family(preference),
    "denoising": _family(denoising),
    "adversarial": _family(adversarial),
    "negative": _family(negative, allowed="noisy evaluation"),
    "scaled": _family(scaled, allowed="underfitting"),
    "half precision": _family(half_precision, allowed="spike"),  # skipped updates, named once
    "policy gradient": _family(policy_gradient),
    "healthy tail": _family(healthy_tail),
    "short": _family(short_log, allowed="noisy evaluation"),
    "odd row": _family(odd_row),
    "tiny batches": _family(tiny_batches),
}
FAULTY = {
    "training not finite": _family(not_finite, "divergence"),
    "validation not finite": _family(partial(not_finite, metric="val"), "divergence"),
    "norm not finite, loss zero": _family(norm_gone, "divergence"),
    "norm not finite, loss gone": _family(partial(norm_gone, loss="gone"), "divergence"),
    "norm not finite, loss still": _family(partial(norm_gone, loss="still"), "divergence"),
    "explosion in few rows": _family(explosion, "divergence, spike"),
    "explosion": _family(partial(explosion, rows=(20, 400)), "divergence", "warm-up too short"),
    "spike that comes back slowly": _family(lasting_spike, "spike, divergence"),
    "three evaluations": _family(few_evals_overfit, "overfitting"),
    "overfit": _family(overfit, "overfitting"),
    "memorised": _family(memorised, "overfitting"),
    "flat from the start": _family(flat_from_start, "never learnt, plateau"),
    "flat after the first epoch": _family(flat_after_first_epoch, "plateau, never learnt"),
    "stalled": _family(stalled, "plateau"),
    "stalled at a recorded LR": _family(partial(stalled, has_lr=True), "plateau"),
    "evaluations of too high an LR": _family(hot_evaluations, "learning rate too high, divergence, rising loss"),
    "drift up": _family(drift_up, "rising loss, divergence"),
    "steep at the peak LR": _family(steep_at_peak_lr, "underfitting"),
}  # fmt: skip


def make_foreign_log(family: str, seed: int) -> History:
    rng = np.random.default_rng([seed, *family.encode()])
    return (HEALTHY | FAULTY)[family].make(rng)
