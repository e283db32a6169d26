"""The objective over each searched parameter: the learning rate or the most important one first, and large."""

import re
from collections.abc import Mapping, Sequence

from harness.core.formatting import shorten_keys
from harness.evidence.charts.figure_data import PointGroup, PointPanels, Points, Role
from harness.evidence.comparing.setting_differences import is_seed_key
from harness.evidence.report.document import Block, Name, ReportFigure, Span, Text
from harness.evidence.report.numbers import Reading
from harness.evidence.report.phrases import join_spans, make_id
from harness.evidence.report.study_numbers import StudyNumbers, is_same_trial
from harness.evidence.report.study_source import StudySource
from harness.sweep.results.summary import MEASURED, TrialSummary
from harness.sweep.space.search_space import config_key

MAX_PARAMETERS = 9  # one large and four rows of two
LABELS = {"trial": "completed", "paused": "paused", "pruned": "pruned", "diverged": "diverged"}


def draw_parameters(numbers: StudyNumbers) -> list[Block]:
    """Return the figure; none if no parameter was searched, or fewer than two trials have a value."""
    source = numbers.source
    trials = [trial for trial in source.summary.trials if trial.status in MEASURED]
    keys = _order_keys(trials, source.summary.importances)
    if not keys or sum(bool(trial.values) for trial in trials) < 2:
        return []
    labels, drawn = shorten_keys(keys), keys[:MAX_PARAMETERS]
    panels = PointPanels(tuple(_make_panel(numbers, trials, key, labels[key]) for key in drawn))
    names = join_spans([Name(labels[key]) for key in drawn])
    caption: list[Span] = [Name(source.label), " by ", *names, "."]
    if len(keys) > len(drawn):
        n_drawn = numbers.read_study("figure.parameters", len(drawn), "parameters that are drawn")
        n_keys = numbers.read_study("study.parameters", len(keys), "parameters that were searched")
        caption += [" Drawn are ", n_drawn, " of ", n_keys, " parameters, the most important first."]
    caption.append(" One run a point.")
    if any(trial.status == "paused" for trial in trials):
        caption.append(" Paused trials have the value that they had when they were paused.")
    if any(trial.status == "pruned" for trial in trials):
        caption.append(" Pruned trials have the value that they had when they were stopped.")
    if any(not trial.values for trial in trials):
        caption.append(" Diverged trials have no value and are marked above the others.")
    if len(drawn) > 1 and not _is_grid(source):
        caption.append(" All parameters changed together from trial to trial.")
    alt = _describe_best(numbers, drawn[0], labels[drawn[0]], names)
    return [ReportFigure("parameters", panels, alt, tuple(caption), (f"study {source.name}",))]


def _is_grid(source: StudySource) -> bool:
    sampler = source.settings.get("sampler")
    return isinstance(sampler, dict) and "grid" in str(sampler.get("_target_", "")).lower()


def _order_keys(trials: Sequence[TrialSummary], importances: Mapping[str, float]) -> list[str]:
    """Return the keys that were searched: the learning rate, then by importance."""
    shares: dict[str, float] = {}
    for name, share in importances.items():
        shares[config_key(name)] = shares.get(config_key(name), 0.0) + share
    values: dict[str, set[str]] = {}
    for trial in trials:
        for key, value in trial.params.items():
            values.setdefault(key, set()).add(repr(value))
    keys = [key for key, found in values.items() if len(found) > 1 and not is_seed_key(key)]
    return sorted(keys, key=lambda key: (not is_learning_rate(key), -shares.get(key, 0.0)))


def is_learning_rate(key: str) -> bool:
    """Return whether a searched key is a learning rate, by the last part of its name."""
    name = key.lstrip("+").replace("/", ".").split(".")[-1].lower().replace("-", "_")
    return name in ("lr", "learning_rate", "learningrate", "max_lr", "peak_lr", "base_lr")


def _make_panel(numbers: StudyNumbers, trials: Sequence[TrialSummary], key: str, label: str) -> Points:
    by_role: dict[Role, list[TrialSummary]] = {}
    for trial in trials:
        by_role.setdefault(numbers.find_role(trial), []).append(trial)
    groups = tuple(
        PointGroup(
            _count_label(numbers, role, found),
            role,
            tuple(_read_value(trial, key) for trial in found),
            tuple(trial.values[0] if trial.values else None for trial in found),
            tuple(f"trial {trial.number}" for trial in found),
        )
        for role, found in by_role.items()
    )
    space = numbers.source.settings.get("space")
    text = str(space.get(key, "")) if isinstance(space, dict) else ""
    is_log = True if is_learning_rate(key) or re.search(r"\blog\b", text) else False if "interval" in text else None
    return Points(groups, label, numbers.axis_label, is_log)


def _count_label(numbers: StudyNumbers, role: Role, found: Sequence[TrialSummary]) -> str:
    return numbers.label_trial(found[0]) if role in ("best", "baseline") else f"{len(found)} {LABELS[role]}"


def _read_value(trial: TrialSummary, key: str) -> object:
    """Return the value of a key, as a number or a text; None if the trial has no such key."""
    if key not in trial.params:
        return None
    value = trial.params[key]
    return value if isinstance(value, bool | int | float | str) else "null" if value is None else str(value)


def _describe_best(numbers: StudyNumbers, key: str, label: str, names: Sequence[Span]) -> Text:
    source = numbers.source
    best = source.summary.best_trial
    if best is None or key not in best.params or is_same_trial(best, source.summary.baseline):
        return (Name(source.label), " by ", *names, ".")
    value, extreme = best.params[key], "highest" if source.direction == "maximize" else "lowest"
    at: Span = Name(str(value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        reading = Reading(source.name_place(best), key)
        at = numbers.book.read(make_id(f"trial {best.number}", "at", key), value, "", reading,
                               "lr" if is_learning_rate(key) else "plain")  # fmt: skip
    value_of = numbers.value_of(best)
    return (Name(source.label), " by ", *names, f"; the {extreme} is ", value_of, " at ", Name(label), " ", at, ".")
