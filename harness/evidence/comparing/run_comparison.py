"""Comparison of runs: settings that differ, losses with their errors, and whether they can be compared.

Nothing here calls a run better: a lower loss of one seed is a lower loss of one seed.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.core.errors import ConfigError
from harness.diagnosis.comparability import Comparability, compare_runs, get_last_coverage, name_distinctly
from harness.diagnosis.history import History
from harness.diagnosis.plateau_window import drop_non_finite
from harness.diagnosis.render import find_best_loss
from harness.evidence.comparing.paired_losses import PairedDifference, compute_paired_difference, find_mismatch
from harness.evidence.comparing.reached_losses import ReachedThreshold, choose_threshold, find_reached
from harness.evidence.comparing.setting_differences import SettingComparison, compare_settings
from harness.record.example_losses import ExampleLosses

MAX_RUNS = 26  # labelled by letters
BEST, FINAL = "best", "final"
LAST_SHARE = 10  # the training loss is the mean of the last tenth of its rows
EQUAL_BUDGET = 1.01
"""Largest ratio of two numbers of tokens or steps that count as equal."""


@dataclass(frozen=True)
class ComparedRun:
    """A run to compare: its history, and the losses of single examples by BEST and FINAL where it recorded them."""

    history: History
    path: Path | None = None
    examples: dict[str, ExampleLosses] | None = None


@dataclass(frozen=True)
class LossPoint:
    """A validation loss at a step; `tokens` were trained on by then, None if that is unknown."""

    step: int
    when: str
    value: float
    standard_error: float | None
    tokens: float | None


@dataclass(frozen=True)
class RunSummary:
    """Result and cost of one run; None where unknown. `updates` is None for logs without steps."""

    label: str
    name: str
    source: str
    program: str | None
    status: str | None
    best: LossPoint | None
    final: LossPoint | None
    train_loss: float | None
    unit: str | None
    coverage: float | None
    evaluations: int
    length: str
    updates: int | None
    tokens: float | None
    seconds: float | None
    parameters: int | None
    trainable_parameters: int | None
    objectives: dict[str, float]


@dataclass(frozen=True)
class LossDifference:
    """Difference of the losses of two runs at their BEST or FINAL evaluations: that of `second` minus that of `first`.

    Args:
        relative: The difference over the loss of `first`, None if that is 0.
        standard_error: That of independent samples; for one validation set it is usually too large.
        paired: On the same examples, None unless both runs recorded them.
    """

    at: str
    first: str
    second: str
    difference: float
    relative: float | None
    standard_error: float | None
    paired: PairedDifference | None

    @property
    def direction(self) -> str:
        return "lower" if self.difference < 0 else "higher" if self.difference > 0 else "equal"


@dataclass(frozen=True)
class Comparison:
    """The comparison of several runs. All differences are to the first one, and empty if they are not comparable."""

    runs: tuple[RunSummary, ...]
    histories: tuple[History, ...]
    comparability: Comparability
    settings: SettingComparison
    differences: tuple[LossDifference, ...]
    reached: tuple[ReachedThreshold, ...]
    changes: tuple[str, ...]
    """Sentences on the changes from the first run to each other one."""
    notes: tuple[str, ...]

    @property
    def is_comparable(self) -> bool:
        """Return whether nothing is known that makes the losses incomparable."""
        return self.comparability.verdict != "not comparable"


def compare_histories(runs: Sequence[ComparedRun], thresholds: Sequence[float] = ()) -> Comparison:
    """Compare at least two runs; `thresholds` are losses to reach, by default one that every run reached.

    Raises:
        ConfigError: If there are fewer than two runs, or too many.
    """
    if len(runs) < 2:
        raise ConfigError("RUN_OR_LOG: only one run to compare; name two or more")
    if len(runs) > MAX_RUNS:
        raise ConfigError(f"RUN_OR_LOG: {len(runs)} runs to compare; name at most {MAX_RUNS} of them")
    histories = [run.history for run in runs]
    comparability = compare_runs(histories)
    settings = compare_settings(histories)
    names = name_distinctly(histories)
    summaries = tuple(_summarize_run(chr(ord("A") + index), name, history)
                      for index, (name, history) in enumerate(zip(names, histories, strict=True)))  # fmt: skip
    differences: list[LossDifference] = []
    reached: list[ReachedThreshold] = []
    mismatches: list[str] = []
    if comparability.verdict != "not comparable":
        for index in range(1, len(runs)):
            for at in (BEST, FINAL):
                paired, mismatch = _pair_examples(runs[0], runs[index], at)
                mismatches += [f"{summaries[index].label} is not paired with A: {mismatch}"] if mismatch else []
                differences += _subtract_losses(summaries[0], summaries[index], at, paired)
        automatic = choose_threshold(histories)
        losses = thresholds or ([] if automatic is None else [automatic])
        has_losses = any(summary.evaluations for summary in summaries)
        for loss in losses if has_losses else ():
            reached.append(ReachedThreshold(loss, tuple(find_reached(history, loss) for history in histories)))
    labels = [summary.label for summary in summaries]
    same = {index for index in range(1, len(runs)) if _is_same_run(runs[0], runs[index])}
    return Comparison(
        summaries,
        tuple(histories),
        comparability,
        settings,
        tuple(differences),
        tuple(reached),
        tuple(_describe_changes(settings, index, labels, index in same) for index in range(1, len(runs))),
        (*dict.fromkeys(mismatches), *_make_notes(summaries, has_differences=bool(differences), same=same)),
    )


def _summarize_run(label: str, name: str, history: History) -> RunSummary:
    facts = history.facts
    losses, train = history["val/loss"], drop_non_finite(history["train/loss"]).values
    best, last = find_best_loss(history), history.last_step
    tail = train[-max(1, len(train) // LAST_SHARE) :]
    tokens = history.tokens_at(np.array([last]))
    return RunSummary(
        label=label,
        name=name,
        source=facts.source,
        program=facts.program,
        status=facts.status,
        best=_make_point(history, best[0]) if best else None,
        final=_make_point(history, int(losses.steps[-1])) if len(losses) else None,
        train_loss=float(tail.mean()) if len(tail) else None,
        unit=facts.unit,
        coverage=get_last_coverage(history),
        evaluations=len(losses),
        length=history.describe_step(last),
        updates=last if facts.steps_unit == "steps" else None,
        tokens=float(tokens[0]) if tokens is not None else None,
        seconds=facts.seconds,
        parameters=facts.parameters,
        trainable_parameters=facts.trainable_parameters,
        objectives=dict(facts.objectives or {}),
    )


def _make_point(history: History, step: int) -> LossPoint:
    """Return the validation loss of the evaluation at a step."""
    losses, errors = history["val/loss"], history["val/loss_se"]
    known = np.flatnonzero(errors.steps == step)
    tokens = history.tokens_at(np.array([step]))
    return LossPoint(
        step,
        history.describe_step(step),
        float(losses.values[np.searchsorted(losses.steps, step)]),
        float(errors.values[known[0]]) if len(known) else None,
        float(tokens[0]) if tokens is not None else None,
    )


def _pair_examples(first: ComparedRun, second: ComparedRun, at: str) -> tuple[PairedDifference | None, str]:
    """Return the paired difference if both runs recorded their examples, or why they cannot be paired."""
    left, right = (first.examples or {}).get(at), (second.examples or {}).get(at)
    if left is None or right is None:
        return None, ""
    if mismatch := find_mismatch(left, right):
        return None, mismatch
    return compute_paired_difference(left, right), ""


def _subtract_losses(
    first: RunSummary, second: RunSummary, at: str, paired: PairedDifference | None
) -> Iterator[LossDifference]:
    """Yield the difference if both runs have a finite loss there."""
    left, right = (first.best, second.best) if at == BEST else (first.final, second.final)
    if left is None or right is None or not (math.isfinite(left.value) and math.isfinite(right.value)):
        return
    difference = right.value - left.value
    errors = [point.standard_error for point in (left, right) if point.standard_error is not None]
    error = math.hypot(*errors) if len(errors) == 2 else None
    relative = difference / abs(left.value) if left.value else None
    yield LossDifference(at, first.label, second.label, difference, relative, error, paired)


def _is_same_run(first: ComparedRun, second: ComparedRun) -> bool:
    is_one_path = first.path is not None and second.path is not None and first.path.resolve() == second.path.resolve()
    return first.history.facts.source == second.history.facts.source and (is_one_path or first.path == second.path)


def _describe_changes(settings: SettingComparison, index: int, labels: Sequence[str], is_same: bool) -> str:
    """Return what changed from the first run to another one, and what follows for the effects of the changes."""
    pair = f"{labels[0]} and {labels[index]}"
    if is_same:
        return f"{pair} are the same run."
    if 0 in settings.unknown or index in settings.unknown:
        return f"{pair}: which settings differ is not recorded, so the difference has no known cause."
    changes, has_seed = settings.list_changes(0, index), settings.differ(0, index, "seed")
    also = [text for text, differs in (("the seed", has_seed), ("the code", settings.differ(0, index, "code")))
            if differs]  # fmt: skip
    parts = [*changes, *also]
    if settings.by_facts:
        known = settings.list_known_changes(0, index)
        found = f"known of both and different: {', '.join(known)}" if known else "nothing that is known of both differs"
        return f"{pair} name their settings differently; {found}."
    if not parts:
        machine = " and the machine or its packages differ" if settings.differ(0, index, "environment") else ""
        return f"{pair} have the same settings and seed{machine}; a difference comes from what is not recorded."
    if not changes and also == ["the seed"]:
        return f"{pair} differ in the seed only: the difference is seed noise."
    if len(parts) == 1:
        return f"{pair} differ in {parts[0]} only."
    what = f"These {len(changes)} settings" if len(changes) == len(parts) else f"These {len(parts)} things"
    return f"{pair}: {', '.join(parts)}. {what} changed together; their effects cannot be told apart."


def _make_notes(runs: Sequence[RunSummary], *, has_differences: bool, same: set[int]) -> Iterator[str]:
    """Yield what limits the comparison."""
    without = [run.label for run in runs if not run.evaluations]
    if without:
        what = "it" if len(without) == 1 else "they"
        yield (f"{', '.join(without)}: no validation loss, so {what} cannot be ranked; a training loss depends on the "
               "batches and on dropout")  # fmt: skip
    diverged = [run.label for run in runs if run.final is not None and not math.isfinite(run.final.value)]
    if diverged:
        yield f"{', '.join(diverged)}: the last validation loss is not finite"
    for run in runs:
        if run.status not in (None, "completed"):
            yield f"{run.label}: {run.status}, so its last loss is not that of a whole run"
    if len(same) < len(runs) - 1 and has_differences:
        yield "one run a side is one seed: the difference may be seed noise, whatever its standard error"
        yield from _note_budgets(runs)
        counts = [run.evaluations for run in runs]
        if max(counts) > 2 * min(counts):
            yield (f"the best is the lowest of {min(counts)} to {max(counts)} evaluations: it is lower by chance where "
                   "there are more")  # fmt: skip


def _note_budgets(runs: Sequence[RunSummary]) -> Iterator[str]:
    """Yield that the runs are of unequal length."""
    tokens = [run.tokens for run in runs if run.tokens is not None]
    updates = [run.updates for run in runs if run.updates is not None]
    counts, name = (tokens, "tokens") if len(tokens) == len(runs) else ([float(n) for n in updates], "steps")
    if len(counts) == len(runs) and max(counts) > EQUAL_BUDGET * min(counts) > 0:
        yield f"the longest run has {max(counts) / min(counts):.3g} times the {name} of the shortest: unequal budgets"
    elif len(counts) < len(runs):
        yield "how many tokens or steps the runs took is not known of all: the budgets may be unequal"
