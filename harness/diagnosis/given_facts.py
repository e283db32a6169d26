"""Facts of a run that its log lacks, as a user states them."""

import difflib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from harness.core.errors import did_you_mean
from harness.diagnosis.history import History

TOLERANCE = 0.01  # two values that differ by less are the same
OPTIMIZER_NAME = re.compile(r"[A-Za-z_][\w.-]*")
OPTIMIZERS = (
    "Adam", "AdamW", "NAdam", "NAdamW", "RAdam", "Adamax", "Adadelta", "Adagrad", "Adafactor", "Adan", "SGD", "ASGD",
    "SparseAdam", "RMSprop", "Rprop", "LBFGS", "Muon", "Lion", "LAMB", "LARS", "SOAP", "Shampoo", "Sophia", "Prodigy",
)  # fmt: skip
MIN_LIKENESS = 0.85  # of a name to one of them, as difflib counts it
NEEDS_STEPS = ("warmup_steps", "batch_tokens", "total_steps")


@dataclass(frozen=True)
class GivenFacts:
    """Facts by the name of their option; None where not given."""

    lr: float | None = None  # peak
    optimizer: str | None = None
    warmup_steps: int | None = None
    vocabulary: int | None = None  # number of tokens
    batch_tokens: int | None = None  # tokens of a step, over all devices
    total_steps: int | None = None


def add_given_facts(history: History, given: GivenFacts) -> list[str]:
    """Add the given facts to those of the history, over what a log of another program says; return notes.

    Raises:
        ValueError: If a run of ours records another value, or the log has more steps than `total_steps`.
    """
    if given.total_steps is not None and _has_steps(history) and given.total_steps < history.last_step:
        raise ValueError(
            f"--total-steps: {given.total_steps} is less than the {history.last_step} steps in "
            f"{history.facts.name or 'the log'}; give the length of the whole run"
        )
    notes = list(_find_unusable(history, given))
    changes = _to_run_facts(history, given)
    kept = {"peak_lr"} if len(history["train/lr"]) else set()  # the log shows what was in effect
    for name, (option, value) in changes.items():
        recorded = _get_recorded(history, name, value)
        if recorded is None or _is_same(recorded, value):
            continue
        difference = f"--{option}: {_format(name, value)} is given, but the log says {_format(name, recorded)}"
        if history.facts.program == "harness":
            raise ValueError(f"{difference}, which was in effect in {history.facts.name}; leave the option out")
        notes.append(f"{difference}; the {'recorded' if name in kept else 'given'} value is used")
    history.facts = replace(history.facts, **{name: value for name, (_, value) in changes.items() if name not in kept})
    return notes


def parse_number(text: str) -> float:
    """Return a positive number.

    Raises:
        ValueError: If it is none.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f"{text!r} is not a positive number; write it as in 3e-4 or 50257")
    return number


def parse_count(text: str) -> int:
    """Return a positive integer; 1e6 is one.

    Raises:
        ValueError: If it is none.
    """
    number = parse_number(text)
    if not number.is_integer():
        raise ValueError(f"{text!r} is not a whole number; write it as in 500 or 1e6")
    return int(number)


def parse_warmup(text: str) -> int:
    """Return a number of steps; 0 is no warm-up.

    Raises:
        ValueError: If it is not 0 or a positive integer.
    """
    return 0 if text.strip() == "0" else parse_count(text)


def parse_vocabulary(text: str) -> int:
    """Return a number of tokens.

    Raises:
        ValueError: If it is not an integer above 1.
    """
    if (count := parse_count(text)) < 2:
        raise ValueError(f"{text!r} is no vocabulary; give its number of tokens, such as 50257")
    return count


def parse_optimizer(text: str) -> str:
    """Return the name of an optimizer's class.

    Raises:
        ValueError: If it cannot be one.
    """
    if not OPTIMIZER_NAME.fullmatch(text):
        raise ValueError(f"{text!r} is not the name of an optimizer; write it as in AdamW or SGD")
    return text


def _has_steps(history: History) -> bool:
    return history.facts.steps_unit == "steps"


def _find_unusable(history: History, given: GivenFacts) -> Iterator[str]:
    """Yield why a fact that counts steps is of no use, and the name of an optimizer that may be misspelt."""
    for name in NEEDS_STEPS:
        if getattr(given, name) is not None and not _has_steps(history):
            yield f"--{name.replace('_', '-')} is not used: the log counts {history.facts.steps_unit}, not steps"
    if given.optimizer and (hint := _correct_optimizer(given.optimizer)):
        yield f"--optimizer: {given.optimizer!r} is not known{hint}"
    if given.batch_tokens is not None and len(history["train/tokens"]) > 1:
        yield "--batch-tokens is not used: the log has the number of tokens"


def _correct_optimizer(name: str) -> str:
    """Return a hint if a name is almost that of an optimizer; it may also be one that is not in the list."""
    if name.lower() in map(str.lower, OPTIMIZERS):
        return ""
    close = difflib.get_close_matches(name, OPTIMIZERS, n=1, cutoff=MIN_LIKENESS)
    return did_you_mean(name, close)


def _to_run_facts(history: History, given: GivenFacts) -> dict[str, tuple[str, Any]]:
    """Return the option and the value for each field of `RunFacts` that is given."""
    changes: dict[str, tuple[str, Any]] = {
        "peak_lr": ("lr", given.lr),
        "optimizer": ("optimizer", given.optimizer),
        "uniform_loss": ("vocabulary", math.log(given.vocabulary) if given.vocabulary else None),
    }
    if _has_steps(history):
        changes |= {
            "total_steps": ("total-steps", given.total_steps),
            "requested_warmup": ("warmup-steps", given.warmup_steps),
            # with a recorded LR its curve shows the steps that were in effect
            "warmup_steps": ("warmup-steps", None if len(history["train/lr"]) else given.warmup_steps),
            "tokens_per_step": ("batch-tokens", given.batch_tokens),
        }
    return {name: change for name, change in changes.items() if change[1] is not None}


def _get_recorded(history: History, name: str, given: Any) -> Any:
    """Return what the log says of a fact, for the peak LR also by its curve."""
    recorded, lrs = getattr(history.facts, name), history["train/lr"].values
    return float(lrs.max()) if name == "peak_lr" and recorded is None and len(lrs) else recorded


def _is_same(recorded: Any, given: Any) -> bool:
    if isinstance(recorded, str):
        return recorded.lower() == str(given).lower()
    return math.isclose(recorded, given, rel_tol=TOLERANCE)


def _format(name: str, value: Any) -> str:
    if name == "uniform_loss":
        return f"a uniform guess of {value:.4g}"
    return value if isinstance(value, str) else f"{value:.4g}"
