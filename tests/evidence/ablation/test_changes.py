"""Which values are one change, and which of them are taken apart."""

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from harness.core.errors import ConfigError
from harness.evidence.ablation.changes import find_changes, is_same_value, list_alternatives, select_changes
from harness.sweep.space.search_space import SearchSpace

LR = FloatDistribution(1e-4, 1e-1, log=True)
SPACE = SearchSpace(
    {"optimizer": CategoricalDistribution(["adamw", "muon"]), "loop.grad_clip": LR, "schedule.warmup_ratio": LR},
    {"optimizer=muon": {"optimizer.lr": LR, "optimizer.momentum": LR}, "optimizer=adamw": {"optimizer.lr": LR}},
    {"optimizer": "adamw", "schedule": "cosine"},
)
BASELINE = {"optimizer": "adamw", "optimizer.lr": 1e-3, "loop.grad_clip": 1.0, "schedule.warmup_ratio": 0.1}
WINNER = {
    "optimizer": "muon", "optimizer.lr": 0.02, "optimizer.momentum": 0.9, "loop.grad_clip": 0.3,
    "schedule.warmup_ratio": 0.1,
}  # fmt: skip


def list_keys(baseline: dict, winner: dict, space: SearchSpace = SPACE) -> list[tuple[str, ...]]:
    return [change.keys for change in find_changes(baseline, winner, space, list_alternatives())]


def test_an_option_and_what_is_searched_under_it_are_one_change() -> None:
    assert list_keys(BASELINE, WINNER) == [("optimizer", "optimizer.lr", "optimizer.momentum"), ("loop.grad_clip",)]
    optimizer, clip = find_changes(BASELINE, WINNER, SPACE, [])
    assert clip.apply_to(BASELINE) == {**BASELINE, "loop.grad_clip": 0.3}
    assert optimizer.revert_in(WINNER) == {**BASELINE, "loop.grad_clip": 0.3}  # no momentum, which adamw lacks
    assert optimizer.apply_to(BASELINE) == {**WINNER, "loop.grad_clip": 1.0}


def test_the_same_option_leaves_its_values_single_changes() -> None:
    same = {**WINNER, "optimizer": "adamw"}
    del same["optimizer.momentum"]
    assert list_keys(BASELINE, same) == [("optimizer.lr",), ("loop.grad_clip",)]


def test_a_range_for_all_options_is_a_change_of_its_own() -> None:
    space = SearchSpace({**SPACE.ranges, "optimizer.lr": LR}, {}, SPACE.group_options)
    found = list_keys({**BASELINE}, {**BASELINE, "optimizer": "muon", "optimizer.lr": 0.02}, space)
    assert found == [("optimizer",), ("optimizer.lr",)]


def test_keys_of_a_custom_space_below_a_group_belong_to_its_option() -> None:
    space = SearchSpace({"optimizer": SPACE.ranges["optimizer"]}, {}, SPACE.group_options)
    assert list_keys({"optimizer": "adamw"}, {"optimizer": "muon", "optimizer.ns_steps": 5, "x": 1}, space) == [
        ("optimizer", "optimizer.ns_steps"),
        ("x",),
    ]


def test_alternatives_are_one_change() -> None:
    baseline, winner = {"schedule.warmup_steps": 100, "a": 1}, {"schedule.warmup_ratio": 0.1, "a": 2}
    assert list_keys(baseline, winner) == [("schedule.warmup_ratio", "schedule.warmup_steps"), ("a",)]


def test_unknown_values_of_the_baseline_are_left_out_again() -> None:
    [rank, lr] = find_changes({}, {"rank": 8, "lr": 0.1}, SPACE, [])
    assert rank.revert_in({"rank": 8, "lr": 0.1}) == {"lr": 0.1}
    assert lr.apply_to({}) == {"lr": 0.1}


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [(1e-3, "0.001", True), ("1e-3", "1.0e-3", True), (8, 8.0, True), ("[1,2]", [1, 2], True), (True, "true", True),
     (1, True, False), (0, False, False), (0.1 + 0.2, 0.3, True), ("adamw", "adam", False), (None, 0, False),
     (None, "null", True), (1e-3, 1.01e-3, False), ("--flag a b(", "--flag a b(", True)],
)  # fmt: skip
def test_values_written_otherwise_are_the_same(one: object, other: object, is_same: bool) -> None:
    assert is_same_value(one, other) is is_same
    assert is_same_value(other, one) is is_same


def make_changes(n: int) -> list:
    return find_changes({f"k{i}": 0 for i in range(n)}, {f"k{i}": 1 for i in range(n)}, SPACE, [])


def test_chosen_changes_and_all_others_as_one() -> None:
    changes = make_changes(4)
    found = select_changes(changes, ["k2", "k0"])
    assert [change.keys for change in found] == [("k2",), ("k0",), ("k1", "k3")]
    assert [change.keys for change in select_changes(changes, ["k2,k0"])] == [("k2", "k0"), ("k1", "k3")]
    assert [change.name for change in select_changes(changes, ["k0", "k1", "k2"])] == ["k0", "k1", "k2", "k3"]
    assert select_changes(changes, []) == changes


@pytest.mark.parametrize(
    ("n", "chosen", "message"),
    [(0, [], "it has the values of the baseline"), (1, [], "one change, k0"), (3, ["k9"], "k9: does not change"),
     (3, ["k0", "k1,k0"], "k0 is in two"), (3, ["k0,k1,k2"], "one change, k0, k1, k2"), (3, [","], "is empty"),
     (9, [], "need 20 configurations; name those")],
)  # fmt: skip
def test_what_cannot_be_taken_apart_is_refused(n: int, chosen: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        select_changes(make_changes(n), chosen)


def test_many_changes_are_taken_apart_if_named() -> None:
    assert len(select_changes(make_changes(10), [f"k{i}" for i in range(10)])) == 10
