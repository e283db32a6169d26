"""What others call the metrics that we know, and their points gathered into a history by our names."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from harness.diagnosis.history import LOSS_METRICS, History, RunFacts
from harness.importers.lr_schedules import schedule_from_curve

MetricPoints = Mapping[str, Sequence[tuple[int, float]]]
"""Step and value by the name that whoever recorded it gave."""

TOKENS = "train/tokens"
NATIVE_PREFIXES = ("train/", "val/", "perf/", "grad_norm/", "constant/")

METRIC_ALIASES = {
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
STEP_ALIASES = (
    "global_step trainer_global_step train_global_step step steps iter iteration iterations it update updates "
    "train_step batch"
)
EPOCH_ALIASES = "epoch epochs train_epoch"

ALIAS_ORDER = {
    name: order
    for spelled in (*METRIC_ALIASES.values(), STEP_ALIASES, EPOCH_ALIASES)
    for order, name in enumerate(spelled.split())
}
CANONICAL_NAMES = {name: meaning for meaning, spelled in METRIC_ALIASES.items() for name in spelled.split()}
CANONICAL_NAMES |= dict.fromkeys(STEP_ALIASES.split(), "step") | dict.fromkeys(EPOCH_ALIASES.split(), "epoch")
SUMMARY_KEY = "train_steps_per_second"
"""Stands in the summary at the end of a transformers Trainer, whose train_loss is the mean of the whole run."""
WRAPPER_PREFIXES = ("metrics_", "metric_", "logs_", "log_")


@lru_cache(4096)
def canonical_name(name: str) -> str | None:
    """What a name stands for: one of our metrics, `step`, `epoch`, or nothing known."""
    return CANONICAL_NAMES.get(normalize_name(name), name if name.startswith(NATIVE_PREFIXES) else None)


def normalize_name(name: str) -> str:
    """`Train/LearningRate`, `train learning-rate` and `run 7 - Train/LearningRate` are all train_learning_rate."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name.rpartition(" - ")[2])
    text = re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")
    return next((text.removeprefix(wrapper) for wrapper in WRAPPER_PREFIXES if text.startswith(wrapper)), text)


def build_history(points: MetricPoints, facts: RunFacts) -> History:
    """The history of `points` by our names; of several names for one metric that with the most points counts. What the
    curves tell beside themselves is added to the `facts` that lack it."""
    chosen: dict[str, str] = {}
    for name in points:
        own = canonical_name(name)
        if own not in (None, "step", "epoch") and (
            own not in chosen or _rank_alias(points, name) > _rank_alias(points, chosen[own])
        ):
            chosen[own] = name
    history = History(facts)
    for own, name in chosen.items():
        if own != TOKENS:
            _add_points(history, own, points[name])
    per_step = _add_tokens(history, points[chosen[TOKENS]]) if TOKENS in chosen else None
    left_out = "".join(_describe_dropped(history, own, points[chosen[own]]) for own in LOSS_METRICS if own in chosen)
    history.facts = replace(facts, source=facts.source + left_out, tokens_per_step=facts.tokens_per_step or per_step)
    history.facts = _infer_facts(history, points)
    return history


def _add_points(history: History, metric: str, points: Sequence[tuple[int, float]]) -> None:
    for step, value in points:
        history.add_row(step, {metric: value})


def _add_tokens(history: History, points: Sequence[tuple[int, float]]) -> float | None:
    """Into the history, if they rise, for only then are they those of the whole run; those of a step, if they are the
    same in every row."""
    counted = History()
    _add_points(counted, TOKENS, points)
    values = counted[TOKENS].values
    if len(values) > 1 and values[-1] > values[0] and np.all(np.diff(values) >= 0):
        _add_points(history, TOKENS, points)
    return float(values[0]) if len(values) > 1 and values[0] > 0 and np.all(values == values[0]) else None


def _describe_dropped(history: History, metric: str, points: Sequence[tuple[int, float]]) -> str:
    lost = len(points) - len(history[metric])
    return f"; {lost} of {len(points)} points of {metric} left out, as their steps come again later" if lost else ""


def infer_steps_per_epoch(epochs: Sequence[tuple[int, float]]) -> float | None:
    """From the steps at which each epoch, whole or not, is first told of; None where there is only one."""
    first: dict[float, int] = {}
    for step, epoch in epochs:
        first.setdefault(epoch, step)
    low, high = min(first, default=0), max(first, default=0)
    return (first[high] - first[low]) / (high - low) if high > low and first[high] > first[low] else None


def _rank_alias(points: MetricPoints, name: str) -> tuple[bool, int, int]:
    return name.startswith(NATIVE_PREFIXES), len(points[name]), -ALIAS_ORDER.get(normalize_name(name), 0)


def _infer_facts(history: History, points: MetricPoints) -> RunFacts:
    facts, lrs, gaps = history.facts, history["train/lr"].values, np.diff(history["train/loss"].steps)
    told = [points[name] for name in points if canonical_name(name) == "epoch"]
    return replace(
        facts,
        schedule=facts.schedule or schedule_from_curve(history["train/lr"]),
        peak_lr=facts.peak_lr if facts.peak_lr is not None or not len(lrs) else float(lrs.max()),
        log_every=facts.log_every if facts.log_every > 1 or not len(gaps) else max(1, round(float(np.median(gaps)))),
        steps_per_epoch=facts.steps_per_epoch
        or next((found for found in map(infer_steps_per_epoch, told) if found), None),
    )
