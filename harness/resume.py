"""Going on from a run's checkpoint: which one, what has changed since, and what is told of it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

from harness.build import Parts
from harness.checkpoint import WEIGHTS, choose, counters, load_checkpoint, load_weights
from harness.config import Settings
from harness.explain import ConfigError
from harness.observers import record
from harness.processes import World
from harness.starts import compare, find, recorded_run_id

NO_SETTINGS = ("start", "name", "output_dir", "cache_dir", "tracking", "observers", "locked", "unlock")
"""Keys that decide nothing about the training."""
VALIDATION = ("data", "tokenizer", "task")
"""Keys that decide what the validation loss is measured on."""


@dataclass(frozen=True)
class Resumed:
    """The checkpoint that a run goes on from. `leg_step` is where its schedule begins; `faults` names what was damaged
    in the place of which it stands."""

    run: Path
    checkpoint: Path
    counters: Mapping[str, Any]
    leg_step: int
    faults: tuple[str, ...]

    @property
    def step(self) -> int:
        return self.counters["step"]


@dataclass(frozen=True)
class Change:
    key: str
    before: str
    after: str


def locate(settings: Settings) -> Resumed | None:
    """The checkpoint that `start.run` and `start.checkpoint` name, if any; ConfigError where there is none that is
    whole."""
    start = settings.start
    if start.kind != "resume":
        return None
    run = find(start.run, settings.output_dir, "start.run")
    if not (run / "checkpoints").is_dir() or not (run / record.NAME).is_file():
        raise ConfigError(f"start.run: {run} keeps no checkpoints of a run; give the folder that holds {record.NAME}")
    try:
        checkpoint, faults = choose(run / "checkpoints", start.checkpoint)
        saved = counters(checkpoint)
    except ValueError as error:
        raise ConfigError(f"start.checkpoint: {error}") from error
    leg_step = saved["step"] if start.schedule == "restart" else saved["leg_step"]
    return Resumed(run, checkpoint, saved, leg_step, tuple(faults))


def go_on(resumed: Resumed, parts: Parts, params: Mapping[str, str], world: World) -> tuple[Parts, list[Change]]:
    """`parts` with the state of the checkpoint and the numbers of the configuration, and what differs between the two
    runs; ConfigError where the checkpoint does not fit."""
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
    epoch_examples = state.epoch_examples
    try:
        load_checkpoint(state, resumed.checkpoint, rank=world.rank)
    except ValueError as error:
        raise ConfigError(f"start.run: {resumed.checkpoint}: {error}") from error
    changes = list(_changes(_recorded(resumed.run), params))
    if resumed.leg_step != state.leg_step:
        state.leg_step, state.leg_tokens = state.step, state.tokens
    if state.epoch_examples != epoch_examples:  # rows of another length: the same share of the data lies behind
        state.examples = round(state.examples * epoch_examples / state.epoch_examples)
        state.epoch_examples = epoch_examples
    if has_other_validation(changes):
        state.best_val_loss, state.best_step, state.evals_since_best = inf, 0, 0
    effective = {**parts.effective, "effective.first_step": str(state.step)}
    return replace(parts, plan=replace(parts.plan, first_step=state.step), effective=effective), changes


def has_other_validation(changes: list[Change]) -> bool:
    return any(change.key.partition(".")[0] in VALIDATION for change in changes)


def told(resumed: Resumed, parts: Parts, changes: list[Change]) -> Iterator[str]:
    """What the user must hear, a table of the changes last."""
    yield from (f"damaged, so an earlier checkpoint is taken: {fault}" for fault in resumed.faults)
    yield f"goes on from {resumed.run.name}, step {resumed.step} ({resumed.counters['tokens']:,} tokens)"
    if resumed.counters["spiked_at"]:
        yield f"this checkpoint was saved after the loss spiked at step {resumed.counters['spiked_at']}"
    if has_other_validation(changes):
        yield "the data or how they are cut differ: the best so far counts no longer"
    done, length = resumed.step - resumed.leg_step, parts.plan.total_steps - resumed.leg_step
    if any(change.key.startswith("schedule.") for change in changes) and resumed.leg_step < resumed.step:
        yield (
            f"the schedule of {length} steps goes on at its step {done}, after {parts.state.schedule.warmup(length)} "
            "of warm-up; start.schedule=restart begins it anew"
        )
    yield table(changes)


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


def _recorded(run: Path) -> Mapping[str, str]:
    """The parameters of a recorded run."""
    return next((entry["params"] for entry, _ in record.read(run / record.NAME) if entry["kind"] == "start"), {})


def _changes(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Change]:
    for key in [*after, *(key for key in before if key not in after)]:
        was, now = before.get(key, "-"), after.get(key, "-")
        if was != now and key.partition(".")[0] not in NO_SETTINGS and key != "effective.first_step":
            yield Change(key, was, now)
