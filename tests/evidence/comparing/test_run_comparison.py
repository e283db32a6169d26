"""Comparisons of runs: the numbers and sentences, and the refusals."""

import math
import random

import pytest

from harness.core.errors import ConfigError
from harness.diagnosis.history import History
from harness.evidence.comparing.reached_losses import ReachedLoss, Span
from harness.evidence.comparing.run_comparison import ComparedRun, Comparison, compare_histories
from tests.evidence.histories import DATA, make_history

A, B = [5.0, 4.0, 3.7, 3.65, 3.62], [5.0, 3.8, 3.55, 3.5, 3.52]


def compare(*histories: History, reach: tuple[float, ...] = ()) -> Comparison:
    return compare_histories([ComparedRun(history) for history in histories], reach)


def test_differences_are_those_of_the_best_and_of_the_last_losses() -> None:
    best, last = compare(make_history("a", A), make_history("b", B)).differences
    assert (best.first, best.second, best.at, best.direction) == ("A", "B", "best", "lower")
    assert best.difference == pytest.approx(3.5 - 3.62)
    assert best.relative == pytest.approx((3.5 - 3.62) / 3.62)
    assert best.standard_error == pytest.approx(math.sqrt(2) * 0.01)
    assert (last.at, last.difference) == ("last", pytest.approx(3.52 - 3.62)) or last.at == "final"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data": DATA._replace(validation="w" * 16)}, "validation data: "),
        ({"data": DATA._replace(tokenizer="u" * 16, validation="x")}, "tokenizer: "),
        ({"unit": "nats/character"}, "unit of val/loss: "),
    ],
)
def test_runs_that_measure_other_things_are_not_ranked(changes: dict[str, object], reason: str) -> None:
    found = compare(make_history("a", A), make_history("b", B, **changes), reach=(3.6,))
    assert not found.is_comparable
    assert found.comparability.reasons[0].startswith(reason)
    assert found.differences == found.reached == ()


def test_runs_with_other_coverage_are_not_ranked() -> None:
    partial = make_history("b", B)
    partial.add_row(40, {"val/coverage": 0.9})
    assert not compare(make_history("a", A), partial).is_comparable


def test_logs_of_others_are_compared_with_a_caution() -> None:
    found = compare(make_history("a", A, data=None, unit=None), make_history("b", B))
    assert found.is_comparable
    assert found.comparability.verdict == "cannot tell"
    assert found.differences


def test_a_loss_is_reached_between_two_evaluations() -> None:
    found = compare(make_history("a", A, seconds_per_step=2.0), make_history("b", B), reach=(3.6, 3.0, 5.0))
    at_36, at_3, at_5 = found.reached
    assert at_36.runs[0] == at_3.runs[0] == at_3.runs[1] == ReachedLoss()
    assert at_36.runs[1] == ReachedLoss(Span(10, 20), Span(1e7, 2e7), None)
    assert at_5.runs[0] == ReachedLoss(Span(None, 0), Span(None, 0), Span(None, 0))
    [default] = compare(make_history("a", A), make_history("b", B)).reached
    assert default.loss == 3.62
    assert all(run.steps for run in default.runs)


def test_default_threshold_is_reached_by_every_run() -> None:
    rng = random.Random(0)
    for _ in range(300):
        scale = 10 ** rng.uniform(-6, 4) * rng.choice([1, -1, 1])
        runs = [make_history(name, [scale * (1 + rng.random()) for _ in range(5)]) for name in "abc"]
        [found] = compare(*runs).reached
        assert all(run.steps for run in found.runs)


def test_several_changes_have_one_joint_effect() -> None:
    first = {
        "optimizer.class": "AdamW",
        "optimizer.betas": "[0.9]",
        "optimizer.lr": "1e-3",
        "lora.rank": "8",
        "seed": "1",
    }
    second = {"optimizer.class": "Muon", "optimizer.lr": "1e-2", "lora.rank": "16", "seed": "2", "name": "b"}
    found = compare(make_history("a", A, first), make_history("b", B, second))
    assert found.changes == ("A and B: optimizer, lora.rank, the seed. These 3 things changed together; their effects "
                             "cannot be told apart.",)  # fmt: skip
    assert found.settings.left_out == ("name",)
    one = compare(make_history("a", A, {"lr": "1"}), make_history("b", B, {"lr": "2"}))
    assert one.changes == ("A and B differ in lr only.",)
    assert any("one run a side is one seed" in note for note in one.notes)


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        ({"lr": "1", "seed": "1"}, {"lr": "1", "seed": "2"}, "differ in the seed only: the difference is seed noise."),
        ({"lr": "1"}, {"lr": "1"}, "have the same settings and seed; a difference comes from what is not recorded."),
        (None, {"lr": "1"}, "which settings differ is not recorded, so the difference has no known cause."),
    ],
)  # fmt: skip
def test_runs_without_a_change(first, second, sentence) -> None:
    [change] = compare(make_history("a", A, first), make_history("b", B, second)).changes
    assert change.startswith("A and B")
    assert change.endswith(sentence)


def test_commit_is_a_change_and_the_host_is_not() -> None:
    one = make_history("a", A, {"lr": "1"}, provenance={"git.commit": "a" * 40, "host": "x"})
    two = make_history("b", B, {"lr": "1"}, provenance={"git.commit": "b" * 40, "host": "y"})
    found = compare(one, two)
    assert found.changes == ("A and B differ in the code only.",)
    assert [(one.key, one.kind) for one in found.settings.differences] == [
        ("git.commit", "code"), ("host", "environment")]  # fmt: skip


def test_programs_that_name_settings_differently_are_compared_by_known_facts() -> None:
    ours = make_history("a", A, {"optimizer.lr": "1e-3", "loop.epochs": "1"}, peak_lr=1e-3, batch_size=8)
    theirs = make_history("b", B, {"learning_rate": "2e-3", "num_train_epochs": "1"}, peak_lr=2e-3, batch_size=8)
    found = compare(ours, theirs)
    assert found.settings.by_facts
    assert [one.key for one in found.settings.differences] == ["peak_lr"]
    assert "name their settings differently; known of both and different: peak_lr." in found.changes[0]


def test_settings_that_one_program_alone_records_do_not_differ() -> None:
    ours = make_history("a", A, {"optimizer.lr": "1e-3"}, peak_lr=1e-3, batch_size=8)
    log = make_history("b", B, data=None, peak_lr=2e-3)
    assert [one.key for one in compare(ours, log).settings.differences] == ["peak_lr"]


def test_trial_without_settings_ran_the_program_as_it_stands() -> None:
    found = compare(make_history("a", A, {}), make_history("b", B, {"lr": "0.1"}))
    assert [(one.key, one.values) for one in found.settings.differences] == [("lr", (None, "0.1"))]
    assert found.changes == ("A and B differ in lr only.",)


def test_what_limits_a_comparison_is_noted() -> None:
    died = make_history("a", A[:2], status="failed")
    exploded = make_history("b", [5.0, math.inf], status="diverged")
    silent = make_history("c", [])
    notes = compare(died, exploded, silent).notes
    assert (
        "C: no validation loss, so it cannot be ranked; a training loss depends on the batches and on dropout" in notes
    )
    assert "B: the last validation loss is not finite" in notes
    assert "A: failed, so its last loss is not that of a whole run" in notes
    longer = make_history("d", A, tokens_per_step=2e6)
    notes = compare(make_history("a", A), longer).notes
    assert "the longest run has 2 times the tokens of the shortest: unequal budgets" in notes


def test_numbers_of_runs() -> None:
    with pytest.raises(ConfigError, match="only one run to compare"):
        compare(make_history("a", A))
    with pytest.raises(ConfigError, match="27 runs to compare; name at most 26"):
        compare(*(make_history(str(n), A) for n in range(27)))
