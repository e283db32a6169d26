"""Tell from the name of a metric whether more or less of it is better."""

import re

from harness.diagnosis.history import LOSS_METRICS
from harness.importers.metric_aliases import name_meaning, split_words

WORDS = re.compile(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*")  # of accTop1, val/mAP, eval_f1@10
HIGHER_IS_BETTER = split_words(
    "accuracy accuracies acc f1 fbeta auc auroc roc auprc aupr ap map precision recall sensitivity specificity bleu "
    "rouge rouge1 rouge2 meteor chrf r2 iou miou jaccard dice reward rewards rew return returns score psnr ssim top1 "
    "top5 win winrate success ndcg mrr hits mcc kappa pearson spearman correlation elbo throughput correct"
)
LOWER_IS_BETTER = split_words(
    "loss losses error errors err perplexity ppl bpb bpc nll mse mae rmse mape rmsle wer cer eer ter fid brier regret "
    "logloss entropy cost latency"
)


def is_higher_better(name: str) -> bool | None:
    """Return whether more of a metric is better, None if its name does not say."""
    words = {word.lower() for word in WORDS.findall(name)}
    words |= {"".join(part) for part in (re.findall(r"[a-z0-9]+", name.lower()),) if part}
    words |= {word.rstrip("0123456789") for word in words}
    if words & LOWER_IS_BETTER or name_meaning(name).metric in LOSS_METRICS:
        return False
    return True if words & HIGHER_IS_BETTER else None
