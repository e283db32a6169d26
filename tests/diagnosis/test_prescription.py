"""What follows from diagnoses: ranges about the run's own values, a longer run, or no search before the bug is found."""

import pytest

from harness.core.events import Diagnosis
from harness.diagnosis.history import History, RunFacts
from harness.diagnosis.prescription import BUG_KINDS, prescribe
from harness.sweep.space.range_syntax import parse_ranges

PARAMS = {
    "optimizer.lr": "0.001", "optimizer.weight_decay": "0.01", "schedule.warmup_ratio": "0.05",
    "schedule.warmup_steps": "None", "loop.max_steps": "100", "loop.epochs": "None", "model.dropout": "0.0",
    "lora.rank": "8", "lora.dropout": "0.0", "loop.grad_clip": "1.0", "locked": "[]",
}  # fmt: skip


def asked(*kinds: str, facts: RunFacts | None = None, **params: str) -> tuple[dict[str, str], dict[str, str]]:
    """Ranges and settings, by key."""
    history = History(facts or RunFacts())
    for step in range(1, 11):
        history.add_row(step, {"train/grad_norm": float(step)})
    diagnoses = [Diagnosis(kind, 5, 0.9, "because") for kind in kinds]
    found = prescribe(history, diagnoses, {**PARAMS, **params})
    assert found.refusal == ""
    return tuple(dict(part.override.split("=", 1) for part in parts) for parts in (found.ranges, found.settings))


def test_without_a_verdict_the_lr_is_searched_a_decade_on_either_side() -> None:
    assert asked() == ({"optimizer.lr": "tag(log,interval(1e-04,1e-02))"}, {})


@pytest.mark.parametrize(
    ("kind", "lr"),
    [
        ("learning rate too low", "tag(log,interval(1e-03,1e-01))"),
        ("learning rate too high", "tag(log,interval(1e-05,1e-03))"),
        ("divergence", "tag(log,interval(1e-05,1e-03))"),
        ("plateau", "tag(log,interval(1e-05,1e-01))"),
    ],
)
def test_the_range_of_the_lr_goes_where_the_verdict_points(kind, lr) -> None:
    assert asked(kind)[0]["optimizer.lr"] == lr


def test_a_range_test_says_more_than_any_verdict_and_every_lr_keeps_its_ratio() -> None:
    ranges, _ = asked("learning rate too low", facts=RunFacts(lr_band=(2e-2, 3e-1)), **{"optimizer.adamw_lr": "0.0001"})
    assert ranges["optimizer.lr"] == "tag(log,interval(2e-02,3e-01))"
    assert ranges["optimizer.adamw_lr"] == "tag(log,interval(2e-03,3e-02))"


def test_clipping_that_binds_is_searched_from_the_90th_percentile_of_the_norm_to_none() -> None:
    assert asked("clipping binds")[0]["loop.grad_clip"] == "9.1,27,null"
    assert "loop.grad_clip" not in asked("plateau")[0]


def test_an_unsteady_run_searches_a_longer_warm_up_in_the_unit_it_is_given_in() -> None:
    assert asked("spike")[0]["schedule.warmup_ratio"] == "interval(0.05,0.2)"
    by_steps = {"schedule.warmup_ratio": "None", "schedule.warmup_steps": "50"}
    assert asked("spike", **by_steps)[0]["schedule.warmup_steps"] == "int(interval(50,200))"


def test_overfitting_searches_what_holds_a_model_back_and_never_its_rank() -> None:
    ranges, settings = asked("overfitting")
    assert ranges.keys() == {"optimizer.lr", "optimizer.weight_decay", "model.dropout", "lora.dropout"}
    assert settings == {}


EPOCHS = {"loop.max_steps": "None", "loop.epochs": "2.5"}


@pytest.mark.parametrize(("params", "length"), [({}, {"loop.max_steps": "200"}), (EPOCHS, {"loop.epochs": "5"})])
def test_a_loss_that_still_falls_asks_for_more_steps_and_no_sweep(params, length) -> None:
    assert asked("underfitting", **params) == ({}, length)
    ranges, settings = asked("learning rate too low", "underfitting", **params)
    assert (list(ranges), settings) == (["optimizer.lr"], length)


def test_what_never_learnt_is_a_bug_in_weights_that_were_trained_before_and_may_be_the_lr_of_others() -> None:
    diagnoses = [Diagnosis("never learnt", 5, 0.9, "it stayed at 9.2")]
    for trained in ({"start.kind": "warm"}, {"model._target_": "harness.models.pretrained.causal"}):
        assert prescribe(History(), diagnoses, {**PARAMS, **trained}).refusal == "never learnt: it stayed at 9.2"
    ranges, _ = asked("never learnt", **{"start.kind": "scratch"})
    assert ranges["optimizer.lr"] == "tag(log,interval(1e-05,1e-01))"  # it may be too low and too high


@pytest.mark.parametrize(("start", "is_bug"), [(3.3, False), (9.2, True)])
def test_trained_weights_that_begin_well_and_gain_little_are_no_bug(start, is_bug) -> None:
    diagnoses = [Diagnosis("never learnt", 5, 0.9, "little", {"start": start, "best": start - 0.01})]
    found = prescribe(History(RunFacts(uniform=10.8)), diagnoses, {**PARAMS, "start.kind": "warm"})
    assert bool(found.refusal) == is_bug
    assert [part.key for part in found.ranges] == ([] if is_bug else ["optimizer.lr"])


def test_what_no_search_mends_is_told_with_what_to_try() -> None:
    found = prescribe(History(), [Diagnosis("scheduler idle", 5, 0.9, "", {}, ("schedule=cosine",))], PARAMS)
    assert found.notes == ("scheduler idle: no search mends it; try schedule=cosine",)
    assert [part.key for part in found.ranges] == ["optimizer.lr"]


@pytest.mark.parametrize("kind", BUG_KINDS)
def test_what_is_like_a_bug_is_never_searched_over(kind) -> None:
    diagnoses = [Diagnosis("learning rate too low", 5, 0.9, "slow"), Diagnosis(kind, 5, 0.9, "it stayed at 9.2")]
    found = prescribe(History(), diagnoses, PARAMS)
    assert (found.ranges, found.settings) == ((), ())
    assert found.refusal == f"{kind}: it stayed at 9.2"


def test_what_an_experiment_locks_is_not_searched_and_that_is_said() -> None:
    diagnoses = [Diagnosis("overfitting", 5, 0.9, "because")]
    found = prescribe(History(), diagnoses, {**PARAMS, "locked": "['model', 'optimizer.weight_decay']"})
    assert [part.key for part in found.ranges] == ["optimizer.lr", "lora.dropout"]
    assert [note.partition(" ")[0] for note in found.notes] == ["optimizer.weight_decay", "model.dropout"]


def test_every_range_is_one_that_a_sweep_reads() -> None:
    kinds = ("learning rate too low", "spike", "clipping binds", "overfitting")
    ranges, _ = asked(*kinds)
    read, fixed, _ = parse_ranges([f"{key}={text}" for key, text in ranges.items()])
    assert (read.keys(), fixed) == (ranges.keys(), {})
