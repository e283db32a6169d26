"""A validation loss that means what it says, and those that do not."""

import pytest

from harness.preflight import EvalResult, Finding, TrainingData
from harness.preflight.evaluation import check
from tests.preflight.healthy_trainings import Training


def findings(training: Training) -> dict[str, Finding]:
    return {finding.what: finding for finding in check(training.make_setup())}


def test_a_mean_of_batch_means_is_told_by_its_batches() -> None:
    training = Training()
    whole = training.evaluate
    training.evaluate = lambda size: EvalResult(whole(size).loss * (1 + 1e-3 / size), whole(size).count, "nats/token")
    assert findings(training)["loss by batch"].level == "fail"


def test_what_is_scored_is_all_there_is_to_score() -> None:
    training = Training()
    training.more = {"to_score": 500}
    found = findings(training)["coverage"]
    assert (found.level, "478 of 500 scored: 95.60%" in found.seen) == ("fail", True)


def test_a_loss_without_a_unit_is_told() -> None:
    training = Training()
    whole = training.evaluate
    training.evaluate = lambda size: EvalResult(whole(size).loss, whole(size).count)
    assert findings(training)["unit"].level == "warn"


@pytest.mark.parametrize(("shared", "level"), [(0, "pass"), (1, "warn"), (5, "warn"), (6, "fail")])
def test_a_few_validation_examples_in_training_warn_and_more_than_a_hundredth_fail(shared: int, level: str) -> None:
    training = Training()
    training.more = {"data": TrainingData(train=range(10_000), val=range(10_000 - shared, 10_500 - shared))}
    found = findings(training)["validation examples in training"]
    assert (found.level, found.seen.startswith(f"{shared} of 500")) == (level, True)


def test_one_copy_among_few_examples_and_empty_ones_are_no_leak() -> None:
    training = Training()
    training.more = {"data": TrainingData(train=["a", "", "b"], val=["", "", "b", "c", "d"])}
    assert findings(training)["validation examples in training"].level == "warn"


def test_no_validation_example_at_all_fails() -> None:
    training = Training()
    training.more = {"data": TrainingData(train=["a"], val=[])}
    assert findings(training)["validation examples in training"].level == "fail"


def test_a_tokenizer_that_saw_validation_text_is_said() -> None:
    training = Training()
    training.more = {"data": TrainingData(tokenizer_saw_validation=True)}
    found = findings(training)
    assert found["tokenizer"].level == "warn"
    assert found["validation examples in training"].level == "not checked"
