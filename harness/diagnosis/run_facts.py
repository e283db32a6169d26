"""What a run of ours says of itself at its start, as diagnosis needs it."""

import ast
import math
from collections.abc import Mapping

from harness.diagnosis.history import Facts

EFFECTIVE = "effective."
TARGETS = "matrices"
"""The parameter group whose numbers stand for the run, where there are several; it is the one that train/lr is of."""


def facts_of(name: str, params: Mapping[str, str], constants: Mapping[str, float]) -> Facts:
    """Of the dotted parameters that a run records, those in force (`effective.*`) before those asked for, and the
    constants of its task; what they do not say is None."""
    total_steps = _number(params, "effective.total_steps")
    schedule = params.get("effective.schedule")
    return Facts(
        name=name,
        total_steps=_whole(total_steps),
        log_every=_whole(_number(params, "loop.log_every")) or 1,
        batch_size=_whole(_number(params, "effective.batch_size")),
        steps_per_epoch=_steps_per_epoch(params, total_steps),
        optimizer=params.get("effective.optimizer"),
        peak_lr=_of_group(params, "peak_lr"),
        grad_clip=_number(params, "effective.grad_clip"),
        weight_decay=_of_group(params, "weight_decay"),
        schedule=schedule,
        watches="val/loss" if schedule == "Plateau" else None,
        patience=_whole(_number(params, "schedule.patience")),
        warmup_asked=_warmup_asked(params, total_steps),
        warmup_steps=_whole(_number(params, "effective.warmup_steps")),
        lora_rank=_whole(_number(params, "lora.rank")),
        uniform=constants.get("ln_vocabulary", constants.get("zero_predictor")),
        unigram=constants.get("unigram_entropy", constants.get("mean_predictor")),
        val_share=_number(params, "data.val_share"),
        expect=_texts(params.get("expect", "[]")),
    )


def _warmup_asked(params: Mapping[str, str], total_steps: float | None) -> float | None:
    share = _number(params, "schedule.warmup_ratio")
    if share is None or total_steps is None:
        return _number(params, "schedule.warmup_steps")
    return share * (total_steps - _leg_step(params))


def _steps_per_epoch(params: Mapping[str, str], total_steps: float | None) -> float | None:
    known = _number(params, "effective.steps_per_epoch")
    epochs = _number(params, "loop.epochs")
    if known is None and epochs and total_steps:
        return (total_steps - _leg_step(params)) / epochs
    return known


def _leg_step(params: Mapping[str, str]) -> float:
    """Where the length of the run counts from."""
    return _number(params, "effective.first_step") or 0.0 if params.get("start.schedule") == "restart" else 0.0


def _of_group(params: Mapping[str, str], name: str) -> float | None:
    own = [key for key in params if key.startswith(f"{EFFECTIVE}{name}.")]
    chosen = f"{EFFECTIVE}{name}.{TARGETS}"
    return _number(params, chosen if chosen in own else next(iter(own), ""))


def _texts(listed: str) -> tuple[str, ...]:
    """Of a list as Python writes it; none where it was cut off."""
    try:
        return tuple(map(str, ast.literal_eval(listed)))
    except (ValueError, SyntaxError, TypeError):
        return ()


def _number(params: Mapping[str, str], key: str) -> float | None:
    """None where the key is not there or holds no number."""
    try:
        value = float(params.get(key, ""))
    except ValueError:
        return None
    return None if math.isnan(value) else value


def _whole(number: float | None) -> int | None:
    return None if number is None else round(number)
