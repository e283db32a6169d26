"""Where a loss begins."""

from dataclasses import replace

import pytest
import torch

from harness.preflight import Finding, TrainingData, TrainingSetup, preflight
from tests.preflight.healthy_trainings import Training, make_model
from tests.preflight.other_trainings import make_operator_setup


def finding(subject: TrainingSetup) -> Finding:
    [(_, found)] = preflight(subject, ["initial_loss"])
    return found


def test_random_weights_read_the_logarithm_of_the_vocabulary() -> None:
    training = Training()
    training.model.load_state_dict(make_model().state_dict())
    found = finding(replace(training.make_setup(), is_pretrained=False))
    assert (found.level, "ln 40 = 3.689" in found.expected) == ("pass", True)


@pytest.mark.parametrize(("std", "level"), [(0.1, "warn"), (1.0, "fail")])
def test_random_weights_that_are_sure_of_themselves_are_too_large(std: float, level: str) -> None:
    training = Training()
    training.model.load_state_dict(make_model().state_dict())
    torch.nn.init.normal_(training.model.token_embedding.weight, std=std)
    assert finding(replace(training.make_setup(), is_pretrained=False)).level == level


def test_trained_weights_that_are_not_said_to_be_are_told() -> None:
    found = finding(replace(Training().make_setup(), is_pretrained=False))
    assert found.level == "warn"
    assert "is_pretrained=True" in found.look_at


def test_a_validation_set_too_small_to_count_is_not_held_against_trained_weights() -> None:
    found = finding(replace(Training().make_setup(), unigram_entropy=1.5))
    assert found.level == "pass"


def test_without_the_texts_entropy_that_of_the_batches_is_compared_and_said() -> None:
    found = finding(replace(Training().make_setup(), unigram_entropy=None, data=TrainingData()))
    assert found.level == "pass"
    assert "the frequencies of these batches'" in found.expected


def test_between_what_frequencies_score_and_a_uniform_guess_is_broken_and_not_under_tuned() -> None:
    training = Training()
    training.model.load_state_dict(make_model().state_dict())
    found = finding(replace(training.make_setup(), unigram_entropy=3.0))
    assert found.level == "fail"
    assert "broken, not under-tuned" in found.seen


def test_trained_weights_that_begin_above_a_narrow_texts_frequencies_are_told_and_not_failed() -> None:
    found = finding(replace(Training().make_setup(), unigram_entropy=0.5, data=TrainingData()))
    assert found.level == "warn"
    assert "narrow" in found.look_at


def test_a_relative_error_begins_at_1() -> None:
    assert finding(make_operator_setup()).level == "pass"
    assert finding(replace(make_operator_setup(), is_pretrained=True)).level == "fail"


def test_a_loss_that_is_not_finite_fails() -> None:
    training = Training()
    with torch.no_grad():
        training.model.norm.bias[0] = torch.nan
    assert finding(training.make_setup()).level == "fail"


def test_a_loss_of_unknown_scale_is_not_checked() -> None:
    found = finding(replace(make_operator_setup(), zero_predictor=None))
    assert found.level == "not checked"
    assert "zero_predictor" in found.expected
