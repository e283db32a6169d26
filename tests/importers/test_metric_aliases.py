"""Names of metrics, as programs compose them."""

import math

import pytest

from harness.diagnosis.history import RunFacts
from harness.importers.metric_aliases import build_history, canonical_name, name_order

NAMES = {
    "train/loss": "loss Loss losses train_loss trainLoss TrainLoss train/loss Train_Loss Loss/train loss_train "
    "total_loss training_loss train_loss_epoch train_loss_step step_loss avr_loss avg_loss loss/average "
    "loss_avg batch-loss running_loss xent nll nll_loss NLLLoss CrossEntropyLoss train/CrossEntropyLoss "
    "train/ce_loss lm.loss loss_value reduced_train_loss training/cross_entropy_loss train_bpb bpc mse "
    "mse_loss MSELoss mae trl tloss train_err metrics/train_loss train/mlm_loss loss_per_token last_loss "
    "smoothed_loss train logs/loss train.loss cost",
    "val/loss": "val_loss valid_loss validation_loss eval_loss dev_loss test_loss vall tel val/bpb val_bpb val.loss "
    "Validation/Loss loss/val loss_validation val_loss_epoch val_epoch_loss eval/nll_loss eval/loss "
    "val_mse held-out_loss heldout/loss evaluation_loss test/cross_entropy valid_nll_loss val_loss_step "
    "eval_avg_loss 16_l2_val eval_16_l2 val dev/avg_loss vloss validation_cross_entropy val_mean_loss "
    "val_error",
    "train/ppl": "ppl perplexity train_ppl train/perplexity lm_loss_ppl",
    "val/ppl": "val_ppl eval_perplexity valid/ppl",
    "train/lr": "lr learning_rate LearningRate train/lr lr-AdamW lr-AdamW/pg1 lr/pg0 train/learning_rate base_lr "
    "cur_lr optimizer/lr unet_lr lr_group0 LR",
    "train/grad_norm": "grad_norm gradient_norm gnorm norm Grad grad total_grad_norm optim/total_grad_norm "
    "global_grad_norm grad_norm_total train/grad_norm gradNorm grad_norm_before_clip gradients/norm",
    "train/tokens": "tokens tokens_seen num_input_tokens_seen total_tokens ntokens consumed_tokens train/tokens "
    "num_tokens tokens_per_step trained_tokens",
    "perf/tokens_per_second": "tok/s tokens_per_second tokens/sec tps wps tokens_per_sec throughput_tokens_per_second",
    "perf/steps_per_second": "it/s steps_per_second steps/sec ups iters/s",
    "step": "step steps global_step train/global_step trainer/global_step _step num_updates current_steps iter it "
    "itr iteration iterations update batch batch_idx optimizer_step valid_num_updates train_num_updates "
    "Step",
    "epoch": "epoch epochs Epoch train/epoch epoch_num ep current_epoch",
    "total_steps": "total_steps max_steps max_iters num_training_steps",
    "total_epochs": "num_epochs total_epochs max_epochs num_train_epochs",
}
OTHERS = (
    "loss_scale best_val_loss lowest_loss min_lr max_lr lr_scale eval_steps_per_second "
    "eval_tokens accuracy val_acc time data_time loss_box_reg aux_loss value_loss param_norm weight_norm "
    "target_loss eval_runtime tokens_left num_zeros batch_size loss_weight mean_token_accuracy epoch_time "
    "step_time previous_loss error 16_l2"
)


@pytest.mark.parametrize("metric", NAMES)
def test_names_of_a_metric(metric: str) -> None:
    assert {name: canonical_name(name) for name in NAMES[metric].split()} == dict.fromkeys(
        NAMES[metric].split(), metric
    )


def test_names_that_only_look_like_metrics() -> None:
    others = {name: canonical_name(name) for name in ["loss scale", *OTHERS.split()]}
    assert others == dict.fromkeys(others)


def test_steps_of_the_run_come_before_those_of_an_epoch() -> None:
    names = ["batch", "iter", "train/step", "num_updates", "global_step"]
    assert sorted(names, key=name_order) == names[::-1]


def test_most_direct_name_is_used() -> None:
    points = {name: [(step, tier + 0.5) for step in range(1, 9)] for tier, name in enumerate(["loss", "nll", "mse"])}
    history = build_history(points | {"total_loss_avg": [(1, 9.0)]}, RunFacts())
    assert history["train/loss"].values.tolist() == [0.5] * 8
    rare = build_history({"loss": [(8, 3.0)], "nll": points["nll"]}, RunFacts())
    assert rare["train/loss"].values.tolist() == [1.5] * 8


def test_perplexity_stands_in_for_a_loss_that_was_not_logged() -> None:
    ppl = [(1, math.e**3), (2, math.e**2)]
    history = build_history({"loss": [(1, 3.5), (2, 2.5)], "ppl": ppl, "val_ppl": ppl}, RunFacts(source="log"))
    assert history["train/loss"].values.tolist() == [3.5, 2.5]
    assert history["val/loss"].values.tolist() == pytest.approx([3, 2])
    assert history.facts.source == "log; val/loss: logarithm of val_ppl"


@pytest.mark.parametrize(
    ("tokens", "cumulative", "per_step"),
    [
        ([4000, 4010, 3990, 4020], [], 4005),
        ([4000, 4010, 4020, 4030], [], 4015),
        ([1000, 2000, 3000, 4000], [1000, 2000, 3000, 4000], None),
        ([3_141_592], [], None),
    ],
)
def test_tokens_of_one_step_or_of_all(tokens: list[float], cumulative: list[float], per_step: float | None) -> None:
    points = [(100 * number, float(count)) for number, count in enumerate(tokens, 1)]
    history = build_history({"loss": points, "tokens": points}, RunFacts())
    assert history["train/tokens"].values.tolist() == cumulative
    assert history.facts.tokens_per_step == per_step


def test_bits_per_byte_are_the_unit() -> None:
    assert build_history({"val_bpb": [(1, 1.5)]}, RunFacts()).facts.unit == "bits/byte"
