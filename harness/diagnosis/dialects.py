"""Suggestions in the words of a program: our overrides, arguments of transformers and Lightning, or plain English."""

import shlex
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from harness.core.events import CHECK_KEY, Suggestion
from harness.core.formatting import SMALLEST_FIXED, format_lr
from harness.diagnosis.history import RunFacts

Dialect = Literal["harness", "hf", "lightning", "plain"]
DIALECTS: tuple[Dialect, ...] = get_args(Dialect)
PROGRAM_DIALECTS: dict[str | None, Dialect] = {"harness": "harness", "transformers": "hf", "lightning": "lightning"}
"""Dialects by `RunFacts.program`."""


class Place(NamedTuple):
    """A line that several settings share."""

    line: str
    separator: str


OVERRIDES = FLAGS = Place("{}", " ")
BEST_MODEL = "--load_best_model_at_end True"
SAVING_NOTE, LIGHTNING_MONITOR = "# with the same --save_strategy as --eval_strategy", 'monitor="val_loss"'
STOPPER = Place("Trainer({})  " + SAVING_NOTE, ", ")  # the Trainer refuses BEST_MODEL if they differ
TRAINER, OPTIMIZER = Place("Trainer({})", ", "), Place("in configure_optimizers: {}", ", ")

ARGUMENTS: dict[Dialect, dict[str, list[tuple[Place, str]]]] = {
    "hf": {
        "optimizer.lr": [(FLAGS, "--learning_rate {}")],
        "optimizer.weight_decay": [(FLAGS, "--weight_decay {}")],
        "loop.grad_clip": [(FLAGS, "--max_grad_norm {}")],
        "loop.max_steps": [(FLAGS, "--max_steps {}")],
        "loop.epochs": [(FLAGS, "--num_train_epochs {}")],
        "loop.patience": [
            (FLAGS, BEST_MODEL),  # without it, the callback asks for metric_for_best_model
            (STOPPER, "callbacks=[EarlyStoppingCallback(early_stopping_patience={})]"),
        ],
        "schedule": [(FLAGS, "--lr_scheduler_type {}")],
        "schedule.warmup_steps": [(FLAGS, "--warmup_steps {}")],
        "schedule.patience": [(FLAGS, """--lr_scheduler_kwargs '{{"patience": {}}}'""")],
    },
    "lightning": {
        "optimizer.lr": [(OPTIMIZER, "lr={}")],
        "optimizer.weight_decay": [(OPTIMIZER, "weight_decay={}")],
        "loop.grad_clip": [(TRAINER, "gradient_clip_val={}")],
        "loop.max_steps": [(TRAINER, "max_steps={}")],
        "loop.epochs": [(TRAINER, "max_epochs={}")],
        "loop.patience": [(TRAINER, f"callbacks=[EarlyStopping({LIGHTNING_MONITOR}, patience={{}})]")],
        "schedule.patience": [(OPTIMIZER, "ReduceLROnPlateau(optimizer, patience={})")],
    },
}
"""The lines and texts of each setting that a program has, by our keys. All else is said in words."""
HF_SCHEDULES = {"plateau": "reduce_lr_on_plateau"}  # where the name differs from ours
HF_NO_CLIP = 0  # on the command line, None would be text

WORDS = {
    "optimizer.lr": "a learning rate of {}",
    "optimizer.weight_decay": "a weight decay of {}",
    "loop.grad_clip": "a gradient clip of {}",
    "loop.max_steps": "a run of {} steps",
    "loop.epochs": "a run of {} epochs",
    "loop.max_tokens": "a run of {} tokens",
    "loop.on_spike": "resume from a checkpoint {when} and skip the batches that followed",
    "loop.patience": "stop after {} evaluations without a new best, and keep the best checkpoint",
    "schedule": "a {} schedule of the learning rate",
    "schedule.warmup_steps": "a warm-up of {} steps",
    "schedule.warmup_ratio": "a warm-up over {} of the run",
    "schedule.patience": "a patience of {} evaluations in the plateau schedule",
    "data.val_fraction": "hold out {} of the data for evaluation",
}
VALUE_WORDS: dict[tuple[str, object], str] = {
    ("loop.grad_clip", None): "no gradient clipping",
    (CHECK_KEY, "bug"): "look for a bug in data, labels or loss: a correct model can overfit a single batch",
    (CHECK_KEY, "lr"): "try learning rates of a tenth and ten times the present one",
    ("schedule", "cosine"): "let the learning rate decay, such as along a cosine",
    ("schedule", "plateau"): "let the plateau schedule monitor the validation loss",
}
PRESENT_WORDS = {
    "optimizer.lr": "the present learning rate",
    "optimizer.weight_decay": "the present regularization, such as weight decay",
    "loop.max_steps": "the present length",
}
CHECK_COMMANDS = {"bug": "run `plateau preflight` to look for a bug", "lr": "run `plateau lr-range` to find an LR"}
FACTOR_WORDS = {1 / 3: "a third of", 1 / 2: "half", 2.0: "twice", 3.0: "three times"}


def guess_dialect(facts: RunFacts) -> Dialect:
    """Return the dialect of the program that wrote a log; plain words if it is unknown."""
    return PROGRAM_DIALECTS.get(facts.program, "plain")


def render_suggestions(suggestions: Sequence[Suggestion], dialect: Dialect = "harness") -> list[str]:
    """Return lines to copy, and in words what the program has no setting for."""
    shared: dict[Place, list[str]] = {}
    words = []
    for suggestion in suggestions:
        arguments = _render_arguments(suggestion, dialect)
        for place, text in arguments:
            shared.setdefault(place, []).append(text)
        if not arguments:
            words.append(_describe_in_words(suggestion, dialect))
    return [*(place.line.format(place.separator.join(texts)) for place, texts in shared.items()), *words]


def to_override(suggestion: Suggestion) -> str:
    """Return the suggestion as an override of run.py, for one that is a setting."""
    value = suggestion.value
    if value is None or isinstance(value, bool):
        return f"{suggestion.key}={'null' if value is None else str(value).lower()}"
    return f"{suggestion.key}={_format_value(value)}"


def _render_arguments(suggestion: Suggestion, dialect: Dialect) -> list[tuple[Place, str]]:
    """Return the texts of a suggestion and the lines they belong to; empty if it is to be said in words."""
    key, value = suggestion.key, suggestion.value
    if not suggestion.is_setting:
        return []
    if dialect == "harness":
        return [(OVERRIDES, shlex.quote(to_override(suggestion)))]
    if dialect == "hf" and key == "loop.grad_clip" and value is None:
        value = HF_NO_CLIP
    if dialect == "hf" and key == "schedule":
        value = HF_SCHEDULES.get(str(value), value)
    templates = ARGUMENTS.get(dialect, {}).get(key, [])
    return [(place, template.format(_format_value(value))) for place, template in templates]


def _describe_in_words(suggestion: Suggestion, dialect: Dialect) -> str:
    if dialect == "harness" and suggestion.key == CHECK_KEY:
        return CHECK_COMMANDS[str(suggestion.value)]
    factor = suggestion.factor
    times = "" if factor is None else FACTOR_WORDS.get(factor, f"{factor:.2g} times")
    if suggestion.is_relative:
        return f"{times} {PRESENT_WORDS.get(suggestion.key, f'the present {suggestion.key}')}"
    if (known := VALUE_WORDS.get((suggestion.key, suggestion.value))) is not None:
        return known
    when = f"of {suggestion.when} or before" if suggestion.when else "from before the rise"
    text = WORDS.get(suggestion.key, f"{suggestion.key} {{}}").format(_format_value(suggestion.value), when=when)
    return f"{text}, {times} the present one" if times else text


def _format_value(value: float | int | bool | str | None) -> str:
    """Return a value as it is typed: 3e-4, 0.1, 2000."""
    if isinstance(value, float):
        return format_lr(value) if 0 < abs(value) < SMALLEST_FIXED else f"{value:g}"
    return str(value)
