"""Settings among the numbers of an output: what a program prints once before it begins, rather than measures."""

import re
from collections.abc import Iterable

from harness.importers.metric_aliases import BARE_SPLIT_TIER, normalize_name, split_words
from harness.importers.named_values.value_names import K_MARK, ValueName

METRIC_WORDS = split_words(
    "loss losses acc accuracy error err f1 bleu rouge rougel meteor ppl perplexity reward return score auc auroc map "
    "iou miou dice wer cer bpb bpc mse mae rmse mape r2 psnr ssim fid is top1 top5 precision recall spearman pearson "
    "kappa mcc nll elbo ndcg mrr hit fscore fitness"
)
SETTING_WORDS = split_words(
    "seed batch workers dropout decay layer layers head heads hidden embd dim momentum warmup interval size gpu gpus "
    "device beta1 beta2 clip patience width depth vocab rank alpha port"
)
MEAN_WORDS = split_words("mean avg average macro micro weighted std")
MIN_SETTINGS = 2  # names with one of these words, from which on an object is a configuration
SETTING_HEADERS = split_words(
    "argument arguments arg config configuration hyperparameter hyperparameters hparam hparams option options "
    "parameter parameters param params setting settings"
)
"""Name of the first column of a table of settings."""
COUNT = re.compile(r"(?:^|_)(?:steps|iters|iterations|its|epochs|batches|updates)$", re.IGNORECASE)
COMMENTED = re.compile(r"\s*(?:#\s*)?[A-Za-z_][\w.'\"\[\]]*\s*(?::\s*\w+\s*)?[:=]\s*[^#]*?(?=\s#\s)")
"""An assignment with a comment behind it."""
MIN_REPEATS = 3
"""Lines of a form are no settings from the third one on; a file and the command line may both set the same."""


def counts_something(name: str) -> bool:
    """Return whether the name of a position is that of a number of steps or epochs, as `eval_iters` or `epochs`."""
    return COUNT.search(name) is not None


def cut_comment(line: str) -> str:
    """Return a line without the comment behind an assignment: the numbers there set nothing."""
    match = COMMENTED.match(line) if "#" in line else None
    return match[0] if match else line


def is_measured(found: Iterable[tuple[ValueName, float]]) -> bool:
    """Return whether one of the values is named as what is measured, such as a loss. An LR may be a setting."""
    return any(_names_measurement(name, value) for name, value in found)


def are_settings(found: Iterable[tuple[ValueName, float]]) -> bool:
    """Return whether several of the values are named as settings are, and none as what is measured."""
    found = list(found)
    n_settings = sum(bool(SETTING_WORDS & set(normalize_name(name.label).split("_"))) for name, _ in found)
    return n_settings >= MIN_SETTINGS and not is_measured(found)


def _names_measurement(name: ValueName, value: float) -> bool:
    meaning = name.meaning
    if meaning.metric is not None and meaning.metric.endswith(("/loss", "/ppl")):
        return meaning.tier != BARE_SPLIT_TIER or value % 1 != 0  # `train: 31033` examples
    label = normalize_name(name.label.replace(K_MARK, " ").lower())
    words = [word.rstrip("0123456789") or word for word in label.split("_")]
    while len(words) > 1 and (words[-1].isdigit() or words[-1] in MEAN_WORDS):
        words.pop()
    return words[-1] in METRIC_WORDS or label.split("_")[-1] in METRIC_WORDS
