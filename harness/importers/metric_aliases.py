"""What others call the metrics that we know, and their points gathered into a history by our names."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from harness.diagnosis.history import LOSSES, Facts, History
from harness.importers.lr_schedules import drawn

Points = Mapping[str, Sequence[tuple[int, float]]]
"""Step and value by the name that whoever recorded it gave."""

TOKENS = "train/tokens"
OURS = ("train/", "val/", "perf/", "grad_norm/", "constant/")

SYNONYMS = {
    "train/loss": "train_loss loss training_loss loss_train train_loss_step lm_loss train_err train_error train",
    "val/loss": "val_loss eval_loss valid_loss validation_loss dev_loss test_loss loss_val loss_eval loss_valid "
    "loss_validation val_error val_err val",
    "train/lr": "lr learning_rate train_lr train_learning_rate lr_adamw",
    "train/grad_norm": "grad_norm gradient_norm train_grad_norm gnorm norm train_gradient_norm total_grad_norm",
    "train/clip_fraction": "clip_fraction train_clip_fraction clip_frac",
    "train/tokens": "tokens num_input_tokens_seen train_num_input_tokens_seen tokens_seen num_tokens total_tokens",
    "perf/tokens_per_second": "tokens_per_second tokens_per_sec tok_s tok_sec tokens_s tokens_sec tps",
    "perf/steps_per_second": "steps_per_second steps_per_sec steps_s steps_sec it_s its_s",
    "val/coverage": "coverage val_coverage eval_coverage",
}
STEPS = (
    "global_step trainer_global_step train_global_step step steps iter iteration iterations it update updates "
    "train_step batch"
)
EPOCHS = "epoch epochs train_epoch"

ORDER = {name: order for spelled in (*SYNONYMS.values(), STEPS, EPOCHS) for order, name in enumerate(spelled.split())}
MEANING = {name: meaning for meaning, spelled in SYNONYMS.items() for name in spelled.split()}
MEANING |= dict.fromkeys(STEPS.split(), "step") | dict.fromkeys(EPOCHS.split(), "epoch")
OF_THE_WHOLE = "train_steps_per_second"
"""Stands in the summary at the end of a transformers Trainer, whose train_loss is the mean of the whole run."""
WRAPPERS = ("metrics_", "metric_", "logs_", "log_")


@lru_cache(4096)
def meaning(name: str) -> str | None:
    """What a name stands for: one of our metrics, `step`, `epoch`, or nothing known."""
    return MEANING.get(plain(name), name if name.startswith(OURS) else None)


def plain(name: str) -> str:
    """`Train/LearningRate`, `train learning-rate` and `run 7 - Train/LearningRate` are all train_learning_rate."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name.rpartition(" - ")[2])
    text = re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")
    return next((text.removeprefix(wrapper) for wrapper in WRAPPERS if text.startswith(wrapper)), text)


def history_of(points: Points, facts: Facts) -> History:
    """The history of `points` by our names; of several names for one metric that with the most points counts. What the
    curves tell beside themselves is added to the `facts` that lack it."""
    chosen: dict[str, str] = {}
    for name in points:
        own = meaning(name)
        if own not in (None, "step", "epoch") and (
            own not in chosen or _rank(points, name) > _rank(points, chosen[own])
        ):
            chosen[own] = name
    history = History(facts)
    for own, name in chosen.items():
        if own != TOKENS:
            _add(history, own, points[name])
    per_step = _take_tokens(history, points[chosen[TOKENS]]) if TOKENS in chosen else None
    left_out = "".join(_left_out(history, own, points[chosen[own]]) for own in LOSSES if own in chosen)
    history.facts = replace(facts, source=facts.source + left_out, tokens_per_step=facts.tokens_per_step or per_step)
    history.facts = _completed(history, points)
    return history


def _add(history: History, own: str, points: Sequence[tuple[int, float]]) -> None:
    for step, value in points:
        history.add(step, {own: value})


def _take_tokens(history: History, points: Sequence[tuple[int, float]]) -> float | None:
    """Into the history, if they rise, for only then are they those of the whole run; those of a step, if they are the
    same in every row."""
    counted = History()
    _add(counted, TOKENS, points)
    values = counted[TOKENS].values
    if len(values) > 1 and values[-1] > values[0] and np.all(np.diff(values) >= 0):
        _add(history, TOKENS, points)
    return float(values[0]) if len(values) > 1 and values[0] > 0 and np.all(values == values[0]) else None


def _left_out(history: History, own: str, points: Sequence[tuple[int, float]]) -> str:
    lost = len(points) - len(history[own])
    return f"; {lost} of {len(points)} points of {own} left out, as their steps come again later" if lost else ""


def steps_per_epoch(epochs: Sequence[tuple[int, float]]) -> float | None:
    """From the steps at which each epoch, whole or not, is first told of; None where there is only one."""
    first: dict[float, int] = {}
    for step, epoch in epochs:
        first.setdefault(epoch, step)
    low, high = min(first, default=0), max(first, default=0)
    return (first[high] - first[low]) / (high - low) if high > low and first[high] > first[low] else None


def _rank(points: Points, name: str) -> tuple[bool, int, int]:
    return name.startswith(OURS), len(points[name]), -ORDER.get(plain(name), 0)


def _completed(history: History, points: Points) -> Facts:
    facts, lrs, gaps = history.facts, history["train/lr"].values, np.diff(history["train/loss"].steps)
    told = [points[name] for name in points if meaning(name) == "epoch"]
    return replace(
        facts,
        schedule=facts.schedule or drawn(history["train/lr"]),
        peak_lr=facts.peak_lr if facts.peak_lr is not None or not len(lrs) else float(lrs.max()),
        log_every=facts.log_every if facts.log_every > 1 or not len(gaps) else max(1, round(float(np.median(gaps)))),
        steps_per_epoch=facts.steps_per_epoch or next((found for found in map(steps_per_epoch, told) if found), None),
    )
