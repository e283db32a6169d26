"""Next steps after a run: ranges for a sweep, a longer run, or preflight first."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.core.events import Diagnosis
from harness.core.lr_keys import is_lr_key
from harness.diagnosis.dialects import to_override
from harness.diagnosis.history import History
from harness.diagnosis.lr_band import LRBand
from harness.diagnosis.run_facts import LENGTH_KEYS
from harness.diagnosis.suggestions import double_length

BUG_KINDS = ("warm-up truncated", "incomparable", "vanishing gradients")  # searching over these is a waste
NOT_SEARCHED = ("scheduler idle", "scheduler misled", "noisy evaluation", "throughput fell", "dominating layer")
LR_TOO_HIGH = ("learning rate too high", "divergence", "spike")
LR_UNCLEAR = ("never learnt", "plateau")
LR_CAUSES = ("learning rate too low", *LR_TOO_HIGH, *LR_UNCLEAR)
UNSTABLE = ("warm-up too short", "divergence", "spike")

# Weights with an initial loss below this fraction of a guess that ignores the input were well trained before. GPT-2
# starts at 0.3 on English text, and at 0.85 if its weights are loaded wrongly (9.2 of 10.8 nats).
LEARNT_FRACTION = 0.6

NEAR_FACTOR = 3.0  # between the LR of a run and the best one of a range test; whole runs did best within a factor of 2

LEAST_RANGE = 10.0  # of the highest to the lowest LR of a guess

SGD = "torch.optim.SGD"
OPTIMIZER_SWEEP = "optimizers"  # in sweeps/: it has the usual LRs of each optimizer

FIRST_TRIALS, TRIALS_PER_FURTHER_RANGE = 12, 8  # the sampler draws the first 10 at random


@dataclass(frozen=True)
class PrescribedOverride:
    """An override and its reason."""

    override: str
    why: str

    @property
    def key(self) -> str:
        return self.override.partition("=")[0]


@dataclass(frozen=True)
class Prescription:
    """Ranges to search, and settings shared by all trials; without ranges, a single run with these settings.

    `sweeps` is the file with the ranges of what depends on a searched choice. With `is_guess`, no diagnosis and no
    range test says what to search. A `refusal` says why nothing should be searched before preflight passes.
    """

    ranges: tuple[PrescribedOverride, ...] = ()
    settings: tuple[PrescribedOverride, ...] = ()
    notes: tuple[str, ...] = ()
    refusal: str = ""
    sweeps: str = "none"
    is_guess: bool = False

    @property
    def n_trials(self) -> int:
        return FIRST_TRIALS + TRIALS_PER_FURTHER_RANGE * (len(self.ranges) - 1)


def prescribe(
    history: History,
    diagnoses: Sequence[Diagnosis],
    params: Mapping[str, str],
    band: LRBand | None = None,
    usual_lrs: tuple[float, float] | None = None,
    *,
    may_switch: bool = False,
) -> Prescription:
    """Return what to try after a run with these diagnoses and dotted parameters, except what its experiment locks.

    `band` is that of a range test of the same configuration. Without one, a guess is kept within the `usual_lrs` of the
    optimizer, on the sides on which the run's LR lies within them. `may_switch` says that another optimizer may be
    searched too.
    """
    by_kind = {diagnosis.kind: diagnosis for diagnosis in reversed(diagnoses)}
    bugs = [kind for kind in BUG_KINDS if kind in by_kind]
    if "never learnt" in by_kind and _is_bug(by_kind["never learnt"], params, history):
        bugs.append("never learnt")
    if bugs:
        return Prescription(refusal=f"{bugs[0]}: {by_kind[bugs[0]].reason}")
    settings = tuple(_longer_run(params)) if "underfitting" in by_kind else ()
    has_good_lr = band is None or "optimizer.lr" not in params or _is_near(float(params["optimizer.lr"]), band.best_lr)
    if by_kind.keys() == {"underfitting"} and has_good_lr:
        return Prescription(settings=settings)
    optimizers = list(_optimizer_ranges(by_kind, params)) if may_switch and band is None else []
    ranges = [
        *(optimizers or _lr_ranges(band, by_kind, params, usual_lrs)),
        *([] if optimizers else _warmup_range(by_kind, params)),
        *_grad_clip_range(history, by_kind),
        *_regularization_ranges(by_kind, params),
    ]
    free = tuple(part for part in ranges if not _is_locked(part.key, params))
    notes = [f"{part.key} is locked by the experiment and not searched" for part in ranges if part not in free]
    for kind in NOT_SEARCHED:
        if kind in by_kind:
            tries = " or ".join(to_override(one) for one in by_kind[kind].suggestions if one.is_setting)
            notes.append(f"{kind}: a sweep does not help{f'; try {tries}' if tries else ''}")
    causes = [kind for kind in LR_CAUSES if kind in by_kind] or [one for one in free if not is_lr_key(one.key)]
    sweeps = OPTIMIZER_SWEEP if optimizers else "none"
    return Prescription(free, settings, tuple(notes), sweeps=sweeps, is_guess=band is None and not causes)


def _lr_ranges(
    band: LRBand | None, kinds: Collection[str], params: Mapping[str, str], usual_lrs: tuple[float, float] | None
) -> Iterator[PrescribedOverride]:
    if "optimizer.lr" not in params:  # such as an optimizer of the user's own
        return
    lr = float(params["optimizer.lr"])
    if band is not None:
        low, high, why = *band.search_range, f"around {band.best_lr:.1e}, the best LR of the range test"
    elif "learning rate too low" in kinds:
        low, high, why = lr, 100 * lr, f"{lr:g} was too low: search upwards"
    elif any(kind in kinds for kind in LR_TOO_HIGH):
        low, high, why = lr / 100, lr, f"{lr:g} was too high: search downwards"
    elif any(kind in kinds for kind in LR_UNCLEAR):
        low, high, why = lr / 100, 100 * lr, f"{lr:g} may be too low or too high: search both sides, or run lr-range"
        if usual_lrs is not None and not _is_fully_tuned(params):
            low, high = _keep_within(usual_lrs, lr, low, high)
    else:
        low, high, why = lr / 10, 10 * lr, f"a decade on either side of {lr:g}"
    yield from (PrescribedOverride(override, why) for override in format_lr_ranges(low, high, params))


def _optimizer_ranges(kinds: Collection[str], params: Mapping[str, str]) -> Iterator[PrescribedOverride]:
    """Yield the ranges that add AdamW, for a run that SGD hardly trained; OPTIMIZER_SWEEP has those of the LRs."""
    is_stuck = any(kind in kinds for kind in ("learning rate too low", *LR_UNCLEAR))
    locked = any(f"{name}.".startswith("optimizer.") for name in _list_locked(params))
    if params.get("optimizer._target_") != SGD or not is_stuck or locked:
        return
    why = "SGD hardly trained it: AdamW too, each at its usual LRs"
    yield PrescribedOverride("optimizer=sgd,adamw", why)
    if "schedule.warmup_ratio" in params:
        yield PrescribedOverride("schedule.warmup_ratio=interval(0.0,0.2)", "AdamW usually needs a warm-up")


def _keep_within(usual: tuple[float, float], lr: float, low: float, high: float) -> tuple[float, float]:
    """Return the guessed range around `lr` without its unusual part, unless that leaves less than a decade."""
    kept_low = max(low, usual[0]) if usual[0] <= lr else low
    kept_high = min(high, usual[1]) if lr <= usual[1] else high
    return (kept_low, kept_high) if kept_high >= LEAST_RANGE * kept_low else (low, high)


def _is_near(lr: float, best_lr: float) -> bool:
    return best_lr / NEAR_FACTOR <= lr <= best_lr * NEAR_FACTOR


def _warmup_range(kinds: Collection[str], params: Mapping[str, str]) -> Iterator[PrescribedOverride]:
    cause = next((kind for kind in UNSTABLE if kind in kinds), None)
    steps, ratio = params.get("schedule.warmup_steps", "None"), params.get("schedule.warmup_ratio", "None")
    if cause and steps != "None":
        yield PrescribedOverride(f"schedule.warmup_steps=int(interval({steps},{max(100, 4 * int(steps))}))", cause)
    elif cause and "schedule.warmup_ratio" in params:
        low = 0.0 if ratio == "None" else float(ratio)
        yield PrescribedOverride(f"schedule.warmup_ratio=interval({low:g},{min(1, max(0.2, 2 * low)):g})", cause)


def _grad_clip_range(history: History, kinds: Collection[str]) -> Iterator[PrescribedOverride]:
    norms = history["train/grad_norm"].values
    norms = norms[np.isfinite(norms)]
    if "clipping binds" in kinds and len(norms):
        p90 = float(np.percentile(norms, 90))
        why = f"clipping binds: from the 90th percentile of the norm, {p90:.2g}, to no clipping"
        yield PrescribedOverride(f"loop.grad_clip={p90:.2g},{3 * p90:.2g},null", why)


def _regularization_ranges(kinds: Collection[str], params: Mapping[str, str]) -> Iterator[PrescribedOverride]:
    if "overfitting" not in kinds:
        return
    if "optimizer.weight_decay" in params:
        low = max(0.01, float(params["optimizer.weight_decay"]))
        yield PrescribedOverride(f"optimizer.weight_decay={format_log_range(low, 10 * low)}", "overfitting")
    for key in ("model.dropout", "lora.dropout"):
        if key in params:
            yield PrescribedOverride(f"{key}=0.0,0.1,0.2", "overfitting")


def _longer_run(params: Mapping[str, str]) -> Iterator[PrescribedOverride]:
    for key in LENGTH_KEYS:
        if params.get(key, "None") != "None":
            override = to_override(double_length(key, float(params[key])))
            yield PrescribedOverride(override, "the loss still fell at the end")


def _is_bug(never_learnt: Diagnosis, params: Mapping[str, str], history: History) -> bool:
    """Return whether no LR can help: the loss is always 0, or pretrained weights started no better than a guess."""
    start, guess = never_learnt.evidence.get("start"), history.facts.unigram_loss or history.facts.uniform_loss
    if start == never_learnt.evidence.get("best") == 0:
        return True
    had_learnt = isinstance(start, float) and guess is not None and start < LEARNT_FRACTION * guess
    return _is_pretrained(params) and not had_learnt


def _is_pretrained(params: Mapping[str, str]) -> bool:
    return params.get("start.kind") in ("warm", "resume") or ".pretrained." in params.get("model._target_", "")


def _is_fully_tuned(params: Mapping[str, str]) -> bool:
    """Return whether all pretrained weights are trained, which takes lower LRs than adapters or random weights do."""
    return _is_pretrained(params) and not any(key.startswith("lora.") for key in params)


def _is_locked(key: str, params: Mapping[str, str]) -> bool:
    return any(f"{key}.".startswith(f"{name}.") for name in _list_locked(params))


def _list_locked(params: Mapping[str, str]) -> list[str]:
    return [name for name in params.get("locked", "[]").strip("[]").replace("'", "").split(", ") if name]


def format_lr_ranges(low: float, high: float, params: Mapping[str, str]) -> list[str]:
    """Return overrides that search optimizer.lr in a band, and the optimizer's other LRs at their ratio to it."""
    lr = float(params["optimizer.lr"])
    ratios = {key: float(value) / lr for key, value in params.items() if is_lr_key(key)}
    return [f"{key}={format_log_range(low * ratio, high * ratio)}" for key, ratio in ratios.items()]


def format_log_range(low: float, high: float) -> str:
    """Return a logarithmic range in Hydra's sweep syntax, rounded to one digit."""
    return f"tag(log,interval({low:.0e},{high:.0e}))"
