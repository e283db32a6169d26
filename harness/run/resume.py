"""Going on from a run's checkpoint: which one, what has changed since, and what is told of it."""

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

from torch import nn

from harness.config.errors import ConfigError
from harness.config.schema import IDLE, Settings
from harness.core.distributed import World
from harness.core.state import TrainState, broken_tie
from harness.core.task import Task
from harness.models import untie_head
from harness.record import metrics_file
from harness.run.build import Parts
from harness.run.initial_weights import compare, find, recorded_run_id
from harness.training.checkpoint import WEIGHTS, choose, counters, holding, load_checkpoint, load_weights

VALIDATION, NOT_VALIDATION = ("data", "tokenizer", "task"), ("data.eval_batch_size", "data.shuffle", "task.blimp")
"""Keys that decide what the validation loss is measured on, and those among them that do not."""

OWN = ("effective.first_step", "effective.lr_factor")
"""What is said of a resumed run alone."""


@dataclass(frozen=True)
class Resumed:
    """The checkpoint that a run goes on from; `recorded` is what that run said of itself at its start, `faults` names
    what was damaged in the place of which the checkpoint stands."""

    run: Path
    checkpoint: Path
    counters: Mapping[str, Any]
    recorded: Mapping[str, Any]
    restarts: bool
    faults: tuple[str, ...]

    @property
    def step(self) -> int:
        return self.counters["step"]

    def leg_step(self, settings: Settings, task: Task) -> int:
        """Where the schedule and the length of the run count from: what was done, in steps as they are now."""
        if self.restarts:
            return self.step
        old_batch = int(self.recorded["params"]["effective.batch_size"])
        old, new = self.counters["epoch_examples"] / old_batch, task.examples / settings.batch.batch_size
        if settings.loop.max_steps is not None or old == new:
            return self.counters["leg_step"]
        return self.step - round((self.step - self.counters["leg_step"]) / old * new)


@dataclass(frozen=True)
class Change:
    key: str
    before: str
    after: str


@dataclass(frozen=True)
class GoneOn:
    """A run that goes on: what differs from the one before, and where the weights of the best so far are, if it still
    counts."""

    parts: Parts
    changes: list[Change]
    best: Path | None


def locate(settings: Settings) -> Resumed | None:
    """The checkpoint that `start.run` and `start.checkpoint` name, if any; ConfigError where there is none that is
    whole."""
    start = settings.start
    if start.kind != "resume":
        return None
    run = find(start.run, settings.output_dir, "start.run")
    if not (run / "checkpoints").is_dir() or not (run / metrics_file.NAME).is_file():
        raise ConfigError(
            f"start.run: {run} keeps no checkpoints of a run; give the folder that holds {metrics_file.NAME}"
        )
    try:
        recorded = next(entry for entry, _ in metrics_file.read(run / metrics_file.NAME) if entry["kind"] == "start")
        checkpoint, faults = choose(run / "checkpoints", start.checkpoint)
        saved = counters(checkpoint)
    except StopIteration:
        raise ConfigError(f"start.run: {run / metrics_file.NAME} is empty: that run never began") from None
    except ValueError as error:
        raise ConfigError(f"start.checkpoint: {error}") from error
    return Resumed(run, checkpoint, saved, recorded, start.schedule == "restart", tuple(faults))


def untie(resumed: Resumed, model: nn.Module) -> None:
    """Give `model` a head of its own where the checkpoint has one."""
    if broken_tie(model, load_weights(resumed.checkpoint / WEIGHTS)) and hasattr(model, "get_output_embeddings"):
        untie_head(model)


def go_on(resumed: Resumed, parts: Parts, params: Mapping[str, str], world: World) -> GoneOn:
    """`parts`, which `params` describe, with the state of the checkpoint and the numbers of the configuration;
    ConfigError where the checkpoint does not fit."""
    state, total_steps = parts.state, parts.plan.total_steps
    if resumed.step >= total_steps:
        raise ConfigError(
            f"loop: the checkpoint has {resumed.step} steps and the run ends after {total_steps}; ask for more steps "
            "in all, or count them from the checkpoint on with start.schedule=restart"
        )
    match = compare(state.model, load_weights(resumed.checkpoint / WEIGHTS))
    if not match.is_whole:
        raise ConfigError(
            f"start.run: {resumed.checkpoint} is of another architecture ({match.summary()}); choose the model and "
            "lora of that run, or take what fits of its weights: start=warm start.source=…"
        )
    built = replace(state, schedule=deepcopy(state.schedule))
    try:
        load_checkpoint(state, resumed.checkpoint, rank=world.rank)
    except ValueError as error:
        raise ConfigError(f"start.run: {resumed.checkpoint}: {error}") from error
    changes = list(_changes(resumed.recorded, {**params, "data.digest": parts.task.dataset["digest"]}))
    _adjust(state, built, resumed, changes)
    best = holding(resumed.run / "checkpoints", state.best_step) if state.best_val_loss < inf else None
    if best is None:
        state.best_val_loss, state.best_step, state.evals_since_best = inf, 0, 0
    effective = {**parts.effective, "effective.first_step": str(state.step)}
    if state.lr_factor != 1:
        effective["effective.lr_factor"] = str(state.lr_factor)
    return GoneOn(replace(parts, plan=replace(parts.plan, first_step=state.step), effective=effective), changes, best)


def _adjust(state: TrainState, built: TrainState, resumed: Resumed, changes: list[Change]) -> None:
    """What of the loaded `state` does not hold for the run that was `built`."""
    state.leg_step = built.leg_step
    if state.epoch_examples != built.epoch_examples:  # the same share of the data lies behind
        state.examples = round(state.examples * built.epoch_examples / state.epoch_examples)
        state.epoch_examples = built.epoch_examples
    if resumed.restarts:
        state.schedule, state.leg_tokens, state.rollbacks = built.schedule, state.tokens, 0
    if resumed.restarts or any(re.fullmatch(r"optimizer\..*lr", change.key) for change in changes):
        state.lr_factor = 1.0
    if resumed.restarts or has_other_validation(changes):
        state.best_val_loss = inf
    if has_other_validation(changes) and hasattr(state.schedule, "rebase"):
        state.schedule.rebase()


def has_other_validation(changes: list[Change]) -> bool:
    return any(
        change.key.partition(".")[0] in VALIDATION and not change.key.startswith(NOT_VALIDATION) for change in changes
    )


def told(resumed: Resumed, gone_on: GoneOn) -> Iterator[str]:
    """What the user must hear, a table of the changes last."""
    state, plan = gone_on.parts.state, gone_on.parts.plan
    yield from (f"damaged, so an earlier checkpoint is taken: {fault}" for fault in resumed.faults)
    yield f"goes on from {resumed.run.name}, step {resumed.step} ({resumed.counters['tokens']:,} tokens)"
    if resumed.counters["spiked_at"]:
        yield f"this checkpoint was saved after the loss spiked at step {resumed.counters['spiked_at']}"
    if state.lr_factor != 1:
        yield f"the LR stays at {state.lr_factor:.3g} of what the schedule says: rollbacks have cut it"
    if resumed.restarts:
        yield "the schedule, the length of the run and the best so far begin anew at this step"
    elif has_other_validation(gone_on.changes):
        yield "the data or how they are cut differ: the best so far counts no longer"
    elif gone_on.best is None:
        yield "the weights of the best so far are no longer kept: it begins anew"
    if not resumed.restarts and any(change.key.startswith("schedule.") for change in gone_on.changes):
        done, length = state.step - state.leg_step, plan.total_steps - state.leg_step
        yield (
            f"the schedule of {length} steps goes on at its step {done}, after {state.schedule.warmup(length)} "
            "of warm-up; start.schedule=restart begins it anew"
        )
    yield table(gone_on.changes)


def table(changes: list[Change]) -> str:
    """A line a change, its key, what it was and what it is; or that there is none."""
    if not changes:
        return "no setting has changed"
    rows = [("changed", "before", "after"), *((change.key, change.before, change.after) for change in changes)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{key:<{widths[0]}}  {before:<{widths[1]}}  {after}" for key, before, after in rows)


def tags(resumed: Resumed) -> dict[str, str]:
    """What links the new run to the old one."""
    run_id = recorded_run_id(resumed.run / "mlflow.json")
    return {
        "resumed.run": resumed.run.name,
        "resumed.step": str(resumed.step),
        **({"resumed.run_id": run_id} if run_id else {}),
    }


def _changes(recorded: Mapping[str, Any], after: Mapping[str, str]) -> Iterator[Change]:
    """Of the settings, and of the data behind them."""
    before = {**recorded["params"], "data.digest": recorded["dataset"].get("digest", "-")}
    gone = [key for key in before if key not in after and "." in key]  # without a dot: the name of a swept choice
    for key in [*after, *gone]:
        was, now = before.get(key, "-"), after.get(key, "-")
        if was != now and key.partition(".")[0] not in ("start", *IDLE) and key not in OWN:
            yield Change(key, was, now)
