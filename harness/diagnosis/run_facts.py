"""What a run of ours says of itself at its start, as diagnosis needs it."""

import ast
import math
from collections.abc import Mapping

from harness.core.effective_settings import EffectiveSettings
from harness.diagnosis.history import RunFacts


def extract_run_facts(
    name: str, params: Mapping[str, str], effective: EffectiveSettings, constants: Mapping[str, float]
) -> RunFacts:
    """Return the facts of a run from its settings in force, its configuration by dotted key, and its constants."""
    steps = effective.total_steps - effective.schedule_start_step
    warmup_ratio = _get_number(params, "schedule.warmup_ratio")
    return RunFacts(
        name=name,
        total_steps=effective.total_steps,
        log_every=_round_or_none(_get_number(params, "loop.log_every")) or 1,
        batch_size=effective.batch_size,
        steps_per_epoch=effective.steps_per_epoch,
        optimizer=effective.optimizer,
        peak_lr=_to_number(effective.get_group_value("peak_lr")),
        grad_clip=effective.grad_clip,
        weight_decay=_to_number(effective.get_group_value("weight_decay")),
        schedule=effective.schedule or None,
        watches="val/loss" if effective.schedule == "Plateau" else None,
        patience=_round_or_none(_get_number(params, "schedule.patience")),
        warmup_asked=_get_number(params, "schedule.warmup_steps") if warmup_ratio is None else warmup_ratio * steps,
        warmup_steps=effective.warmup_steps,
        lora_rank=_round_or_none(_get_number(params, "lora.rank")),
        uniform=constants.get("ln_vocabulary", constants.get("zero_predictor")),
        unigram=constants.get("unigram_entropy", constants.get("mean_predictor")),
        val_fraction=_get_number(params, "data.val_fraction"),
        expect=_parse_list(params.get("expect", "[]")),
    )


def _parse_list(listed: str) -> tuple[str, ...]:
    """Of a list as Python writes it; none where it was cut off."""
    try:
        return tuple(map(str, ast.literal_eval(listed)))
    except (ValueError, SyntaxError, TypeError):
        return ()


def _get_number(params: Mapping[str, str], key: str) -> float | None:
    """Return the value of `key`, or None if the key is absent or its value is not a number."""
    return _to_number(params.get(key))


def _to_number(value: object) -> float | None:
    try:
        value = float(value)  # type: ignore[arg-type]  # TypeError for what is not a number
    except (TypeError, ValueError):
        return None
    return None if math.isnan(value) else value


def _round_or_none(number: float | None) -> int | None:
    return None if number is None else round(number)
