"""Names that other programs give to our metrics, and the history built from points recorded under them.

Programs compose their names from few words: `train_loss_epoch`, `Loss/val`, `validation/avg_cross_entropy_loss`. So a
name is read word by word: what is measured, on which split, and words that change neither (fillers).
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from harness.diagnosis.history import LOSS_METRICS, History, RunFacts
from harness.importers.foreign_words import translate_words
from harness.importers.programs.lr_schedules import schedule_from_curve

MetricPoints = Mapping[str, Sequence[tuple[int, float]]]
"""(step, value) pairs by the name they were recorded under."""

NATIVE_PREFIXES = ("train/", "val/", "perf/", "grad_norm/", "constant/")
SUMMARY_KEY = "train_steps_per_second"
"""Marks the last log entry of a transformers Trainer, whose train_loss is the mean over the whole run."""
TOKENS = "train/tokens"
POSITIONS = frozenset({"step", "epoch", "total_steps", "total_epochs"})
"""Results of `canonical_name` for names that say where in a run a row belongs."""


class Meaning(NamedTuple):
    """Metric that a name stands for. Of two names for one metric, the one of the lower `tier` is more direct."""

    metric: str | None
    tier: int = 0


UNKNOWN = Meaning(None, 99)
NO_NAME = re.compile(r"[{}=]|:\s|:.*\d")  # part of a line rather than a name


def split_words(text: str) -> frozenset[str]:
    """Return the words of a list that is written as text."""
    return frozenset(text.split())


TRAIN_WORDS = split_words("train training trn tr learn")
VAL_WORDS = split_words("val valid validation vali va vl eval evaluation dev test testing heldout holdout")
SPLIT_WORDS = TRAIN_WORDS | VAL_WORDS
SHORT_SPLITS = {"t": "train", "v": "val"}
"""Words for a split if both occur, as in `t_loss` and `v_loss`."""
WRAPPER_WORDS = split_words("metrics metric logs scalars stats trainer reduced")
"""First words that dashboards and loggers add."""
REJECTED_WORDS = split_words("best lowest min minimum max maximum target expected previous prev initial init worst")
"""A value with one of these is not what was measured at its step."""

SMOOTH_WORDS = split_words("avg avr average averaged mean running smooth smoothed ema moving epoch interval final last")
FILLER_WORDS = SMOOTH_WORDS | split_words(
    "total step batch batches minibatch mini micro current cur curr now iter iteration lm global per last "
    "token tokens sample reduced all overall raw model main sum the of on set split data dataset full text "
    "metrics language ntp"
)
LOSS_TIERS = {
    0: "loss losses",
    2: "cross_entropy cross_entropy_loss crossentropy crossentropy_loss ce ce_loss xent xent_loss xentropy nll "
    "nll_loss negative_log_likelihood neg_log_likelihood mlm_loss masked_loss clm_loss log_loss logloss softmax_loss "
    "sft_loss next_loss language_modeling_loss language_modelling_loss cost objective criterion ctc_loss rnnt_loss "
    "transducer_loss",
    3: "bpb bits_byte bpc bits_char bits_character bpt bits bpd bits_dim",
    4: "mse mse_loss l2_loss mae mae_loss l1_loss smooth_l1_loss huber huber_loss rmse bce bce_loss rl2 rel_l2 "
    "relative_l2 l2_rel err error h1_loss",
}
"""Measured quantities, after fillers are left out, by tier. Tier 1 is a loss said to be smoothed."""
LOSS_CORES = {core: tier for tier, cores in LOSS_TIERS.items() for core in cores.split()}
BARE_SPLITS = split_words("train training learn tr val valid validation va test")
BARE_SPLIT_TIER = 6  # `train 6.67, val 6.71`
OPERATOR_CORES = split_words("l2 h1")  # evaluations of neural operators: `16_l2`
SHORT_NAMES = {
    "trl": "train_loss", "trloss": "train_loss", "trainloss": "train_loss", "tloss": "train_loss",
    "vall": "val_loss", "vloss": "val_loss", "valloss": "val_loss", "evalloss": "val_loss", "devloss": "val_loss",
    "tel": "test_loss", "testloss": "test_loss", "teloss": "test_loss", "trppl": "train_ppl", "vppl": "val_ppl",
}  # fmt: skip
VAL_UNITS = {"bpb": "bits/byte", "bits_byte": "bits/byte", "bpc": "bits/character", "bits_char": "bits/character"}

LR_CORES = split_words("lr learning_rate learningrate lrate lrs learning_rates")
LR_FILLERS = split_words(
    "train training pg current cur optimizer optim opt adam w adamw sgd muon adafactor lion rmsprop adagrad group "
    "groups param base scheduler sched decoupled base unet step model epoch the value avg mean iter now new effective"
)
NORM_CORES = split_words(
    "grad_norm gradient_norm gradients_norm grads_norm gnorm gradnorm norm grad grads gradnorms grad_norms norm_grad "
    "norm_gradient norm_gradients gradient_norms gn g_norm grad_l2 global_norm gnorms"
)
NORM_FILLERS = split_words(
    "train training total global l2 2 all before pre clip clipping unclipped raw mean avg average model optim "
    "optimizer opt the current cur step"
)
TOKEN_CORES = split_words("tokens toks tok token_count tokens_count tokens_seen seen_tokens ntokens ntoks wpb")
TOKEN_FILLERS = split_words(
    "train training num n total seen consumed processed trained input so far cumulative cum global count seq text all "
    "nb number of trainer used throughput device"
)
PER_STEP_WORDS = split_words("batch step per ntokens ntoks wpb")  # of names for tokens of one step
MIN_POINTS = 10  # a name with so many is used although one that says it less directly has more
MIN_TOKEN_GROWTH = 0.3  # of the growth of steps; a count of all tokens grows with them, one of each step does not
MAX_TOKEN_SPREAD = 0.5  # of the mean, for counts of one step
SECOND_WORDS = split_words("s sec secs second seconds")
SPEED_CORES = {
    "perf/tokens_per_second": split_words("tokens token tok toks words tps wps tgs"),
    "perf/steps_per_second": split_words("steps step it its iter iters iteration iterations ups batches updates"),
}
SPEED_FILLERS = split_words("per gpu device chip train training total global mean avg average throughput")

STEP_NAMES = (  # up is that of Marian
    "global_step global_steps current_steps current_step num_updates optimizer_step optimizer_steps opt_step gstep "
    "step steps step_num step_number step_idx n_step cur_step iter iters iteration iterations itr n_iter niter "
    "cur_iter iter_num iteration_number num_iterations_done it update updates num_update batch batches batch_idx "
    "up batch_id batch_num mb minibatch"
)
"""Names of steps, those that count over the whole run first. Words for the training split are left out before."""
EPOCH_NAMES = (
    "epoch epochs current_epoch cur_epoch epoch_num epoch_number epoch_idx epoch_id epoch_no epoch_index ep n_epoch"
)
TOTAL_NAMES = {
    "total_steps": "total_steps total_step max_steps max_step num_training_steps num_train_steps max_train_steps "
    "total_optimization_steps max_iters max_iter total_iters total_iter total_iterations max_iterations train_iters "
    "num_iterations total_updates max_updates max_update num_total_steps total_train_steps num_steps_total",
    "total_epochs": "total_epochs total_epoch num_epochs max_epochs max_epoch n_epochs num_train_epochs nb_epochs",
}
DIRECT_NAMES = {
    "train/clip_fraction": "clip_fraction train_clip_fraction clip_frac",
    "train/tokens": "time_token train_time_token",
    "val/coverage": "coverage val_coverage eval_coverage",
}
STEP_ORDER = {name: order for order, name in enumerate(STEP_NAMES.split())}
EPOCH_ORDER = {name: order for order, name in enumerate(EPOCH_NAMES.split())}
EXACT_NAMES = {name: metric for metric, names in (TOTAL_NAMES | DIRECT_NAMES).items() for name in names.split()}


def canonical_name(name: str) -> str | None:
    """Return the metric of ours that `name` stands for, one of POSITIONS, or None if the name is unknown.

    Metrics are ours or `train/ppl` and `val/ppl`. Unknown names with a prefix of ours keep their name.
    """
    metric = name_meaning(name).metric
    return name if metric is None and name.startswith(NATIVE_PREFIXES) else metric


@lru_cache(4096)
def name_meaning(name: str) -> Meaning:
    """Return what `name` stands for, and how directly it says so."""
    if NO_NAME.search(name):
        return UNKNOWN
    text = normalize_name(name)
    text = SHORT_NAMES.get(text, text)
    if text in EXACT_NAMES:
        return Meaning(EXACT_NAMES[text])
    words = text.replace("held_out", "heldout").split("_")
    while len(words) > 1 and words[0] in WRAPPER_WORDS:
        words = words[1:]
    if not words[0] or any(word in REJECTED_WORDS for word in words):
        return UNKNOWN
    splits = [word for word in words if word in SPLIT_WORDS]
    split = "val" if splits and splits[-1] in VAL_WORDS else "train"
    rest = [word for word in words if word not in SPLIT_WORDS]
    if rest and rest[-1] in ("value", "values"):
        rest = rest[:-1]
    position = _read_position(rest)
    if position:
        return position
    return _read_loss(rest, split, splits) or _read_training_metric(rest, split) or UNKNOWN


def normalize_name(name: str) -> str:
    """Return `name` in snake case without the prefix of a dashboard.

    `Train/LearningRate`, `train learning-rate` and `run 7 - Train/LearningRate` (W&B) become train_learning_rate.
    """
    name = translate_words(name)
    if not name.isascii():
        name = re.sub(r"[^\W\d_a-zA-Z]+", " other ", name)
    words = re.sub(r"'s\b|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name.rpartition(" - ")[2])
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")


def find_short_split(name: str, names: Iterable[str]) -> str | None:
    """Return "train" or "val" for `t_loss` or `v_loss`, if `names` has the other one as well."""
    words = normalize_name(name).split("_")
    split = next((SHORT_SPLITS[word] for word in words if word in SHORT_SPLITS), None)
    partner = ["tv"["vt".index(word)] if word in SHORT_SPLITS else word for word in words]
    is_paired = len(words) > 1 and any(normalize_name(other).split("_") == partner for other in names)
    return split if is_paired else None


def name_order(name: str) -> int:
    """Return the place of a name among those of its metric or position, the most specific first."""
    words = [word for word in normalize_name(name).split("_") if word not in SPLIT_WORDS | WRAPPER_WORDS]
    text = "_".join(words)
    order = STEP_ORDER.get(text, EPOCH_ORDER.get(text))
    return order if order is not None else 100 * name_meaning(name).tier + len(words)


def _read_position(words: list[str]) -> Meaning | None:
    text = "_".join(words)
    if text in EXACT_NAMES:
        return Meaning(EXACT_NAMES[text])
    if text in STEP_ORDER:
        return Meaning("step", STEP_ORDER[text])
    return Meaning("epoch", EPOCH_ORDER[text]) if text in EPOCH_ORDER else None


def _read_loss(words: list[str], split: str, splits: list[str]) -> Meaning | None:
    """Return the meaning of a name whose words, without those for the split, say a loss or a perplexity."""
    if not words:  # the name is the split alone
        is_bare = len(splits) == 1 and splits[0] in BARE_SPLITS
        return Meaning(f"{split}/loss", BARE_SPLIT_TIER) if is_bare else None
    if words[-1] in ("ppl", "perplexity", "pplx") and not set(words[:-1]) - FILLER_WORDS - {"loss"}:
        return Meaning(f"{split}/ppl")
    is_known = "_".join(words) in LOSS_CORES
    core = "_".join(words if is_known else [word for word in words if word not in FILLER_WORDS])
    is_other_split = (splits or ["train"])[-1] in ("test", "testing") and split == "val"
    if core.lstrip("0123456789_") in OPERATOR_CORES and splits:
        return Meaning(f"{split}/loss", 5)
    if core not in LOSS_CORES or (core in ("err", "error") and not splits):
        return None
    is_smoothed = any(word in SMOOTH_WORDS for word in words)
    return Meaning(f"{split}/loss", LOSS_CORES[core] + (is_smoothed or is_other_split))


def _read_training_metric(words: list[str], split: str) -> Meaning | None:
    """Return the meaning of a name for an LR, a norm, tokens or a speed. Those of an evaluation say nothing of it."""
    if split == "val":
        return None
    if _core(words, LR_FILLERS) in LR_CORES:
        return Meaning("train/lr", len(words))
    if "_".join(words) in NORM_CORES or _core(words, NORM_FILLERS) in NORM_CORES:
        return Meaning("train/grad_norm", len(words))
    speed = [word for word in words if word not in SPEED_FILLERS]
    has_time = len(speed) > 1 and speed[-1] in SECOND_WORDS
    for metric, names in SPEED_CORES.items():
        rest = speed[:-1] if has_time else speed
        if len(rest) == 1 and rest[0] in names and (has_time or rest[0] in ("tps", "wps", "tgs", "ups")):
            return Meaning(metric, len(words))
    is_per_step = any(word in PER_STEP_WORDS for word in words)
    if not has_time and _core(words, TOKEN_FILLERS | PER_STEP_WORDS - TOKEN_CORES) in TOKEN_CORES:
        return Meaning(TOKENS, 50 * is_per_step + len(words))
    return None


def _core(words: list[str], fillers: frozenset[str]) -> str:
    bare = [re.sub(r"\d\d?$", "", word) if word not in fillers else "" for word in words]  # lr0, group1
    return "_".join(word for word in bare if word and word not in fillers)


def build_history(points: MetricPoints, facts: RunFacts) -> History:
    """Return the history of `points` under our metric names.

    Of several names for one metric, the one that says it most directly is used, unless another one has more than twice
    as many points. Facts that are missing are inferred from the curves where possible.
    """
    names_by_metric: dict[str, list[str]] = {}
    for name in points:
        metric = canonical_name(name)
        if metric is not None and metric not in POSITIONS:
            names_by_metric.setdefault(metric, []).append(name)
    chosen = {metric: choose_name(names, points) for metric, names in names_by_metric.items()}
    history = History(facts)
    for metric, name in chosen.items():
        if metric != TOKENS and not metric.endswith("/ppl"):
            history.add_points(metric, points[name])
    per_step = _add_tokens(history, points[chosen[TOKENS]]) if TOKENS in chosen else None
    source = facts.source
    for metric in LOSS_METRICS:
        ppl = metric.replace("loss", "ppl")
        if metric not in chosen and ppl in chosen and not (metric == "train/loss" and "val/loss" in chosen):
            chosen[metric] = chosen[ppl]
            history.add_points(metric, [(step, _log_perplexity(value)) for step, value in points[chosen[ppl]]])
            source += f"; {metric}: logarithm of {chosen[ppl]}"
        recorded = len(points[chosen[metric]]) if metric in chosen else 0
        if dropped := recorded - len(history[metric]):
            source += f"; {metric}: {dropped} of {recorded} points dropped, their steps were repeated"
    val_name = normalize_name(chosen.get("val/loss", ""))
    unit = facts.unit or next((unit for word, unit in VAL_UNITS.items() if word in val_name), None)
    history.facts = replace(facts, source=source, unit=unit, tokens_per_step=facts.tokens_per_step or per_step)
    history.facts = _infer_facts(history, points)
    return history


def choose_name(names: Sequence[str], points: MetricPoints) -> str:
    """Return which of the names for one metric is used."""
    most = max(len(points[name]) for name in names)

    def rank(name: str) -> tuple[bool, bool, int, int, int]:
        meaning = name_meaning(name)
        is_enough = 2 * len(points[name]) >= most or len(points[name]) >= MIN_POINTS
        return name == meaning.metric, is_enough, -meaning.tier, len(points[name]), -len(name)

    return max(names, key=rank)


def _log_perplexity(value: float) -> float:
    return math.log(value) if value > 0 else math.nan


def _add_tokens(history: History, points: Sequence[tuple[int, float]]) -> float | None:
    """Add the token counts if they are cumulative, or return the tokens per step if they are counts of one step."""
    counts = History()
    counts.add_points(TOKENS, points)
    steps, values = counts[TOKENS]
    if len(values) < 2 or not np.all(np.isfinite(values)) or values.min() <= 0:
        return None
    growth = (values[-1] / values[0] - 1) / max(steps[-1] / max(steps[0], 1) - 1, 1e-9)
    if np.all(np.diff(values) >= 0) and values[-1] > values[0] and growth > MIN_TOKEN_GROWTH:
        history.add_points(TOKENS, points)
        return None
    return float(values.mean()) if np.ptp(values) < MAX_TOKEN_SPREAD * values.mean() else None


def infer_steps_per_epoch(epochs: Sequence[tuple[int, float]]) -> float | None:
    """Return the steps per epoch, from the first step of the lowest and of the highest epoch, which may be fractions.

    None if there is only one epoch.
    """
    first: dict[float, int] = {}
    for step, epoch in epochs:
        first.setdefault(epoch, step)
    low, high = min(first, default=0), max(first, default=0)
    return (first[high] - first[low]) / (high - low) if high > low and first[high] > first[low] else None


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
