"""Names that other programs give to our metrics, and the history built from points recorded under them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from harness.diagnosis.history import LOSS_METRICS, History, RunFacts
from harness.importers.lr_schedules import schedule_from_curve

MetricPoints = Mapping[str, Sequence[tuple[int, float]]]
"""(step, value) pairs by the name they were recorded under."""

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
    "step": "global_step trainer_global_step train_global_step step steps iter iteration iterations it update updates "
    "train_step batch",
    "epoch": "epoch epochs train_epoch",
}
"""Aliases of each metric after `normalize_name`, the most specific first."""
CANONICAL_NAMES = {alias: metric for metric, aliases in METRIC_ALIASES.items() for alias in aliases.split()}
ALIAS_ORDER = {alias: order for aliases in METRIC_ALIASES.values() for order, alias in enumerate(aliases.split())}

SUMMARY_KEY = "train_steps_per_second"
"""Marks the last log entry of a transformers Trainer, whose train_loss is the mean over the whole run."""
WRAPPER_PREFIXES = ("metrics_", "metric_", "logs_", "log_")


@lru_cache(4096)
def canonical_name(name: str) -> str | None:
    """Return the metric of ours that `name` stands for, "step" or "epoch", or None if the name is unknown."""
    return CANONICAL_NAMES.get(normalize_name(name), name if name.startswith(NATIVE_PREFIXES) else None)


def normalize_name(name: str) -> str:
    """Return `name` in snake case without the prefix of a dashboard.

    `Train/LearningRate`, `train learning-rate` and `run 7 - Train/LearningRate` (W&B) become train_learning_rate.
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name.rpartition(" - ")[2])
    text = re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")
    return next((text.removeprefix(prefix) for prefix in WRAPPER_PREFIXES if text.startswith(prefix)), text)


def build_history(points: MetricPoints, facts: RunFacts) -> History:
    """Return the history of `points` under our metric names.

    Of several names for one metric, the one with the most points is used. Facts that are missing are inferred from the
    curves where possible.
    """
    chosen: dict[str, str] = {}
    for name in points:
        metric = canonical_name(name)
        if metric in (None, "step", "epoch"):
            continue
        if metric not in chosen or _rank_alias(points, name) > _rank_alias(points, chosen[metric]):
            chosen[metric] = name
    history = History(facts)
    for metric, name in chosen.items():
        if metric != TOKENS:
            _add_points(history, metric, points[name])
    per_step = _add_tokens(history, points[chosen[TOKENS]]) if TOKENS in chosen else None
    source = facts.source
    for metric in LOSS_METRICS:
        recorded = len(points[chosen[metric]]) if metric in chosen else 0
        if dropped := recorded - len(history[metric]):
            source += f"; {metric}: {dropped} of {recorded} points dropped, their steps were repeated"
    history.facts = replace(facts, source=source, tokens_per_step=facts.tokens_per_step or per_step)
    history.facts = _infer_facts(history, points)
    return history


def _add_points(history: History, metric: str, points: Sequence[tuple[int, float]]) -> None:
    for step, value in points:
        history.add_row(step, {metric: value})


def _add_tokens(history: History, points: Sequence[tuple[int, float]]) -> float | None:
    """Add the token counts if they are cumulative, or return the tokens per step if all counts are equal."""
    counts = History()
    _add_points(counts, TOKENS, points)
    values = counts[TOKENS].values
    if len(values) > 1 and values[-1] > values[0] and np.all(np.diff(values) >= 0):
        _add_points(history, TOKENS, points)
    return float(values[0]) if len(values) > 1 and values[0] > 0 and np.all(values == values[0]) else None


def infer_steps_per_epoch(epochs: Sequence[tuple[int, float]]) -> float | None:
    """Return the steps per epoch, from the first step of the lowest and of the highest epoch, which may be fractions.

    None if there is only one epoch.
    """
    first: dict[float, int] = {}
    for step, epoch in epochs:
        first.setdefault(epoch, step)
    low, high = min(first, default=0), max(first, default=0)
    return (first[high] - first[low]) / (high - low) if high > low and first[high] > first[low] else None


def _rank_alias(points: MetricPoints, name: str) -> tuple[bool, int, int]:
    return name.startswith(NATIVE_PREFIXES), len(points[name]), -ALIAS_ORDER.get(normalize_name(name), 0)


def _infer_facts(history: History, points: MetricPoints) -> RunFacts:
    facts, lrs, gaps = history.facts, history["train/lr"].values, np.diff(history["train/loss"].steps)
    epochs = (infer_steps_per_epoch(points[name]) for name in points if canonical_name(name) == "epoch")
    return replace(
        facts,
        schedule=facts.schedule or schedule_from_curve(history["train/lr"]),
        peak_lr=facts.peak_lr if facts.peak_lr is not None or not len(lrs) else float(lrs.max()),
        log_every=facts.log_every if facts.log_every > 1 or not len(gaps) else max(1, round(float(np.median(gaps)))),
        steps_per_epoch=facts.steps_per_epoch or next(filter(None, epochs), None),
    )
