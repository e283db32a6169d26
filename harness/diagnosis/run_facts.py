"""What a run of ours says of itself at its start, as diagnosis needs it."""

import ast
import math
from collections.abc import Mapping

from harness.diagnosis.history import RunFacts

EFFECTIVE = "effective."
MAIN_GROUP = "matrices"
"""The parameter group whose numbers stand for the run, where there are several; it is the one that train/lr is of."""


def extract_run_facts(name: str, params: Mapping[str, str], constants: Mapping[str, float]) -> RunFacts:
    """Of the dotted parameters that a run records, those in force (`effective.*`) before those asked for, and the
    constants of its task; what they do not say is None."""
    total_steps = _get_number(params, "effective.total_steps")
    schedule = params.get("effective.schedule")
    return RunFacts(
        name=name,
        total_steps=_round_or_none(total_steps),
        log_every=_round_or_none(_get_number(params, "loop.log_every")) or 1,
        batch_size=_round_or_none(_get_number(params, "effective.batch_size")),
        steps_per_epoch=_steps_per_epoch(params, total_steps),
        optimizer=params.get("effective.optimizer"),
        peak_lr=_get_group_value(params, "peak_lr"),
        grad_clip=_get_number(params, "effective.grad_clip"),
        weight_decay=_get_group_value(params, "weight_decay"),
        schedule=schedule,
        watches="val/loss" if schedule == "Plateau" else None,
        patience=_round_or_none(_get_number(params, "schedule.patience")),
        warmup_asked=_requested_warmup(params, total_steps),
        warmup_steps=_round_or_none(_get_number(params, "effective.warmup_steps")),
        lora_rank=_round_or_none(_get_number(params, "lora.rank")),
        uniform=constants.get("ln_vocabulary", constants.get("zero_predictor")),
        unigram=constants.get("unigram_entropy", constants.get("mean_predictor")),
        val_fraction=_get_number(params, "data.val_fraction"),
        expect=_parse_list(params.get("expect", "[]")),
    )


def _requested_warmup(params: Mapping[str, str], total_steps: float | None) -> float | None:
    share = _get_number(params, "schedule.warmup_ratio")
    if share is None or total_steps is None:
        return _get_number(params, "schedule.warmup_steps")
    return share * (total_steps - _schedule_start_step(params))


def _steps_per_epoch(params: Mapping[str, str], total_steps: float | None) -> float | None:
    known = _get_number(params, "effective.steps_per_epoch")
    epochs = _get_number(params, "loop.epochs")
    if known is None and epochs and total_steps:
        return (total_steps - _schedule_start_step(params)) / epochs
    return known


def _schedule_start_step(params: Mapping[str, str]) -> float:
    """Where the length of the run counts from."""
    return _get_number(params, "effective.first_step") or 0.0 if params.get("start.schedule") == "restart" else 0.0


def _get_group_value(params: Mapping[str, str], name: str) -> float | None:
    own = [key for key in params if key.startswith(f"{EFFECTIVE}{name}.")]
    chosen = f"{EFFECTIVE}{name}.{MAIN_GROUP}"
    return _get_number(params, chosen if chosen in own else next(iter(own), ""))


def _parse_list(listed: str) -> tuple[str, ...]:
    """Of a list as Python writes it; none where it was cut off."""
    try:
        return tuple(map(str, ast.literal_eval(listed)))
    except (ValueError, SyntaxError, TypeError):
        return ()


def _get_number(params: Mapping[str, str], key: str) -> float | None:
    """None where the key is not there or holds no number."""
    try:
        value = float(params.get(key, ""))
    except ValueError:
        return None
    return None if math.isnan(value) else value


def _round_or_none(number: float | None) -> int | None:
    return None if number is None else round(number)
