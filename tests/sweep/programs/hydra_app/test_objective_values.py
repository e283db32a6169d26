"""Values that a task function may return, and those that are refused."""

import math
from decimal import Decimal

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from harness.sweep.programs.hydra_app.objective_values import ObjectiveError, is_diverged, read_objective_values


@pytest.mark.parametrize(
    "returned",
    [
        *(0.5, "0.5", np.float32(0.5), np.array(0.5), torch.tensor(0.5), torch.tensor([0.5]), Decimal("0.5"), [0.5]),
        (torch.tensor(0.5),),
    ],
)
def test_one_objective_is_whatever_float_takes(returned) -> None:
    assert read_objective_values(returned, ["value"]) == (0.5,)


@pytest.mark.parametrize("returned", [True, 1, np.int64(1)])
def test_integers_and_booleans_are_numbers(returned) -> None:
    assert read_objective_values(returned, ["value"]) == (1.0,)


@pytest.mark.parametrize(
    "returned",
    [
        *((1, 2.0), [1, "2"], np.array([1, 2]), torch.tensor([1.0, 2.0]), (torch.tensor(1.0), np.float64(2))),
        (value for value in (1, 2)),
        {"loss": 1, "error": 2}.values(),
    ],
)
def test_several_objectives_are_anything_with_as_many_numbers(returned) -> None:
    assert read_objective_values(returned, ["a", "b"]) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("returned", "shown"),
    [
        (None, "None;"),
        ("done", "'done' (str);"),
        ([1, 2], "[1, 2] (list);"),
        (torch.ones(3), "tensor([1., 1., 1.]) (Tensor);"),
        (1j, "1j (complex);"),
        ("x" * 500, "'xxx"),
    ],
)
def test_what_is_no_number_is_shown(returned, shown) -> None:
    with pytest.raises(ObjectiveError, match=r"return the value to optimize as a float$") as error:
        read_objective_values(returned, ["value"])
    assert str(error.value).startswith(f"the task function returned {shown}")
    assert len(str(error.value)) < 160


@pytest.mark.parametrize("returned", [None, 0.5, "12", ["a", "b"], torch.tensor(0.5), np.array(1)])
def test_what_does_not_hold_numbers_is_refused_for_several_objectives(returned) -> None:
    with pytest.raises(ObjectiveError, match=r"return the values of a, b as a list or tuple of floats, or by name$"):
        read_objective_values(returned, ["a", "b"])


def test_another_number_of_values_names_the_key() -> None:
    with pytest.raises(ObjectiveError, match="returned 1 value for 2 objectives, a, b; return one for each"):
        read_objective_values([1.0], ["a", "b"])


def test_a_mapping_has_the_objectives_by_name() -> None:
    returned = {"test_loss": torch.tensor(0.7), "val_loss": "0.5", "epoch": 3}
    assert read_objective_values(returned, ["val_loss"]) == (0.5,)
    assert read_objective_values(OmegaConf.create({"a": 1, "b": 2}), ["b", "a"]) == (2.0, 1.0)
    assert read_objective_values(returned, ["val_loss", "test_loss"]) == (0.5, pytest.approx(0.7))
    for names, remedy in {
        ("value",): "it has no 'value'; return it by this name, or set hydra.sweeper.objectives=[val_loss]",
        ("val_loss", "test_acc"): "it has no 'test_acc'; return it by this name",
    }.items():
        with pytest.raises(ObjectiveError) as error:
            read_objective_values({"val_loss": 0.5, "test_loss": 0.7}, names)
        assert str(error.value) == f"the task function returned {{'val_loss': 0.5, 'test_loss': 0.7}} (dict); {remedy}"
    with pytest.raises(ObjectiveError, match=r"return 'val_loss' as a float$"):
        read_objective_values({"val_loss": None}, ["val_loss"])


def test_a_value_whose_repr_fails_is_still_refused() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError("no repr")

    with pytest.raises(ObjectiveError, match=r"returned a value"):
        read_objective_values(Broken(), ["value"])


@pytest.mark.parametrize("returned", [math.nan, "nan", -math.inf, 10**400, torch.tensor(math.inf)])
def test_values_that_are_not_finite_are_diverged(returned) -> None:
    assert is_diverged(read_objective_values(returned, ["value"]))
    assert is_diverged(read_objective_values([0.5, returned], ["a", "b"]))
    assert not is_diverged((0.5, -2.0))
