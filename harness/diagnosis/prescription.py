"""From what is wrong with a run to what to try next: a sweep centred by the diagnoses, a longer run, or no search."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.core.events import Diagnosis
from harness.core.lr_keys import is_lr_key
from harness.diagnosis.history import History

BUG_KINDS = ("warm-up truncated", "incomparable", "vanishing gradients")
"""A search over these would search over a bug."""
NEVER = "never learnt"
"""A bug where weights that were trained before are no better than a guess; else it may be the LR, either way."""
LEARNT_SHARE = 0.6
"""Of a guess that ignores the input: what begins below it had learnt before. GPT-2 begins at 0.3 on English text, and
began at 0.85 where its weights were not loaded well (9.2 nats of 10.8)."""
NOT_SEARCHED = ("scheduler idle", "scheduler misled", "noisy evaluation", "throughput fell", "dominating layer")
"""Not mended by a search; told with what to try."""
LR_TOO_HIGH = ("learning rate too high", "divergence", "spike")
LR_TOO_LOW = "learning rate too low"
STANDS = "plateau"
UNSTABLE = ("warm-up too short", "divergence", "spike")
LONGER = "underfitting"

FIRST_TRIALS, TRIALS_PER_FURTHER_RANGE = 12, 8
"""For the first range, of which the sampler draws 10 before it proposes; for each further one."""
LENGTH_KEYS = ("loop.max_steps", "loop.epochs", "loop.max_tokens")


@dataclass(frozen=True)
class PrescribedOverride:
    """An override, and why."""

    override: str
    why: str

    @property
    def key(self) -> str:
        return self.override.partition("=")[0]


@dataclass(frozen=True)
class Prescription:
    """Ranges to search with settings that all trials share; no ranges for one run with these settings. A `refusal` says
    why nothing is to be tried before preflight."""

    ranges: tuple[PrescribedOverride, ...] = ()
    settings: tuple[PrescribedOverride, ...] = ()
    notes: tuple[str, ...] = ()
    refusal: str = ""

    @property
    def n_trials(self) -> int:
        return FIRST_TRIALS + TRIALS_PER_FURTHER_RANGE * (len(self.ranges) - 1)


def prescribe(history: History, diagnoses: Sequence[Diagnosis], params: Mapping[str, str]) -> Prescription:
    """What to try after a run of ours with these dotted parameters and diagnoses; what its experiment locks is left."""
    by_kind = {diagnosis.kind: diagnosis for diagnosis in reversed(diagnoses)}
    is_broken = _is_pretrained(params) and NEVER in by_kind and not _had_learnt(by_kind[NEVER], history)
    bugs = (*BUG_KINDS, NEVER) if is_broken else BUG_KINDS
    bug = next((by_kind[kind] for kind in bugs if kind in by_kind), None)
    if bug is not None:
        return Prescription(refusal=f"{bug.kind}: {bug.reason}")
    settings = tuple(_longer_run(params)) if LONGER in by_kind else ()
    if by_kind.keys() == {LONGER}:
        return Prescription(settings=settings)
    ranges = [
        *_lr_ranges(history, by_kind, params),
        *_warmup_range(by_kind, params),
        *_grad_clip_range(history, by_kind),
        *_regularization_ranges(by_kind, params),
    ]
    free = tuple(part for part in ranges if not _is_locked(part.key, params))
    locked = [f"{part.key} is locked by the experiment; it is not searched" for part in ranges if part not in free]
    aside = [_note_without_search(by_kind[kind]) for kind in NOT_SEARCHED if kind in by_kind]
    return Prescription(free, settings, (*locked, *aside))


def _lr_ranges(history: History, kinds: Collection[str], params: Mapping[str, str]) -> Iterator[PrescribedOverride]:
    """Of optimizer.lr, and of every other LR of the optimizer at its ratio to that."""
    lr, band = float(params["optimizer.lr"]), history.facts.lr_band
    if band is not None:
        low, high, why = *band, "the band of the range test of this experiment"
    elif LR_TOO_LOW in kinds:
        low, high, why = lr, 100 * lr, f"the run's {lr:g} was too low: from there up"
    elif any(kind in kinds for kind in LR_TOO_HIGH):
        low, high, why = lr / 100, lr, f"the run's {lr:g} was too high: from there down"
    elif NEVER in kinds or STANDS in kinds:
        why = f"the run's {lr:g} may be too low or too high: both sides of it; lr-range would tell which"
        low, high = lr / 100, 100 * lr
    else:
        low, high, why = lr / 10, 10 * lr, f"a decade on either side of the run's {lr:g}"
    for name, value in params.items():
        if is_lr_key(name):
            by = float(value) / lr
            yield PrescribedOverride(f"{name}={format_log_range(low * by, high * by)}", why)


def _warmup_range(kinds: Collection[str], params: Mapping[str, str]) -> Iterator[PrescribedOverride]:
    cause = next((kind for kind in UNSTABLE if kind in kinds), None)
    steps, share = params.get("schedule.warmup_steps", "None"), params.get("schedule.warmup_ratio", "None")
    if cause and steps != "None":
        yield PrescribedOverride(f"schedule.warmup_steps=int(interval({steps},{max(100, 4 * int(steps))}))", cause)
    elif cause and "schedule.warmup_ratio" in params:
        least = 0.0 if share == "None" else float(share)
        yield PrescribedOverride(f"schedule.warmup_ratio=interval({least:g},{min(1, max(0.2, 2 * least)):g})", cause)


def _grad_clip_range(history: History, kinds: Collection[str]) -> Iterator[PrescribedOverride]:
    norms = history["train/grad_norm"].values
    norms = norms[np.isfinite(norms)]
    if "clipping binds" in kinds and len(norms):
        high = float(np.percentile(norms, 90))
        why = f"clipping binds: from the 90th percentile of the norm, {high:.2g}, to none"
        yield PrescribedOverride(f"loop.grad_clip={high:.2g},{3 * high:.2g},null", why)


def _regularization_ranges(kinds: Collection[str], params: Mapping[str, str]) -> Iterator[PrescribedOverride]:
    if "overfitting" not in kinds:
        return
    decay = params.get("optimizer.weight_decay")
    if decay is not None:
        least = max(0.01, float(decay))
        yield PrescribedOverride(f"optimizer.weight_decay={format_log_range(least, 10 * least)}", "overfitting")
    for key in ("model.dropout", "lora.dropout"):
        if key in params:
            yield PrescribedOverride(f"{key}=0.0,0.1,0.2", "overfitting")


def _longer_run(params: Mapping[str, str]) -> Iterator[PrescribedOverride]:
    for key in LENGTH_KEYS:
        if params.get(key, "None") != "None":
            twice = 2 * float(params[key])
            yield PrescribedOverride(
                f"{key}={twice:.0f}" if twice % 1 == 0 else f"{key}={twice:g}", "the loss still fell at the end"
            )


def _note_without_search(diagnosis: Diagnosis) -> str:
    tries = f"; try {' or '.join(diagnosis.overrides)}" if diagnosis.overrides else ""
    return f"{diagnosis.kind}: no search mends it{tries}"


def _had_learnt(never: Diagnosis, history: History) -> bool:
    """Before the run that then gained little."""
    start, guess = never.evidence.get("start"), history.facts.unigram or history.facts.uniform
    return start is not None and guess is not None and start < LEARNT_SHARE * guess


def _is_pretrained(params: Mapping[str, str]) -> bool:
    return params.get("start.kind") in ("warm", "resume") or ".pretrained." in params.get("model._target_", "")


def _is_locked(key: str, params: Mapping[str, str]) -> bool:
    locked = params.get("locked", "[]").strip("[]").replace("'", "").split(", ")
    return any(name and f"{key}.".startswith(f"{name}.") for name in locked)


def format_log_range(low: float, high: float) -> str:
    """In Hydra's sweep syntax, its ends to one digit."""
    return f"tag(log,interval({low:.0e},{high:.0e}))"
