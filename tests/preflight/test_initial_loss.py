from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from harness.preflight import Finding, TrainingData, TrainingSetup, preflight
from tests.preflight.healthy_trainings import Training, make_model, next_token_loss
from tests.preflight.other_trainings import make_operator_setup


def check_initial_loss(setup: TrainingSetup) -> Finding:
    [(_, finding)] = preflight(setup, ["initial_loss"])
    return finding


def check_pretrained(**fields: Any) -> Finding:
    return check_initial_loss(replace(Training().make_setup(), **fields))


def make_untrained_setup(**fields: Any) -> TrainingSetup:
    training = Training()
    training.model.load_state_dict(make_model().state_dict())
    return replace(training.make_setup(), **fields)


def own_loss(model: torch.nn.Module, batch: Any) -> torch.Tensor:
    loss = next_token_loss(model, batch)
    return loss.sum / loss.count


def test_random_weights_pass_at_log_of_vocab_size() -> None:
    finding = check_initial_loss(make_untrained_setup(is_pretrained=False))
    assert finding.level == "pass"
    assert "ln 40 = 3.689" in finding.expected


@pytest.mark.parametrize(("std", "level"), [(0.1, "warn"), (1.0, "fail")])
def test_large_initial_weights(std: float, level: str) -> None:
    setup = make_untrained_setup(is_pretrained=False)
    torch.nn.init.normal_(setup.model.token_embedding.weight, std=std)
    assert check_initial_loss(setup).level == level


def test_pretrained_weights_without_is_pretrained_warn() -> None:
    finding = check_pretrained(is_pretrained=False)
    assert finding.level == "warn"
    assert "is_pretrained=True" in finding.hint


def test_entropy_of_training_text_counts_if_validation_set_is_too_small() -> None:
    assert check_pretrained(unigram_entropy=1.5).level == "pass"


def test_unigram_entropy_is_estimated_from_batches_if_unknown() -> None:
    finding = check_pretrained(unigram_entropy=None, data=TrainingData())
    assert finding.level == "pass"
    assert "tokens in these batches" in finding.expected


def test_pretrained_weights_at_chance_level_fail() -> None:
    finding = check_initial_loss(make_untrained_setup(unigram_entropy=3.0))
    assert finding.level == "fail"
    assert "broken, not under-tuned" in finding.observed


def test_pretrained_weights_above_entropy_of_narrow_text_warn() -> None:
    finding = check_pretrained(unigram_entropy=0.5, data=TrainingData())
    assert finding.level == "warn"
    assert "narrow" in finding.hint


def test_relative_error_of_random_weights_is_1() -> None:
    assert check_initial_loss(make_operator_setup()).level == "pass"
    assert check_initial_loss(replace(make_operator_setup(), is_pretrained=True)).level == "fail"


def test_loss_that_is_not_finite_fails() -> None:
    setup = Training().make_setup()
    with torch.no_grad():
        setup.model.norm.bias[0] = torch.nan
    assert check_initial_loss(setup).level == "fail"


def test_loss_of_unknown_scale_is_skipped() -> None:
    finding = check_initial_loss(replace(make_operator_setup(), zero_output_loss=None))
    assert finding.level == "skip"
    assert "zero_output_loss" in finding.observed


@pytest.mark.parametrize("is_pretrained", [False, True])
@pytest.mark.parametrize(
    "change",
    [lambda loss: loss * 16, lambda loss: loss + 5, lambda loss: loss / 0.69, lambda loss: -0.2 * loss],
    ids=["sum", "further term", "bits", "advantage"],
)
def test_cross_entropy_of_the_logits_is_judged_whatever_the_loss_is(
    change: Callable[[torch.Tensor], torch.Tensor], is_pretrained: bool
) -> None:
    setup = Training().make_setup() if is_pretrained else make_untrained_setup(is_pretrained=False)
    expected = check_initial_loss(setup)
    finding = check_initial_loss(replace(setup, loss_fn=lambda model, batch: change(own_loss(model, batch))))
    assert finding.level == expected.level == "pass"
    assert "by the logits (the loss is " in finding.observed


def test_large_weights_fail_with_a_loss_that_is_a_sum() -> None:
    setup = make_untrained_setup(is_pretrained=False)
    torch.nn.init.normal_(setup.model.token_embedding.weight, std=1.0)
    assert check_initial_loss(replace(setup, loss_fn=lambda model, batch: 9 * own_loss(model, batch))).level == "fail"
