"""Suggestions in the words of a program: our overrides, arguments of transformers and Lightning, or plain English."""

import shlex
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, get_args

from harness.core.events import Suggestion
from harness.core.formatting import SMALLEST_FIXED, format_lr
from harness.diagnosis.history import RunFacts

Dialect = Literal["harness", "hf", "lightning", "plain"]
DIALECTS: tuple[Dialect, ...] = get_args(Dialect)
PROGRAM_DIALECTS: dict[str | None, Dialect] = {"harness": "harness", "transformers": "hf", "lightning": "lightning"}

HF_FLAGS = {
    "optimizer.lr": "learning_rate",
    "optimizer.weight_decay": "weight_decay",
    "loop.grad_clip": "max_grad_norm",
    "loop.max_steps": "max_steps",
    "loop.epochs": "num_train_epochs",
    "schedule": "lr_scheduler_type",
    "schedule.warmup_steps": "warmup_steps",
    "schedule.warmup_ratio": "warmup_ratio",
}
"""Fields of transformers.TrainingArguments by our keys."""
HF_SCHEDULES = {"plateau": "reduce_lr_on_plateau"}  # where the name differs from ours
LIGHTNING_ARGUMENTS = {
    "loop.grad_clip": "gradient_clip_val",
    "loop.max_steps": "max_steps",
    "loop.epochs": "max_epochs",
}
"""Arguments of lightning.Trainer by our keys."""
OPTIMIZER_ARGUMENTS = {"optimizer.lr": "lr", "optimizer.weight_decay": "weight_decay"}

FACTORS = {1 / 3: "a third of", 1 / 2: "half", 2.0: "twice", 3.0: "three times"}


def guess_dialect(facts: RunFacts) -> Dialect:
    """Return the dialect of the program that wrote a log; plain words if it is unknown."""
    return PROGRAM_DIALECTS.get(facts.program, "plain")


def render_suggestions(suggestions: Sequence[Suggestion], dialect: Dialect = "harness") -> list[str]:
    """Return lines to copy; what the program has no setting for is said in words."""
    settings = [one for one in suggestions if not one.is_relative]
    renderers: dict[Dialect, Callable[[Suggestion], object]] = {
        "harness": lambda _: True, "hf": _to_hf_flag, "lightning": _to_lightning, "plain": lambda _: None
    }  # fmt: skip
    rendered = [one for one in settings if renderers[dialect](one)]
    lines: list[str] = []
    if dialect == "harness" and rendered:
        lines = [shlex.join(map(to_override, rendered))]
    elif dialect == "hf" and rendered:
        lines = [shlex.join(part for one in rendered for part in _to_hf_flag(one))]
    elif dialect == "lightning":
        lines = list(_join_lightning(rendered))
    return [*lines, *(_describe_rest(one, dialect) for one in suggestions if one not in rendered)]


def to_override(suggestion: Suggestion) -> str:
    """Return the suggestion as an override of run.py."""
    return f"{suggestion.key}={format_setting(suggestion.value, none='null', true='true', false='false')}"


def format_setting(
    value: float | int | bool | str | None, none: str = "None", true: str = "True", false: str = "False"
) -> str:
    """Return a value as it is typed: 3e-4, 0.1, 2000."""
    if value is None:
        return none
    if isinstance(value, bool):
        return true if value else false
    if isinstance(value, float):
        return format_lr(value) if 0 < abs(value) < SMALLEST_FIXED else f"{value:g}"
    return str(value)


def describe_in_words(suggestion: Suggestion) -> str:
    """Return what to change in plain English."""
    value, factor = format_setting(suggestion.value), suggestion.factor
    multiple = "" if factor is None else FACTORS.get(factor, f"{factor:.2g} times")
    if suggestion.is_relative:
        return f"{multiple} the present {NOUNS.get(suggestion.key, suggestion.key)}"
    if suggestion.key == "loop.grad_clip" and suggestion.value is None:
        return "no gradient clipping"
    if suggestion.key == "schedule":
        return SCHEDULES.get(value, f"a {value} schedule of the learning rate")
    if suggestion.key == "data.val_fraction" and isinstance(suggestion.value, float):
        return f"hold out {suggestion.value:.2g} of the data for evaluation"
    text = SENTENCES.get(suggestion.key, f"{suggestion.key} {{}}").format(value)
    return f"{text}, {multiple} the present one" if factor else text


NOUNS = {"optimizer.lr": "learning rate"}
SENTENCES = {
    "optimizer.lr": "a learning rate of {}",
    "optimizer.weight_decay": "a weight decay of {}",
    "loop.grad_clip": "a gradient clip of {}",
    "loop.max_steps": "a run of {} steps",
    "loop.epochs": "a run of {} epochs",
    "loop.max_tokens": "a run of {} tokens",
    "loop.on_spike": "resume from a checkpoint before the rise and skip the batches that led to it",
    "loop.patience": "stop after {} evaluations without a new best, and keep the best checkpoint",
    "schedule.warmup_steps": "a warm-up of {} steps",
    "schedule.warmup_ratio": "a warm-up over {} of the run",
    "schedule.patience": "a patience of {} evaluations in the plateau schedule",
}
SCHEDULES = {
    "cosine": "let the learning rate decay, such as along a cosine",
    "plateau": "let the plateau schedule monitor the validation loss",
}


def _to_hf_flag(suggestion: Suggestion) -> list[str]:
    """Return the command-line flag of TrainingArguments, empty if there is none."""
    flag, value = HF_FLAGS.get(suggestion.key), suggestion.value
    if flag is None:
        return []
    if suggestion.key == "loop.grad_clip" and value is None:
        value = 0  # which switches it off; the field takes no None on the command line
    if suggestion.key == "schedule":
        value = HF_SCHEDULES.get(str(value), value)
    return [f"--{flag}", format_setting(value)]


def _to_lightning(suggestion: Suggestion) -> str:
    """Return the keyword argument of Trainer or of the optimizer, empty if there is none."""
    name = {**LIGHTNING_ARGUMENTS, **OPTIMIZER_ARGUMENTS}.get(suggestion.key)
    return f"{name}={format_setting(suggestion.value)}" if name else ""


def _join_lightning(suggestions: Iterable[Suggestion]) -> Iterable[str]:
    optimizer = [_to_lightning(one) for one in suggestions if one.key in OPTIMIZER_ARGUMENTS]
    trainer = [_to_lightning(one) for one in suggestions if one.key in LIGHTNING_ARGUMENTS]
    if optimizer:
        yield f"in configure_optimizers: {', '.join(optimizer)}"
    if trainer:
        yield f"Trainer({', '.join(trainer)})"


def _describe_rest(suggestion: Suggestion, dialect: Dialect) -> str:
    """Return the line of a suggestion that is no argument of the program."""
    patience = format_setting(suggestion.value)
    if suggestion.key == "loop.patience" and dialect == "hf":
        callback = f"EarlyStoppingCallback(early_stopping_patience={patience})"
        return f"Trainer(callbacks=[{callback}]), with --load_best_model_at_end"
    if suggestion.key == "loop.patience" and dialect == "lightning":
        return f'Trainer(callbacks=[EarlyStopping(monitor="val_loss", patience={patience})])'
    if suggestion.key == "schedule.patience" and dialect == "hf":
        return f"""--lr_scheduler_kwargs '{{"patience": {patience}}}'"""
    if suggestion.key == "schedule.patience" and dialect == "lightning":
        return f"in configure_optimizers: ReduceLROnPlateau(optimizer, patience={patience})"
    return describe_in_words(suggestion)
