"""Going on from a run's checkpoint: which one, what has changed since, and what is told of it."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

from torch import nn

from harness.config.compose import NON_TRAINING_KEYS
from harness.config.schema import RunSettings
from harness.core.distributed import ProcessGroup
from harness.core.effective_settings import EffectiveSettings
from harness.core.errors import ConfigError
from harness.core.lr_keys import is_lr_key
from harness.core.state import TrainState, find_broken_tie
from harness.core.task import Task
from harness.models import untie_head
from harness.record import metrics_file
from harness.record.run_lookup import find_run, read_mlflow_run_id
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

VALIDATION_KEYS, NOT_VALIDATION_KEYS = (
    ("data", "tokenizer", "task"),
    ("data.eval_batch_size", "data.shuffle", "task.blimp"),
)
"""Keys that decide what the validation loss is measured on, and those among them that do not."""

RESUMED_ONLY = ("effective.first_step", "effective.schedule_start_step", "effective.lr_factor")
"""Keys that every resumed run changes."""


@dataclass(frozen=True)
class ResumePoint:
    """The checkpoint that a run goes on from; `recorded` is what that run said of itself at its start, `faults` names
    what was damaged in the place of which the checkpoint stands."""

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
        """Where the schedule and the length of the run count from: what was done, in steps as they are now."""
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
    """A run that goes on: what differs from the one before, and where the weights of the best so far are, if it still
    counts."""

    parts: RunParts
    changes: list[SettingChange]
    best: Path | None


def find_resume_point(settings: RunSettings) -> ResumePoint | None:
    """The checkpoint that `start.run` and `start.checkpoint` name, if any; ConfigError where there is none that is
    whole."""
    start = settings.start
    if start.kind != "resume":
        return None
    run = find_run(start.run, settings.output_dir, "start.run")
    if not (run / "checkpoints").is_dir() or not (run / metrics_file.METRICS_FILE).is_file():
        raise ConfigError(
            f"start.run: {run} keeps no checkpoints of a run; give the folder that holds {metrics_file.METRICS_FILE}"
        )
    try:
        recorded = next(
            entry for entry, _ in metrics_file.read_entries(run / metrics_file.METRICS_FILE) if entry["kind"] == "start"
        )
        checkpoint, faults = choose_checkpoint(run / "checkpoints", start.checkpoint)
        saved = read_counters(checkpoint)
    except StopIteration:
        raise ConfigError(f"start.run: {run / metrics_file.METRICS_FILE} is empty: that run never began") from None
    except ValueError as error:
        raise ConfigError(f"start.checkpoint: {error}") from error
    return ResumePoint(run, checkpoint, saved, recorded, start.restart_schedule, tuple(faults))


def match_head_tying(resumed: ResumePoint, model: nn.Module) -> None:
    """Give `model` a head of its own where the checkpoint has one."""
    if find_broken_tie(model, load_weights(resumed.checkpoint / WEIGHTS_FILE)) and hasattr(
        model, "get_output_embeddings"
    ):
        untie_head(model)


def restore_run(resumed: ResumePoint, parts: RunParts, params: Mapping[str, str], world: ProcessGroup) -> RestoredRun:
    """`parts`, which `params` describe, with the state of the checkpoint and the numbers of the configuration;
    ConfigError where the checkpoint does not fit."""
    state, total_steps = parts.state, parts.plan.total_steps
    if resumed.step >= total_steps:
        raise ConfigError(
            f"loop: the checkpoint has {resumed.step} steps and the run ends after {total_steps}; ask for more steps "
            "in all, or count them from the checkpoint on with start.restart_schedule=true"
        )
    match = match_weights(state.model, load_weights(resumed.checkpoint / WEIGHTS_FILE))
    if not match.is_complete:
        raise ConfigError(
            f"start.run: {resumed.checkpoint} is of another architecture ({match.summarize()}); choose the model and "
            "lora of that run, or take what fits of its weights: start=warm start.source=…"
        )
    built = replace(state, schedule=deepcopy(state.schedule))
    try:
        load_checkpoint(state, resumed.checkpoint, rank=world.rank)
    except ValueError as error:
        raise ConfigError(f"start.run: {resumed.checkpoint}: {error}") from error
    after = {**params, **parts.effective.to_params(), "data.digest": parts.task.dataset["digest"]}
    changes = list(_compare_settings(resumed.recorded, after))
    _adapt_state(state, built, resumed, changes)
    best = find_checkpoint(resumed.folder / "checkpoints", state.best_step) if state.best_val_loss < inf else None
    if best is None:
        state.best_val_loss, state.best_step, state.evals_since_best = inf, 0, 0
    effective = replace(parts.effective, first_step=state.step, lr_factor=state.lr_factor)
    return RestoredRun(
        replace(parts, plan=replace(parts.plan, first_step=state.step), effective=effective), changes, best
    )


def _adapt_state(state: TrainState, built: TrainState, resumed: ResumePoint, changes: list[SettingChange]) -> None:
    """What of the loaded `state` does not hold for the run that was `built`."""
    state.schedule_start_step = built.schedule_start_step
    if state.examples_per_epoch != built.examples_per_epoch:  # the same share of the data lies behind
        state.examples = round(state.examples * built.examples_per_epoch / state.examples_per_epoch)
        state.examples_per_epoch = built.examples_per_epoch
    if resumed.restarts_schedule:
        state.schedule, state.schedule_start_tokens, state.rollbacks = built.schedule, state.tokens, 0
    if resumed.restarts_schedule or any(is_lr_key(change.key) for change in changes):
        state.lr_factor = 1.0
    if resumed.restarts_schedule or has_changed_validation(changes):
        state.best_val_loss = inf
    if has_changed_validation(changes) and hasattr(state.schedule, "reset_best"):
        state.schedule.rebase()


def has_changed_validation(changes: list[SettingChange]) -> bool:
    return any(
        change.key.partition(".")[0] in VALIDATION_KEYS and not change.key.startswith(NOT_VALIDATION_KEYS)
        for change in changes
    )


def describe_resume(resumed: ResumePoint, gone_on: RestoredRun) -> Iterator[str]:
    """What the user must hear, a table of the changes last."""
    state, plan = gone_on.parts.state, gone_on.parts.plan
    yield from (f"damaged, so an earlier checkpoint is taken: {fault}" for fault in resumed.damaged)
    yield f"goes on from {resumed.folder.name}, step {resumed.step} ({resumed.counters['tokens']:,} tokens)"
    if resumed.counters["last_spike_step"]:
        yield f"this checkpoint was saved after the loss spiked at step {resumed.counters['last_spike_step']}"
    if state.lr_factor != 1:
        yield f"the LR stays at {state.lr_factor:.3g} of what the schedule says: rollbacks have cut it"
    if resumed.restarts_schedule:
        yield "the schedule, the length of the run and the best so far begin anew at this step"
    elif has_changed_validation(gone_on.changes):
        yield "the data or how they are cut differ: the best so far counts no longer"
    elif gone_on.best is None:
        yield "the weights of the best so far are no longer kept: it begins anew"
    if not resumed.restarts_schedule and any(change.key.startswith("schedule.") for change in gone_on.changes):
        done, length = state.step - state.schedule_start_step, plan.total_steps - state.schedule_start_step
        yield (
            f"the schedule of {length} steps goes on at its step {done}, after {state.schedule.count_warmup_steps(length)} "
            "of warm-up; start.restart_schedule=true begins it anew"
        )
    yield format_changes(gone_on.changes)


def format_changes(changes: list[SettingChange]) -> str:
    """A line a change, its key, what it was and what it is; or that there is none."""
    if not changes:
        return "no setting has changed"
    rows = [("changed", "before", "after"), *((change.key, change.before, change.after) for change in changes)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{key:<{widths[0]}}  {before:<{widths[1]}}  {after}" for key, before, after in rows)


def resume_tags(resumed: ResumePoint) -> dict[str, str]:
    """What links the new run to the old one."""
    run_id = read_mlflow_run_id(resumed.folder / "mlflow.json")
    return {
        "resumed.run": resumed.folder.name,
        "resumed.step": str(resumed.step),
        **({"resumed.run_id": run_id} if run_id else {}),
    }


def _compare_settings(recorded: Mapping[str, Any], after: Mapping[str, str]) -> Iterator[SettingChange]:
    """Of the settings, and of the data behind them."""
    effective = EffectiveSettings.from_json(recorded["effective"])
    before = {**recorded["params"], **effective.to_params(), "data.digest": recorded["dataset"].get("digest", "-")}
    gone = [key for key in before if key not in after and "." in key]  # without a dot: the name of a swept choice
    for key in [*after, *gone]:
        was, now = before.get(key, "-"), after.get(key, "-")
        if was != now and key.partition(".")[0] not in ("start", *NON_TRAINING_KEYS) and key not in RESUMED_ONLY:
            yield SettingChange(key, was, now)
