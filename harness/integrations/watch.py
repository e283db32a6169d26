"""Diagnosis of a training loop of your own: `with harness.watch(...) as run`, and `run.log(...)` in the loop."""

import math
from collections.abc import Collection
from types import TracebackType
from typing import Any, Self

from harness.core.events import Diagnosis
from harness.core.ranks import count_processes, is_first_process
from harness.diagnosis.history import RunFacts
from harness.importers.metric_aliases import canonical_name
from harness.integrations.live_diagnosis import LoopDiagnosis, disable_on_error, parse_stop_kinds
from harness.integrations.loop_steps import LoopSteps

LOGGED_NAMES = ("loss", "val_loss", "lr", "grad_norm", "clip_fraction", "tokens", "epoch")
MAX_PENDING = 10
"""Rows with tensors on a GPU that are kept before they are read, which waits for the GPU."""
READS_PER_AGREEMENT = 10
"""Reads of `should_stop` for which processes ask each other once: asking at each step would cost time."""


def watch(
    total_steps: int | None = None,
    lr: float | None = None,
    *,
    total_epochs: float | None = None,
    warmup_steps: float | None = None,
    grad_clip: float | None = None,
    stop_on: Collection[str] | str = (),
    quiet: bool = False,
) -> "WatchedRun":
    """Diagnose a training while it runs; print each finding once, and a summary at the end.

    Args:
        total_steps: Length of the run. If it is unknown, a plateau is only looked for at the end.
        lr: The peak learning rate.
        total_epochs: Instead of `total_steps`, for a loop that logs epochs only.
        warmup_steps: Of the learning rate.
        grad_clip: The norm that gradients are clipped to.
        stop_on: Kinds of diagnoses that set `run.should_stop`, such as {"divergence"}.
        quiet: Print nothing; `run.log` returns what was found.

    Raises:
        TypeError: If a setting is of another type.
        ValueError: If a number is not positive, or a name in `stop_on` is no diagnosis.
    """
    lengths = {"total_steps": total_steps, "total_epochs": total_epochs}
    for name, value in {**lengths, "lr": lr, "warmup_steps": warmup_steps, "grad_clip": grad_clip}.items():
        check_number(f"watch: {name}", value)
        if value is not None and (value < 0 or (name in lengths and not 0 < value < math.inf)):
            raise ValueError(f"watch: {name}: {value!r} is not positive; leave it out if it is unknown")
    length = ("loop.epochs", total_epochs) if total_epochs else None
    facts = RunFacts(
        total_steps=total_steps, peak_lr=lr, requested_warmup=warmup_steps, grad_clip=grad_clip, length=length
    )
    return WatchedRun(facts, total_epochs, parse_stop_kinds(stop_on), quiet)


class WatchedRun:
    """A training loop under diagnosis; see `watch`. Use it in a `with` statement, or call `close` at the end.

    Only the first of several processes diagnoses and prints; the others may call `log` or not.
    """

    def __init__(self, facts: RunFacts, total_epochs: float | None, stop_kinds: Collection[str], quiet: bool) -> None:
        self.is_disabled = self._is_closed = False
        self._is_main = is_first_process()
        self._stop_kinds, self._reads, self._is_stopped = stop_kinds, 0, False
        self._loop = LoopDiagnosis(facts, stop_on=stop_kinds, quiet=quiet)
        self._steps = LoopSteps(total_epochs)
        self._pending: list[tuple[int, dict[str, Any]]] = []

    @property
    def diagnoses(self) -> list[Diagnosis]:
        """Return everything found so far."""
        return self._loop.found

    @property
    def should_stop(self) -> bool:
        """Return whether a diagnosis in `stop_on` was found.

        With several processes they all get the answer of the first one, so each has to read it equally often.
        """
        if not self._stop_kinds:
            return False
        self._reads += 1
        if count_processes() == 1:
            self._is_stopped = self._loop.stop_kind is not None
        elif not self._is_stopped and self._reads % READS_PER_AGREEMENT == 0:
            from harness.core.distributed import is_true_anywhere  # loads torch, which this loop uses already

            self._is_stopped = is_true_anywhere(self._loop.stop_kind is not None)
        return self._is_stopped

    def log(self, step: int | None = None, *, epoch: float | None = None, **values: Any) -> list[Diagnosis]:
        """Note numbers of a step, or of an epoch if the loop counts no steps; return what was not found before.

        The names are loss, val_loss, lr, grad_norm (before clipping), clip_fraction and tokens (so far), or what other
        programs call these. Values may be tensors of one element; those on a GPU are read later, so that no step waits
        for them. None is skipped.

        Raises:
            TypeError: For a name that stands for none of these, or a value or place that is no number.
            ValueError: For a place that is not finite, or a step after rows that had only epochs.
        """
        unknown = [name for name in values if canonical_name(name) in (None, "step", "epoch")]
        if unknown:
            raise TypeError(f"run.log: {unknown[0]!r} is no metric it knows; the names are {', '.join(LOGGED_NAMES)}")
        if step is None and epoch is None:
            raise TypeError("run.log: give a step, or an epoch if the loop counts no steps: run.log(step, loss=loss)")
        for name, place in (("step", step), ("epoch", epoch)):
            check_number(f"run.log: {name}", place)
            if place is not None and not math.isfinite(place):
                raise ValueError(f"run.log: {name}: {place!r} is no place in a run; count from 0 or 1")
        numbers = {name: to_number(name, value) for name, value in values.items() if value is not None}
        if not self._is_main or not numbers:
            return []
        is_training_row = any(canonical_name(name) == "train/loss" for name in numbers)
        row = self._steps.number_row(step, epoch, is_training_row)
        return self._record(row, numbers) or []

    def close(self, is_complete: bool | None = None) -> None:
        """Print the summary; by default, the run is complete if the last step or epoch was logged."""
        if self._is_main and not self._is_closed:
            self._conclude(is_complete)
        self._is_closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None and not self._pending and not self._loop.has_rows():
            self._is_closed = True  # nothing to say, and the error says enough
        self.close(None if kind is None else False)

    @disable_on_error
    def _record(self, step: int, numbers: dict[str, Any]) -> list[Diagnosis]:
        self._pending.append((step, numbers))
        if len(self._pending) < MAX_PENDING and any(hasattr(value, "detach") for value in numbers.values()):
            return []
        return self._read_pending()

    def _read_pending(self) -> list[Diagnosis]:
        rows, self._pending = self._pending, []
        self._loop.change_facts(**self._steps.find_facts())
        return [
            diagnosis
            for step, numbers in rows
            for diagnosis in self._loop.add_row(step, {name: float(value) for name, value in numbers.items()})
        ]

    @disable_on_error
    def _conclude(self, is_complete: bool | None) -> None:
        self._read_pending()
        if is_complete is None:
            is_complete = not self._is_stopped and self._loop.has_reached_end()
        self._loop.conclude(is_complete, self._is_stopped and not is_complete)


def check_number(name: str, value: Any) -> None:
    """Refuse what is neither a number nor None.

    Raises:
        TypeError: If the value is text, a list or the like.
    """
    is_number = hasattr(value, "__float__") and not isinstance(value, bool)
    if value is not None and not is_number:
        raise TypeError(f"{name}: {value!r} is a {type(value).__name__}, not a number; give a number or leave it out")


def to_number(name: str, value: Any) -> Any:
    """Return a float, or a copy of a tensor on a GPU, which is converted later.

    Raises:
        TypeError: If the value is neither a number nor a tensor of one element.
    """
    if hasattr(value, "detach"):
        value = value.detach()
        if value.numel() == 1 and value.device.type != "cpu":
            return value.clone()  # the loop may change its own in place
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
        raise TypeError(f"run.log: {name}: a {type(value).__name__}{shape} is no number; give the mean") from None
