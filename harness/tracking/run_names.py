"""Names of runs in MLflow: what tells runs apart comes first, because the UI cuts off the end."""

import re
from collections.abc import Mapping
from typing import Any

from harness.core.effective_settings import EffectiveSettings
from harness.core.formatting import format_lr

STUDY_TAG = "study"  # name of the study that a trial belongs to
TRIAL_TAG = "trial"  # its number
DATED_NAME = re.compile(r"(\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d)_(.+)")


def format_run_name(start: Mapping[str, Any]) -> str:
    """Return the name of the run with the start entry `start`, such as "adamw-cosine 2026-11-29_10-45-12".

    A trial is named "STUDY/3 adamw 3e-3" after its study, its number, its optimizer and its peak LR.
    """
    name = start["name"]
    if study := start["tags"].get(STUDY_TAG):
        effective = EffectiveSettings.from_json(start["effective"])
        optimizer = start["params"].get("optimizer") or effective.optimizer.lower()
        lr = effective.get_group_value("peak_lr")
        return " ".join([f"{study}/{name}", optimizer, *([format_lr(lr)] if isinstance(lr, float) else [])])
    dated = DATED_NAME.fullmatch(name)
    return f"{dated[2]} {dated[1]}" if dated else name
