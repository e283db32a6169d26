"""Ranges, longer runs and refusals that follow from diagnoses."""

import pytest

from harness.core.events import Diagnosis, Suggestion
from harness.diagnosis.history import History, RunFacts
from harness.diagnosis.lr_band import LRBand
from harness.diagnosis.prescription import BUG_KINDS, prescribe
from harness.sweep.space.range_syntax import parse_ranges

PARAMS = {
    "optimizer.lr": "0.001", "optimizer.weight_decay": "0.01", "schedule.warmup_ratio": "0.05",
    "schedule.warmup_steps": "None", "loop.max_steps": "100", "loop.epochs": "None", "model.dropout": "0.0",
    "lora.rank": "8", "lora.dropout": "0.0", "loop.grad_clip": "1.0", "locked": "[]",
}  # fmt: skip


BAND = LRBand(2e-2, 3e-1, 1e-1, "the loss fell", "strong", ceiling=0.4)


def prescribed(*kinds: str, band: LRBand | None = None, **params: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return ranges and settings by key."""
    history = History()
    for step in range(1, 11):
        history.add_row(step, {"train/grad_norm": float(step)})
    diagnoses = [Diagnosis(kind, 5, 0.9, "because") for kind in kinds]
    found = prescribe(history, diagnoses, {**PARAMS, **params}, band)
    assert found.refusal == ""
    ranges, settings = (dict(part.override.split("=", 1) for part in parts) for parts in (found.ranges, found.settings))
    return ranges, settings


def test_healthy_run_searches_a_decade_on_either_side_of_its_lr() -> None:
    assert prescribed() == ({"optimizer.lr": "tag(log,interval(1e-04,1e-02))"}, {})


@pytest.mark.parametrize(
    ("kind", "lr"),
    [
        ("learning rate too low", "tag(log,interval(1e-03,1e-01))"),
        ("learning rate too high", "tag(log,interval(1e-05,1e-03))"),
        ("divergence", "tag(log,interval(1e-05,1e-03))"),
        ("plateau", "tag(log,interval(1e-05,1e-01))"),
        ("never learnt", "tag(log,interval(1e-05,1e-01))"),  # of weights trained from scratch
    ],
)
def test_lr_range_depends_on_the_diagnosis(kind, lr) -> None:
    assert prescribed(kind)[0]["optimizer.lr"] == lr


@pytest.mark.parametrize(
    ("kind", "params", "lr"),
    [
        ("plateau", {}, "tag(log,interval(1e-04,1e-01))"),  # of two decades on either side of 1e-3
        ("plateau", {"optimizer.lr": "1e-5"}, "tag(log,interval(1e-07,1e-03))"),  # an unusual LR may be right
        ("plateau", {"optimizer.lr": "0.1"}, "tag(log,interval(1e-03,1e-01))"),
        ("learning rate too low", {"optimizer.lr": "0.05"}, "tag(log,interval(5e-02,5e+00))"),  # a diagnosis says so
        ("plateau", {"start.kind": "warm"}, "tag(log,interval(1e-04,1e-01))"),
    ],
)
def test_guess_is_kept_within_the_usual_lrs_of_the_optimizer(kind, params, lr) -> None:
    found = prescribe(History(), [Diagnosis(kind, 5, 0.9, "why")], {**PARAMS, **params}, usual_lrs=(1e-4, 1e-1))
    assert found.ranges[0].override == f"optimizer.lr={lr}"


@pytest.mark.parametrize(
    ("kinds", "is_guess"),
    [
        ((), True),
        (("throughput fell",), True),
        (("plateau",), False),
        (("divergence",), False),
        (("overfitting",), False),
    ],
)
def test_range_without_a_cause_is_a_guess(kinds, is_guess) -> None:
    diagnoses = [Diagnosis(kind, 5, 0.9, "why") for kind in kinds]
    assert prescribe(History(), diagnoses, PARAMS).is_guess is is_guess
    assert prescribe(History(), diagnoses, PARAMS, BAND).is_guess is False


@pytest.mark.parametrize(
    ("kind", "params", "is_switched"),
    [
        ("never learnt", {}, True),
        ("plateau", {}, True),
        ("divergence", {}, False),
        ("plateau", {"optimizer._target_": "torch.optim.AdamW"}, False),
        ("plateau", {"locked": "['optimizer']"}, False),
        ("plateau", {"locked": "['optimizer.lr']"}, False),
    ],
)
def test_adamw_is_searched_too_where_sgd_hardly_trained(kind, params, is_switched) -> None:
    own = {**PARAMS, "optimizer._target_": "torch.optim.SGD", **params}
    found = prescribe(History(), [Diagnosis(kind, 5, 0.9, "why")], own, may_switch=True)
    keys = {part.key for part in found.ranges}
    assert ("optimizer" in keys, found.sweeps) == ((True, "optimizers") if is_switched else (False, "none"))
    assert not ({"optimizer", "optimizer.lr"} <= keys)  # each optimizer has its own range
    assert prescribe(History(), [Diagnosis(kind, 5, 0.9, "why")], own).sweeps == "none"


def test_full_fine_tuning_may_need_an_lr_below_the_usual_ones() -> None:
    params = {key: value for key, value in PARAMS.items() if not key.startswith("lora")} | {"start.kind": "warm"}
    found = prescribe(History(), [Diagnosis("plateau", 5, 0.9, "why")], params, usual_lrs=(1e-4, 1e-1))
    assert found.ranges[0].override == "optimizer.lr=tag(log,interval(1e-05,1e-01))"


def test_range_test_decides_the_lr_range_and_all_lrs_keep_their_ratio() -> None:
    ranges, _ = prescribed("learning rate too low", band=BAND, **{"optimizer.adamw_lr": "0.0001"})
    assert ranges["optimizer.lr"] == "tag(log,interval(1e-02,4e-01))"
    assert ranges["optimizer.adamw_lr"] == "tag(log,interval(1e-03,4e-02))"


@pytest.mark.parametrize("kinds", [(), ("plateau",), ("divergence",), ("underfitting",), ("learning rate too high",)])
def test_best_lr_of_the_range_test_is_searched_whatever_the_diagnosis(kinds) -> None:
    ranges, _ = prescribed(*kinds, band=BAND)
    assert ranges["optimizer.lr"] == "tag(log,interval(1e-02,4e-01))"


def test_longer_run_keeps_an_lr_near_the_best_one_of_the_range_test() -> None:
    assert prescribed("underfitting", band=BAND, **{"optimizer.lr": "0.05"}) == ({}, {"loop.max_steps": "200"})


def test_binding_clip_is_searched_from_the_90th_percentile_of_the_norm() -> None:
    assert prescribed("clipping binds")[0]["loop.grad_clip"] == "9.1,27,null"
    assert "loop.grad_clip" not in prescribed("plateau")[0]


def test_unstable_run_searches_a_longer_warmup_in_its_own_unit() -> None:
    assert prescribed("spike")[0]["schedule.warmup_ratio"] == "interval(0.05,0.2)"
    by_steps = {"schedule.warmup_ratio": "None", "schedule.warmup_steps": "50"}
    assert prescribed("spike", **by_steps)[0]["schedule.warmup_steps"] == "int(interval(50,200))"


def test_overfitting_searches_regularization_and_not_the_rank() -> None:
    ranges, settings = prescribed("overfitting")
    assert ranges.keys() == {"optimizer.lr", "optimizer.weight_decay", "model.dropout", "lora.dropout"}
    assert settings == {}


EPOCHS = {"loop.max_steps": "None", "loop.epochs": "2.5"}


@pytest.mark.parametrize(("params", "length"), [({}, {"loop.max_steps": "200"}), (EPOCHS, {"loop.epochs": "5"})])
def test_underfitting_doubles_the_length_and_needs_no_sweep_by_itself(params, length) -> None:
    assert prescribed("underfitting", **params) == ({}, length)
    ranges, settings = prescribed("learning rate too low", "underfitting", **params)
    assert (list(ranges), settings) == (["optimizer.lr"], length)


@pytest.mark.parametrize("pretrained", [{"start.kind": "warm"}, {"model._target_": "harness.models.pretrained.causal"}])
@pytest.mark.parametrize(("start", "is_bug"), [(3.3, False), (9.2, True)])
def test_pretrained_weights_that_never_learnt_are_a_bug_unless_they_started_well(start, is_bug, pretrained) -> None:
    diagnoses = [Diagnosis("never learnt", 5, 0.9, "the loss stood still", {"start": start, "best": start - 0.01})]
    found = prescribe(History(RunFacts(uniform_loss=10.8)), diagnoses, {**PARAMS, **pretrained})
    assert found.refusal == ("never learnt: the loss stood still" if is_bug else "")
    assert [part.key for part in found.ranges] == ([] if is_bug else ["optimizer.lr"])


@pytest.mark.parametrize("kind", BUG_KINDS)
def test_bugs_are_not_searched_over(kind) -> None:
    diagnoses = [Diagnosis("learning rate too low", 5, 0.9, "slow"), Diagnosis(kind, 5, 0.9, "broken")]
    found = prescribe(History(), diagnoses, PARAMS)
    assert (found.ranges, found.settings, found.refusal) == ((), (), f"{kind}: broken")


def test_diagnoses_without_a_search_become_notes() -> None:
    found = prescribe(
        History(), [Diagnosis("scheduler idle", 5, 0.9, "", {}, (Suggestion("schedule", "cosine"),))], PARAMS
    )
    assert found.notes == ("scheduler idle: a sweep does not help; try schedule=cosine",)
    assert [part.key for part in found.ranges] == ["optimizer.lr"]


def test_locked_keys_are_not_searched() -> None:
    diagnoses = [Diagnosis("overfitting", 5, 0.9, "because")]
    found = prescribe(History(), diagnoses, {**PARAMS, "locked": "['model', 'optimizer.weight_decay']"})
    assert [part.key for part in found.ranges] == ["optimizer.lr", "lora.dropout"]
    assert [note.partition(" ")[0] for note in found.notes] == ["optimizer.weight_decay", "model.dropout"]


def test_ranges_have_valid_sweep_syntax() -> None:
    ranges, _ = prescribed("learning rate too low", "spike", "clipping binds", "overfitting")
    read, fixed, _ = parse_ranges([f"{key}={text}" for key, text in ranges.items()])
    assert (read.keys(), fixed) == (ranges.keys(), {})
