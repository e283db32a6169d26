"""Names of runs in MLflow: what tells runs apart comes first, because the UI cuts off the end."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from harness.core.effective_settings import EffectiveSettings
from harness.core.formatting import format_lr, shorten_keys
from harness.record.trial_record import is_foreign

STUDY_TAG = "study"  # name of the study that a trial belongs to
TRIAL_TAG = "trial"  # its number
CONFIG_TAG, SEED_TAG = "config", "seed"  # of a trial that is one of several runs of a configuration
DATED_NAME = re.compile(r"(\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d)_(.+)")
MAX_VALUE_CHARACTERS, MAX_NAME_CHARACTERS = 24, 120


def format_run_name(start: Mapping[str, Any]) -> str:
    """Return the name of the run with the start entry `start`, such as "adamw-cosine 2026-11-29_10-45-12".

    A trial is named "STUDY/3 adamw 3e-3" after its study, its number, its optimizer and its peak LR; one that another
    program ran "STUDY/3 lr=3e-3 rank=8", after the values that the sweep chose for it; and a run of a configuration
    with one of several seeds "STUDY/3 CONFIG seed 11".
    """
    name = start["name"]
    tags = start["tags"]
    if CONFIG_TAG in tags:
        return _join_words([f"{tags[STUDY_TAG]}/{name}", tags[CONFIG_TAG], f"seed {tags[SEED_TAG]}"])
    if study := tags.get(STUDY_TAG):
        settings = _short_values(start["searched"]) if is_foreign(start) else _optimizer_and_lr(start)
        return _join_words([f"{study}/{name}", *settings])
    dated = DATED_NAME.fullmatch(name)
    return f"{dated[2]} {dated[1]}" if dated else name


def _optimizer_and_lr(start: Mapping[str, Any]) -> Iterator[str]:
    effective = EffectiveSettings.from_json(start["effective"])
    yield start["params"].get("optimizer") or effective.optimizer.lower()
    lr = effective.get_group_value("peak_lr")
    if isinstance(lr, float):
        yield format_lr(lr)


def _short_values(searched: Mapping[str, Any]) -> Iterator[str]:
    """Yield `key=value` with the last part of each key that tells it from the others."""
    labels = shorten_keys(searched)
    for key, value in searched.items():
        text = _format_value(value)
        shown = text if len(text) <= MAX_VALUE_CHARACTERS else f"…{text[1 - MAX_VALUE_CHARACTERS :]}"  # ends of paths
        yield f"{labels[key].lstrip('-+')}={shown}"


def _format_value(value: Any) -> str:
    if not isinstance(value, float):
        return str(value).replace("\n", " ")
    return format_lr(value) if 0 < abs(value) < 0.01 else f"{value:.3g}"


def _join_words(words: list[str]) -> str:
    """Return as many of the words as a name may have, always the first."""
    length = 0
    kept: list[str] = []
    for word in words:
        length += len(word) + 1
        if kept and length > MAX_NAME_CHARACTERS:
            return " ".join([*kept, "…"])
        kept.append(word)
    return " ".join(kept)
