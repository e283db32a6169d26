"""Resume a run from a checkpoint: find it, restore the state, and report what has changed since."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

from torch import nn

from harness.config.compose import NON_TRAINING_KEYS
from harness.config.schema import RunSettings
from harness.core import seeding
from harness.core.distributed import ProcessGroup
from harness.core.effective_settings import EffectiveSettings
from harness.core.errors import ConfigError, DamageError
from harness.core.files import is_locked, remove_leftovers
from harness.core.lr_keys import is_lr_key
from harness.core.objective_keys import select_objective_settings
from harness.core.state import ObservingSchedule, TrainState, find_broken_tie
from harness.core.task import Task
from harness.models import untie_head
from harness.record import metrics_file
from harness.record.run_lookup import find_run, read_mlflow_run_id
from harness.record.trial_record import check_own_run
from harness.run.build import RunParts
from harness.run.initial_weights import match_weights
from harness.training.checkpoint import (
    WEIGHTS_FILE,
    choose_checkpoint,
    find_checkpoint,
    load_checkpoint,
    load_weights,
    read_counters,
)

# Sections of which the settings in effect show what has changed.
SEEN_IN_EFFECT = ("start", "device")
VALIDATION_KEY = "data.validation_digest"
# Keys that every resumed run changes.
RESUMED_ONLY = ("used.first_step", "used.schedule_start_step", "used.lr_factor")


@dataclass(frozen=True)
class ResumePoint:
    """The checkpoint that a run resumes from.

    `recorded` is the start entry of the resumed run's metrics file. `damaged` describes the later checkpoints that were
    skipped because they are damaged.
    """

    folder: Path
    checkpoint: Path
    counters: Mapping[str, Any]
    recorded: Mapping[str, Any]
    restarts_schedule: bool
    damaged: tuple[str, ...]

    @property
    def step(self) -> int:
        return self.counters["step"]

    def schedule_start_step(self, settings: RunSettings, task: Task) -> int:
        """Return the step from which the schedule and the length of the run count.

        If the number of steps per epoch has changed, the part already done is converted to steps of the new length.
        """
        if self.restarts_schedule:
            return self.step
        old_batch_size = self.recorded["effective"]["batch_size"]
        old, new = self.counters["examples_per_epoch"] / old_batch_size, task.examples / settings.batch.batch_size
        if settings.loop.max_steps is not None or old == new:
            return self.counters["schedule_start_step"]
        return self.step - round((self.step - self.counters["schedule_start_step"]) / old * new)


@dataclass(frozen=True)
class SettingChange:
    key: str
    before: str
    after: str


@dataclass(frozen=True)
class RestoredRun:
    """A resumed run: its parts, the settings that changed, and the checkpoint with the best loss so far, if any."""

    parts: RunParts
    changes: list[SettingChange]
    best: Path | None


class MisfitError(ConfigError):
    """The weights or the moments in the checkpoint have other shapes than those of the run."""


class NoStepLeft(ConfigError):
    """The run to resume has taken all its steps. Nothing is left to do if `is_unchanged`, but to record its end."""

    def __init__(self, resumed: ResumePoint, total_steps: int, is_unchanged: bool) -> None:
        super().__init__(
            f"loop: the checkpoint is at step {resumed.step} and the run ends at step {total_steps}; increase the "
            "number of steps, or count steps from the checkpoint with start.restart_schedule=true"
        )
        self.folder, self.recorded, self.is_unchanged = resumed.folder, resumed.recorded, is_unchanged


def find_resume_point(settings: RunSettings) -> ResumePoint | None:
    """Return the checkpoint that `start.run` and `start.checkpoint` name, or None if the run does not resume another.

    Raises:
        ConfigError: If there is no intact checkpoint.
    """
    start = settings.start
    if not start.run:
        return None
    run = find_run(start.run, settings.output_dir, "start.run")
    check_own_run(run, "start.run")
    if not (run / "checkpoints").is_dir() or not (run / metrics_file.METRICS_FILE).is_file():
        raise ConfigError(
            f"start.run: {run}: contains no checkpoints of a run; use the folder with {metrics_file.METRICS_FILE}"
        )
    try:
        recorded = next(
            entry for entry, _ in metrics_file.read_entries(run / metrics_file.METRICS_FILE) if entry["kind"] == "start"
        )
        checkpoint, faults = choose_checkpoint(run / "checkpoints", start.checkpoint)
        saved = read_counters(checkpoint)
    except StopIteration:
        raise ConfigError(f"start.run: {run / metrics_file.METRICS_FILE} is empty: the run never started") from None
    except DamageError as error:
        raise ConfigError(f"start.run: {error}") from error
    except ValueError as error:
        raise ConfigError(f"start.checkpoint: {error}") from error
    return ResumePoint(run, checkpoint, saved, recorded, start.restart_schedule, tuple(faults))


def remove_drafts(run: Path) -> None:
    """Remove the checkpoints that a killed process was writing or removing, unless another one still writes the run."""
    if is_locked(run / metrics_file.METRICS_FILE) is False:
        remove_leftovers(run / "checkpoints")


def match_head_tying(checkpoint: Path, model: nn.Module) -> None:
    """Untie the head of `model` if the head in the checkpoint is untied."""
    if find_broken_tie(model, load_weights(checkpoint / WEIGHTS_FILE)) and hasattr(model, "get_output_embeddings"):
        untie_head(model)


def restore_run(
    resumed: ResumePoint, parts: RunParts, params: Mapping[str, str], processes: ProcessGroup
) -> RestoredRun:
    """Restore the state of the checkpoint into `parts`, whose configuration is `params`.

    Optimizer moments come from the checkpoint, settings such as the LR from the configuration.

    Raises:
        ConfigError: If the checkpoint does not fit the run.
    """
    state, total_steps = parts.state, parts.plan.total_steps
    after = {**params, **parts.effective.to_params(), **describe_data(parts.task.dataset)}
    changes = list(find_setting_changes(resumed.recorded, after))
    may_only_test = parts.test_task is not None and resumed.step == total_steps
    if resumed.step >= total_steps and not may_only_test:
        raise NoStepLeft(resumed, total_steps, is_unchanged=not changes)
    match = match_weights(state.model, load_weights(resumed.checkpoint / WEIGHTS_FILE))
    if not match.is_complete:
        raise MisfitError(
            f"start.run: {resumed.checkpoint}: another architecture ({match.summarize()}); use the model and lora of "
            "that run, or load only the weights that fit: start=warm start.source=…"
        )
    built, built_rng = replace(state, schedule=deepcopy(state.schedule)), seeding.get_rng_state()
    try:
        load_checkpoint(state, resumed.checkpoint, rank=processes.rank)
    except ValueError as error:
        raise MisfitError(f"start.run: {resumed.checkpoint}: {error}") from error
    _adapt_state(state, built, resumed, changes)
    if any(change.key == "seed" for change in changes):
        seeding.set_rng_state(built_rng)
    best = find_checkpoint(resumed.folder / "checkpoints", state.best_step) if state.best_val_loss < inf else None
    if best is None and may_only_test:
        raise ConfigError(f"score_test: true: {resumed.folder}: the weights of the best loss are gone; train on first")
    if best is None:
        state.best_val_loss, state.best_step, state.evals_since_best = inf, 0, 0
    effective = replace(parts.effective, first_step=state.step, lr_factor=state.lr_factor)
    return RestoredRun(
        replace(parts, plan=replace(parts.plan, first_step=state.step), effective=effective), changes, best
    )


def _adapt_state(state: TrainState, built: TrainState, resumed: ResumePoint, changes: list[SettingChange]) -> None:
    """Adapt the restored `state` to the run that was `built`, whose settings may differ."""
    if changes:
        state.recent_losses.clear()
    state.schedule_start_step = built.schedule_start_step
    if state.examples_per_epoch != built.examples_per_epoch:  # keep the position as a fraction of the epoch
        state.examples = round(state.examples * built.examples_per_epoch / state.examples_per_epoch)
        state.examples_per_epoch = built.examples_per_epoch
    if resumed.restarts_schedule:
        state.schedule, state.schedule_start_tokens, state.rollbacks = built.schedule, state.tokens, 0
    if resumed.restarts_schedule or any(is_lr_key(change.key) for change in changes):
        state.lr_factor = 1.0
    if resumed.restarts_schedule or has_changed_validation(changes):
        state.best_val_loss = inf
    if has_changed_validation(changes) and isinstance(state.schedule, ObservingSchedule):
        state.schedule.reset_best()


def has_changed_validation(changes: list[SettingChange]) -> bool:
    """Return whether the best loss so far was measured on something else than later ones."""
    keys = {change.key: change.after for change in changes}
    return VALIDATION_KEY in keys or bool(select_objective_settings(keys))


def describe_data(dataset: Mapping[str, str]) -> dict[str, str]:
    """Return the digests of a run's data; a task that has none for its validation data has one for all."""
    digest = dataset.get("digest", "-")
    return {"data.digest": digest, VALIDATION_KEY: dataset.get("validation", digest)}


def describe_resume(resumed: ResumePoint, restored: RestoredRun) -> Iterator[str]:
    """Yield messages for the user; the last one is the table of changed settings."""
    state, plan = restored.parts.state, restored.parts.plan
    yield from (f"skipped a damaged checkpoint: {problem}" for problem in resumed.damaged)
    yield f"resuming {resumed.folder.name} at step {resumed.step} ({resumed.counters['tokens']:,} tokens)"
    if state.step == plan.total_steps:
        yield f"all {state.step} steps are taken: only the test split is scored"
    if resumed.counters["last_spike_step"]:
        yield f"this checkpoint was saved after the loss spiked at step {resumed.counters['last_spike_step']}"
    if state.lr_factor != 1:
        yield f"the LR is {state.lr_factor:.3g} times that of the schedule, because of rollbacks"
    if resumed.restarts_schedule:
        yield "the schedule, the length of the run and the best loss start over at this step"
    elif has_changed_validation(restored.changes):
        yield "the validation data differ: the best loss so far is discarded"
    elif restored.best is None:
        yield "the weights of the best loss so far were deleted: it is discarded"
    if not resumed.restarts_schedule and any(change.key.startswith("schedule.") for change in restored.changes):
        done, length = state.step - state.schedule_start_step, plan.total_steps - state.schedule_start_step
        warmup_steps = state.schedule.count_warmup_steps(length)
        yield (
            f"the schedule of {length} steps, {warmup_steps} of them warm-up, continues at its step {done}; "
            "start.restart_schedule=true starts it over"
        )
    yield format_changes(restored.changes)


def format_changes(changes: list[SettingChange]) -> str:
    """Return a table of the changes, or a line that says that there are none."""
    if not changes:
        return "no settings changed"
    rows = [("changed", "before", "after"), *((change.key, change.before, change.after) for change in changes)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{key:<{widths[0]}}  {before:<{widths[1]}}  {after}" for key, before, after in rows)


def resume_tags(resumed: ResumePoint) -> dict[str, str]:
    """Return the tags that link the new run to the resumed one."""
    run_id = read_mlflow_run_id(resumed.folder / "mlflow.json")
    return {
        "resumed.run": resumed.folder.name,
        "resumed.step": str(resumed.step),
        **({"resumed.run_id": run_id} if run_id else {}),
    }


def find_setting_changes(recorded: Mapping[str, Any], after: Mapping[str, str]) -> Iterator[SettingChange]:
    """Yield the changes in the configuration, the settings in effect and the data."""
    effective = EffectiveSettings.from_json(recorded["effective"])
    before = {**recorded["params"], **effective.to_params(), **describe_data(recorded["dataset"])}
    removed = [key for key in before if key not in after and "." in key]  # no dot: the option of a swept group
    for key in [*after, *removed]:
        old, new = before.get(key, "-"), after.get(key, "-")
        if (
            old != new
            and key.partition(".")[0] not in (*SEEN_IN_EFFECT, *NON_TRAINING_KEYS)
            and key not in RESUMED_ONLY
        ):
            yield SettingChange(key, old, new)
