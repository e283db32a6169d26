from collections.abc import Callable
from typing import Any

import pytest
import torch

from harness.preflight import EvalResult, Finding, TrainingData, preflight
from harness.preflight.evaluation import check
from tests.preflight.healthy_trainings import Training, make_documents


def check_evaluation(training: Training) -> dict[str, Finding]:
    return {finding.title: finding for finding in check(training.make_setup())}


def check_examples(data: TrainingData) -> Finding:
    training = Training()
    training.overrides = {"data": data}
    return check_evaluation(training)["validation examples in training"]


@pytest.mark.parametrize(("share", "level"), [(1e-3, "warn"), (5, "fail")])
def test_loss_that_depends_on_batch_size(share: float, level: str) -> None:
    """A little, as a mean of batch means does, or a lot."""
    training = Training()
    whole = training.evaluate(16)
    training.evaluate = lambda size: EvalResult(whole.loss * (1 + share / size), whole.count, "nats/token")
    assert check_evaluation(training)["loss by batch size"].level == level


def test_float_of_an_evaluation_without_batch_size_is_taken() -> None:
    training = Training()
    training.overrides = {"evaluate": lambda: training.evaluate(16).loss}
    findings = check_evaluation(training)
    assert findings["evaluated twice"].level == "pass"
    assert findings["loss by batch size"].level == "skip"


def test_shared_passages_of_overlapping_windows_fail_and_templates_do_not() -> None:
    stream = [token for row in make_documents(200, seed=5) for token in row]
    windows = [tuple(stream[start : start + 48]) for start in range(0, len(stream) - 48, 4)]
    overlapping = TrainingData(train=windows[::2], val=windows[1::20])
    template = tuple(range(1, 40))
    rows = [template + row for row in make_documents(120, seed=6)]
    levels = []
    for data in (overlapping, TrainingData(train=rows[:100], val=rows[100:])):
        training = Training()
        training.overrides = {"data": data}
        levels.append(check_evaluation(training)["passages of validation in training"].level)
    assert levels == ["fail", "pass"]


def test_incomplete_coverage_fails() -> None:
    training = Training()
    training.overrides = {"eval_count": 500}
    finding = check_evaluation(training)["coverage"]
    assert finding.level == "fail"
    assert "478 of 500 scored: 95.60%" in finding.observed


def test_missing_unit_passes() -> None:
    training = Training()
    whole = training.evaluate(16)
    training.evaluate = lambda size: EvalResult(whole.loss, whole.count)
    finding = check_evaluation(training)["unit"]
    assert (finding.level, "not given" in finding.observed) == ("pass", True)


@pytest.mark.parametrize(("n_shared", "level"), [(0, "pass"), (1, "warn"), (5, "warn"), (6, "fail")])
def test_leaked_examples_warn_and_fail_above_1_percent(n_shared: int, level: str) -> None:
    finding = check_examples(TrainingData(train=range(10_000), val=range(10_000 - n_shared, 10_500 - n_shared)))
    assert finding.level == level
    assert finding.observed.startswith(f"{n_shared} of 500")


def test_single_and_empty_leaked_examples_do_not_fail() -> None:
    assert check_examples(TrainingData(train=["a", "", "b"], val=["", "", "b", "c", "d"])).level == "warn"


def test_empty_validation_set_fails() -> None:
    assert check_examples(TrainingData(train=["a"], val=[])).level == "fail"


def test_tokenizer_fitted_on_validation_text_warns() -> None:
    training = Training()
    training.overrides = {"data": TrainingData(tokenizer_saw_validation=True)}
    findings = check_evaluation(training)
    assert findings["tokenizer"].level == "warn"
    assert findings["validation examples in training"].level == "skip"


def test_known_mean_of_batch_means_is_a_warning_at_any_size() -> None:
    training = Training()
    training.overrides["evaluate"] = lambda size: EvalResult(1 + 0.2 * (size == 13), averages_batches=True)
    [finding] = [each for each in check(training.make_setup()) if each.title == "loss by batch size"]
    assert finding.level == "warn"
    assert "a mean of the means of batches" in finding.observed


def switch_gradients_off(training: Training) -> None:
    torch.set_grad_enabled(False)


def enter_no_grad(training: Training) -> None:
    torch.no_grad().__enter__()


def freeze_head(training: Training) -> None:
    training.model.token_embedding.requires_grad_(False)


@pytest.mark.parametrize(
    ("act", "words"),
    [(switch_gradients_off, "switched off"), (enter_no_grad, "switched off"), (freeze_head, "1 weights frozen")],
)
def test_evaluation_that_leaves_gradients_off_fails_and_is_undone(act: Callable[[Training], None], words: str) -> None:
    training = Training()
    training.overrides["evaluate"] = lambda: (act(training), training.evaluate(16).loss)[1]
    report = preflight(training.make_setup(), ["train_step", "evaluation", "overfit"])
    assert report.failed_checks == ["evaluation"]
    [finding] = [each for _, each in report if each.level == "fail"]
    assert words in finding.observed
    assert torch.is_grad_enabled()
    assert all(parameter.requires_grad for parameter in training.model.parameters())


def test_evaluation_that_undoes_what_it_switches_passes() -> None:
    training = Training()

    def evaluate() -> float:
        torch.set_grad_enabled(False)
        training.model.requires_grad_(False)
        loss = training.evaluate(16).loss
        training.model.requires_grad_(True)
        torch.set_grad_enabled(True)
        return loss

    training.overrides["evaluate"] = evaluate
    findings = check_evaluation(training)
    assert "gradients after evaluation" not in findings
    assert findings["weights after evaluation"].level == "pass"


@pytest.mark.parametrize("kind", ["buffer", "batch norm", "weight"])
def test_buffer_that_evaluation_changes_warns_and_statistics_fail(kind: str) -> None:
    training = Training()
    training.model.register_buffer("cache", torch.zeros(2))
    training.model.statistics = torch.nn.BatchNorm1d(2)
    changed: Any = {
        "buffer": training.model.cache,
        "batch norm": training.model.statistics.running_mean,
        "weight": training.model.token_embedding.weight.data,
    }[kind]
    training.overrides["evaluate"] = lambda: (changed.add_(1), training.evaluate(16).loss)[1]
    assert check_evaluation(training)["weights after evaluation"].level == ("warn" if kind == "buffer" else "fail")


def test_result_that_is_no_number_is_named() -> None:
    training = Training()
    training.overrides["evaluate"] = lambda: {"eval_loss": 1.0}
    report = preflight(training.make_setup(), ["evaluation"])
    [finding] = [each for _, each in report if each.level == "fail"]
    assert finding.observed == "`evaluate` returned a dict of eval_loss"
