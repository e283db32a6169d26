"""Continue a run that was paused, interrupted or killed in its own folder, from its last intact checkpoint."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

from harness.core.checkpoint_names import checkpoint_name, list_saved_steps
from harness.core.distributed import ProcessGroup
from harness.core.effective_settings import EffectiveSettings
from harness.core.errors import ConfigError, DamageError
from harness.core.events import EvalEnd, PastRecord
from harness.core.files import find_intact_folder, stays_locked
from harness.core.task import Metric
from harness.record import entry_writer
from harness.record.metrics_file import METRICS_FILE, read_entries
from harness.record.past_record import read_past_record
from harness.record.trial_record import is_foreign
from harness.run.build import RunParts
from harness.run.initial_weights import match_weights
from harness.run.result import SHARED_FIELDS, RunResult
from harness.run.resume import SettingChange, describe_data, find_setting_changes
from harness.training.checkpoint import (
    WEIGHTS_FILE,
    find_checkpoint,
    find_damage,
    load_checkpoint,
    load_weights,
    read_counters,
    read_record_position,
)
from harness.training.loop import TrainingPlan

Entry = Mapping[str, Any]
FINAL = ("completed", "diverged")
"""Statuses of runs that are not continued: the result would be the same."""
MACHINE_SETTINGS = ("used.device", "used.devices", "used.threads")
"""Settings in effect that may differ where a run is continued on another machine."""


class CannotContinue(ConfigError):
    """Nothing intact is left to continue from. The run can start over: `clear_run_dir` empties its folder."""


@dataclass(frozen=True)
class Continuation:
    """The checkpoint that a run is continued from, its record by then, and the end of that record, if it has one."""

    folder: Path
    checkpoint: Path
    counters: Mapping[str, Any]
    start: Entry
    end: Entry | None
    past: PastRecord
    damaged: tuple[str, ...]


def find_continuation(folder: Path) -> Continuation | RunResult:
    """Return where the run in `folder` is continued, or its result if it has completed or diverged.

    Raises:
        CannotContinue: If no run was started there, or its record or all its checkpoints are missing or damaged.
        ConfigError: If another process is writing the run.
    """
    start, end = _read_ends(folder / METRICS_FILE)
    if stays_locked(folder / METRICS_FILE, entry_writer.LOCK_WAIT_S):
        raise ConfigError(f"{folder}: another process writes this run; wait for its end")
    if end is not None and end["status"] in FINAL:
        shared = {name: end[name] for name in SHARED_FIELDS}
        for name in ("best_val_loss", "test_loss"):  # infinity is a text
            shared[name] = None if shared[name] is None else float(shared[name])
        return RunResult(**shared, folder=folder, effective=EffectiveSettings.from_json(start["effective"]))
    problems: list[str] = []
    for checkpoint in _list_checkpoints(folder / "checkpoints"):
        try:
            counters, past = _read_checkpoint(checkpoint, folder)
            return Continuation(folder, checkpoint, counters, start, end, past, tuple(problems))
        except (ValueError, DamageError, OSError, KeyError, TypeError) as error:
            problems.append(str(error))
    reason = "; ".join(dict.fromkeys(problems)) or "there is none"
    raise CannotContinue(f"{folder}: no checkpoint from which the run can be continued: {reason}; start it over")


def _read_ends(path: Path) -> tuple[Entry, Entry | None]:
    """Return the start of a record, and its end if it has one; damage between them shows when the record is cut."""
    first: Entry | None = None
    last: Entry | None = None
    try:
        for entry, _ in read_entries(path):
            first, last = first or entry, entry
    except DamageError as error:
        if first is None:
            raise CannotContinue(f"{error}; start the run over") from error
    except OSError as error:
        raise CannotContinue(f"{path}: {error.strerror}; start the run over") from error
    if first is None or last is None or first["kind"] != "start" or is_foreign(first):
        raise CannotContinue(f"{path}: no run was started here; start it over")
    return first, last if last["kind"] == "end" else None


def _list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints by step, the last one first; the best one is as good as that of its step."""
    steps = {find_intact_folder(folder / checkpoint_name(step)): step for step in list_saved_steps(folder)}
    best = find_intact_folder(folder / "best")
    with suppress(ValueError):  # damaged
        steps[best] = read_counters(best)["step"]
    return sorted(steps, key=lambda path: steps[path], reverse=True)


def _read_checkpoint(checkpoint: Path, folder: Path) -> tuple[Mapping[str, Any], PastRecord]:
    """Return the counters of a checkpoint, and the record at that time.

    Raises:
        ValueError: If either is damaged, or the weights of the best loss are gone.
    """
    counters = read_counters(checkpoint)
    if damage := find_damage(checkpoint):
        raise ValueError(damage)
    past = read_past_record(folder / METRICS_FILE, counters["step"], read_record_position(checkpoint))
    has_best = counters["best_val_loss"] == inf or counters["best_step"] == counters["step"]
    if not has_best and find_checkpoint(folder / "checkpoints", counters["best_step"]) is None:
        raise ValueError(f"{checkpoint}: the weights of the best loss, of step {counters['best_step']}, are gone")
    return counters, past


def restore_parts(
    continued: Continuation, parts: RunParts, params: Mapping[str, str], processes: ProcessGroup
) -> tuple[RunParts, tuple[str, ...]]:
    """Restore the checkpoint into `parts`, whose configuration is `params`; return them, and messages for the user.

    Raises:
        ConfigError: If a setting has changed.
        CannotContinue: If the checkpoint does not fit the run, since the code or a library has changed.
    """
    changes = _find_changes(continued, parts, params)
    if forbidden := [change for change in changes if change.key not in MACHINE_SETTINGS]:
        [first, *_] = forbidden
        raise ConfigError(
            f"{continued.folder}: {first.key}: {first.after} was {first.before} when the run started; a run is "
            "continued with the same settings; use start=resume to change them in a new run"
        )
    try:
        match = match_weights(parts.state.model, load_weights(continued.checkpoint / WEIGHTS_FILE))
        if not match.is_complete:
            raise ValueError(match.summarize())
        load_checkpoint(parts.state, continued.checkpoint, rank=processes.rank)
    except ValueError as error:
        raise CannotContinue(f"{continued.checkpoint}: {error}; start the run over") from error
    recorded = EffectiveSettings.from_json(continued.start["effective"])
    effective = replace(parts.effective, first_step=recorded.first_step, lr_factor=recorded.lr_factor)
    plan = replace(parts.plan, first_step=recorded.first_step)
    notices = [f"skipped a damaged checkpoint: {problem}" for problem in continued.damaged]
    notices += [f"continued with {one.key}={one.after}, before {one.before}: bits may differ" for one in changes]
    return replace(parts, plan=plan, effective=effective), tuple(notices)


def _find_changes(continued: Continuation, parts: RunParts, params: Mapping[str, str]) -> list[SettingChange]:
    """Return the settings that differ from those that the run started with."""
    before = continued.start["params"]
    keys = [key for key in {**before, **params} if key.startswith("start.")]
    started = [SettingChange(key, before.get(key, "-"), params.get(key, "-")) for key in keys]
    after = {**params, **parts.effective.to_params(), **describe_data(parts.task.dataset)}
    changes = find_setting_changes(continued.start, after)
    return [*changes, *(one for one in started if one.before != one.after)]


def find_undecided(continued: Continuation, plan: TrainingPlan) -> EvalEnd | None:
    """Return the evaluation at the step of the checkpoint if the run may have died before its policies saw it."""
    if continued.end is not None and continued.end["status"] == "paused":
        return None
    for entry in reversed(continued.past.entries):
        if entry["kind"] == "spike":  # a rollback, after which the same step was saved again
            return None
        if "val/loss" in entry.get("metrics", {}):
            return _read_evaluation(entry, continued.counters, plan) if entry["step"] == continued.past.step else None
    return None


def _read_evaluation(entry: Entry, counters: Mapping[str, Any], plan: TrainingPlan) -> EvalEnd:
    """Return the evaluation that was recorded just before a checkpoint with these counters was saved."""
    step, values = entry["step"], entry["metrics"]
    names = [name.removeprefix("val/") for name in entry["units"]]
    norms = {name.removeprefix("grad_norm/"): norm for name, norm in values.items() if name.startswith("grad_norm/")}
    is_probe = step != plan.first_step and step not in plan.eval_steps
    return EvalEnd(
        step=step,
        tokens=entry["tokens"],
        metrics={
            name: Metric(values[f"val/{name}"], entry["units"][f"val/{name}"], values.get(f"val/{name}_se"))
            for name in names
        },
        best_val_loss=counters["best_val_loss"],
        best_step=counters["best_step"],
        is_best=counters["best_step"] == step and not is_probe,
        evals_since_best=counters["evals_since_best"],
        fraction_done=(step - plan.first_step) / (plan.total_steps - plan.first_step),
        seconds=0.0,  # not recorded
        grad_norms=norms,
        is_probe=is_probe,
    )
