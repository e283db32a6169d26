"""Comparison of the data on which the validation losses of several runs were measured."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.diagnosis.history import DataIdentity, History
from harness.diagnosis.plateau_window import drop_non_finite
from harness.diagnosis.thresholds import Thresholds

Verdict = Literal["comparable", "not comparable", "cannot tell"]
FOREIGN = "the log does not say which data it was validated on"
SHOWN_DIGITS = 8  # of a digest
MAX_NAMES = 3  # of runs that share a value
MAX_LOSS_RATIO = 20  # of the best losses of trainings of one task
VOCABULARY_SETTINGS = ("vocab_size", "vocabulary_size", "tokenizer", "tokenizer_name", "tokenizer_name_or_path")
DATA_SETTINGS = (
    "dataset", "dataset_name", "dataset_config_name", "data", "data_dir", "data_path", "train_file", "eval_dataset",
    "validation_file", "val_file", "val_data", "test_file", "eval_split", "task", "task_name", "label_smoothing",
    "label_smoothing_factor", "block_size", "seq_len", "seq_length", "sequence_length", "max_length", "max_seq_length",
)  # fmt: skip
"""Settings of other programs, by the last part of their names, that may change what a validation loss measures."""


@dataclass(frozen=True)
class Comparability:
    """The verdict with a sentence for each difference, or for each thing that is unknown."""

    verdict: Verdict
    reasons: tuple[str, ...] = ()
    has_tokens: bool = True

    def __str__(self) -> str:
        match self.verdict:
            case "comparable":
                tokens = "tokenizer, vocabulary, " * self.has_tokens
                return f"these runs are comparable: same validation data, {tokens}unit and coverage"
            case "not comparable":
                return "these runs are not comparable:"
        return "cannot tell whether these runs are comparable:"


def compare_runs(histories: Sequence[History], thresholds: Thresholds | None = None) -> Comparability:
    """Compare validation data, how they are cut and scored, tokenizer, vocabulary, unit and coverage.

    A difference makes the runs not comparable. Otherwise the verdict is "cannot tell" if one of them is unknown for a
    run, as it is for logs of other programs.
    """
    names = name_distinctly(histories)
    differences = list(_find_differences(histories, names, thresholds or Thresholds()))
    if differences:
        return Comparability("not comparable", tuple(differences))
    unknown = list(_find_unknowns(histories, names))
    has_tokens = any(history.facts.data is None or history.facts.data.tokenizer != "" for history in histories)
    return Comparability("cannot tell" if unknown else "comparable", tuple(unknown), has_tokens)


def _find_differences(histories: Sequence[History], names: Sequence[str], thresholds: Thresholds) -> Iterator[str]:
    data = [history.facts.data for history in histories]

    def group(read: Callable[[DataIdentity], Any]) -> dict[Any, list[str]]:
        return _group_names([read(one) if one else None for one in data], names)

    tokenizers, vocabularies = group(lambda one: one.tokenizer), group(lambda one: one.vocabulary)
    if len(tokenizers) > 1:
        text = _format_groups(tokenizers, lambda digest: _shorten(digest) if digest else "none")
        yield f"tokenizer: {text}; a loss per token depends on it, compare val/bits_per_byte on the same text"
    if len(vocabularies) > 1:
        yield f"vocabulary: {_format_groups(vocabularies, lambda size: f'{size} tokens')}"
    # The digest of the validation data is that of its tokens, so under other tokenizers only the size can be compared.
    same_tokens = len(tokenizers) <= 1
    validation = group(lambda one: (one.name, (one.validation or one.digest) if same_tokens else one.size))
    if len({value[1] for value in validation}) > 1:
        text = _format_groups(validation, lambda value: f"{value[0]} {_shorten(value[1])}")
        yield f"validation data: {text}; evaluate all runs on one set"
    for key in dict.fromkeys(key for history in histories for key in history.facts.objective):
        settings = _group_names([history.facts.objective.get(key) for history in histories], names)
        if len(settings) > 1:
            yield f"{key}: {_format_groups(settings, str)}; the validation loss depends on it, train with one value"
    for key, text in _compare_foreign_settings(histories, names, VOCABULARY_SETTINGS):
        yield f"{key}: {text}; a loss per token depends on it, compare a loss per byte on the same text"
    units = _group_names([history.facts.unit for history in histories], names)
    if len(units) > 1:
        yield f"unit of val/loss: {_format_groups(units, str)}; compare a metric that all runs have"
    coverages = [get_last_coverage(history) for history in histories]
    known = [coverage for coverage in coverages if coverage is not None]
    if known and max(known) - min(known) > thresholds.coverage_gap:
        text = _format_groups(_group_names(coverages, names), lambda share: f"{share:.1%}")
        yield f"part of the validation set that is scored: {text}; evaluate all of it"


def _find_unknowns(histories: Sequence[History], names: Sequence[str]) -> Iterator[str]:
    named = list(zip(histories, names, strict=True))
    foreign = [name for history, name in named if history.facts.data is None]
    if len(foreign) == len(named):
        yield "the logs do not say which data they were validated on"
    elif foreign:
        yield f"{_list_names(foreign)}: {FOREIGN}, nor with which tokenizer, in which unit or how much of it"
    for key, text in _compare_foreign_settings(histories, names, DATA_SETTINGS):
        yield f"{key}: {text}; the validation losses may measure different things"
    best = {name: float(losses.min()) for history, name in named
            if len(losses := drop_non_finite(history["val/loss"]).values)}  # fmt: skip
    if foreign and best and max(best.values()) > MAX_LOSS_RATIO * min(best.values()) > 0:
        text = ", ".join(f"{value:.4g} ({name})" for name, value in best.items())
        yield f"best losses: {text}; they are so far apart that they hardly measure the same thing"
    for history, name in named:
        if history.facts.data is not None and not history.facts.unit:
            yield f"{name}: it has no evaluation, so no unit"


def _compare_foreign_settings(
    histories: Sequence[History], names: Sequence[str], wanted: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Yield the settings of other programs with one of the `wanted` names that differ, and who has which value."""
    settings = [(one.facts.settings or {}) if one.facts.data is None else {} for one in histories]
    for key in dict.fromkeys(key for values in settings for key in values):
        if re.split(r"[./]", key)[-1].lower().replace("-", "_") in wanted:
            groups = _group_names([values.get(key) for values in settings], names)
            if len(groups) > 1:
                yield key, _format_groups(groups, str)


def get_last_coverage(history: History) -> float | None:
    """Return the scored share of the validation set; our evaluations score all of it unless they say otherwise."""
    values = history["val/coverage"].values
    return float(values[-1]) if len(values) else None if history.facts.data is None else 1.0


def _group_names(values: Sequence[Any], names: Sequence[str]) -> dict[Any, list[str]]:
    """Return the names of the runs by value, without those whose value is unknown."""
    groups: dict[Any, list[str]] = {}
    for value, name in zip(values, names, strict=True):
        if value is not None:
            groups.setdefault(value, []).append(name)
    return groups


def _format_groups(groups: dict[Any, list[str]], format_value: Callable[..., str]) -> str:
    return ", ".join(f"{format_value(value)} ({_list_names(names)})" for value, names in groups.items())


def _list_names(names: Sequence[str]) -> str:
    return f"{', '.join(names[:MAX_NAMES])}{', …' * (len(names) > MAX_NAMES)}"


def _shorten(value: object) -> str:
    return str(value)[:SHOWN_DIGITS]


def name_distinctly(histories: Sequence[History]) -> list[str]:
    """Return the names of the runs, with a number where several have the same one."""
    names = [history.facts.name or "unnamed" for history in histories]
    return [name if names.count(name) == 1 else f"{name} #{index}" for index, name in enumerate(names, start=1)]
