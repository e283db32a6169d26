"""Field files: accepted shapes and error messages."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.data.operator_data import FieldData, load_field_files, read_field_pairs

X, Y = torch.arange(96.0).view(6, 4, 4) + 1, -torch.arange(96.0).view(6, 4, 4) - 1


def load(**changes: Any) -> FieldData:
    settings: dict[str, Any] = {"validation": None, "val_fraction": None, "test": None, "x": "x", "y": "y"}
    settings |= {"channels": None, "limit": None, "eval_batch_size": 4, "shuffle": True, "seed": 0, "cache_dir": None}
    return load_field_files(**{**settings, **changes})


def save_tensors(path: Path, **tensors: Any) -> Path:
    torch.save(tensors, path)
    return path


def test_read_field_pairs_with_and_without_channels(tmp_path) -> None:
    one = read_field_pairs(save_tensors(tmp_path / "one.pt", x=X > 40, y=Y.double()))
    assert one.x.shape == one.y.shape == (6, 1, 4, 4)
    assert one.x.dtype == one.y.dtype == torch.float32
    several = read_field_pairs(save_tensors(tmp_path / "several.pt", x=X.unsqueeze(1), y=torch.stack([Y, Y], 1)))
    assert several.y.shape == (6, 2, 4, 4)


def test_initial_state_is_repeated_at_every_time(tmp_path) -> None:
    fields = read_field_pairs(save_tensors(tmp_path / "burgers.pt", x=X[:, 0], y=torch.ones(6, 5, 4)))
    assert fields.grid == "5x4"
    assert torch.equal(fields.x[:, 0], X[:, :1].expand(6, 5, 4))


def test_limit_applies_to_training_only(tmp_path) -> None:
    fine = save_tensors(tmp_path / "fine.pt", x=torch.ones(6, 8, 8), y=torch.ones(6, 8, 8))
    coarse = save_tensors(tmp_path / "coarse.pt", x=X, y=Y)
    other = save_tensors(tmp_path / "other.pt", x=X + 1, y=Y)
    train, validation = str(coarse), [str(fine), str(other)]
    data = load(train=train, validation=validation, limit=2)
    assert [fields.grid for fields in data.held_out] == ["8", "4"]
    assert [len(fields) for fields in (data.train, *data.held_out)] == [2, 6, 6]
    assert load(train=train, validation=validation).digest != data.digest
    assert (
        data.source == "train: coarse.pt; validation: fine.pt, other.pt; x and y of 1 and 1 channels on a grid of 4x4"
    )


def test_share_of_the_training_samples_is_held_out(tmp_path) -> None:
    data = load(train=str(save_tensors(tmp_path / "one.pt", x=X, y=Y)), val_fraction=0.3, limit=3)
    assert [len(fields) for fields in (data.train, *data.held_out)] == [3, 2]
    assert torch.equal(data.held_out[0].x[:, 0], X[4:])
    with pytest.raises(ValueError, match=r"val_fraction=0.95 leaves none of the 6 samples for training; lower it"):
        load(train=str(tmp_path / "one.pt"), val_fraction=0.95)


@pytest.mark.parametrize("has_files", [False, True])
def test_test_share_is_cut_from_training_right_before_validation(has_files, tmp_path) -> None:
    train = str(save_tensors(tmp_path / "one.pt", x=X, y=Y))
    fine = save_tensors(tmp_path / "fine.pt", x=torch.ones(2, 8, 8), y=torch.ones(2, 8, 8))
    val = {"validation": str(fine)} if has_files else {"val_fraction": 0.3}
    data = load(train=train, **val, limit=2, test_share=0.2)
    without = load(train=train, **val, limit=2)
    end = 6 if has_files else 4
    assert torch.equal(data.test[0].x[:, 0], X[end - 1 : end])
    assert torch.equal(data.train.x[:, 0], X[:2])
    assert torch.equal(data.held_out[0].x, without.held_out[0].x)
    changed = {name for name, digest in without.split_digests.items() if data.split_digests[name] != digest}
    assert changed == {"train"}
    assert set(data.split_digests) == {"train", "validation", "test"}
    assert data.digest != without.digest
    with pytest.raises(ValueError, match=r"limit=6 is more than the [35] samples for training; lower it"):
        load(train=train, **val, limit=6, test_share=0.2)
    with pytest.raises(ValueError, match=r"test_share=0.69 .*leave"):
        load(train=train, val_fraction=0.3, test_share=0.69)


def test_limit_does_not_change_the_validation_digest(tmp_path) -> None:
    train = str(save_tensors(tmp_path / "one.pt", x=X, y=Y))
    first, second = (load(train=train, val_fraction=0.3, limit=limit).split_digests for limit in (None, 2))
    assert (first["validation"] == second["validation"], first["train"] == second["train"]) == (True, False)


def test_files_with_one_grid_are_joined(tmp_path) -> None:
    parts = [str(save_tensors(tmp_path / f"part{n}.pt", x=X + n, y=Y)) for n in range(3)]
    data = load(train=[parts[2], parts[0]], validation=parts[1])
    assert torch.equal(data.train.x[:, 0], torch.cat([X + 2, X]))
    assert len(load(train=str(tmp_path), val_fraction=0.1).train) == 16
    save_tensors(tmp_path / "part4.pt", x=torch.ones(6, 8, 8), y=torch.ones(6, 8, 8))
    with pytest.raises(ValueError, match=r"^train: its files have different grids, 4, 8; train on one of them"):
        load(train=str(tmp_path), val_fraction=0.1)


def test_arrays_of_separate_files_and_of_other_names(tmp_path) -> None:
    for name, array in {"a": X, "u": Y, "b": X + 1, "v": Y}.items():
        np.save(tmp_path / f"{name}.npy", array.numpy())
    np.savez(tmp_path / "named.npz", coeff=X.numpy() + 2, sol=Y.numpy())
    train, validation = ({"x": f"{tmp_path}/{x}.npy", "y": f"{tmp_path}/{y}.npy"} for x, y in ("au", "bv"))
    data = load(train=train, validation=validation, test=f"{tmp_path}/named.npz", x="coeff", y="sol")
    assert torch.equal(data.train.x[:, 0], X)
    assert torch.equal(data.held_out[0].x[:, 0], X + 1)
    assert torch.equal(data.test[0].x[:, 0], X + 2)
    assert set(data.split_digests) == {"train", "validation", "test"}
    with pytest.raises(
        ValueError,
        match=r"has no array 'x': it holds coeff \[6, 4, 4\], sol \[6, 4, 4\]; name the "
        "arrays with data.x=NAME data.y=NAME",
    ):
        load(train=f"{tmp_path}/named.npz", val_fraction=0.5)
    torch.save((X, Y), tmp_path / "pair.pt")  # whose arrays have numbers
    assert torch.equal(load(train=f"{tmp_path}/pair.pt", val_fraction=0.5, x=0, y=1).train.y[:, 0], Y[:3])
    with pytest.raises(ValueError, match=r"a.npy holds one array, and x and y are needed; give {x: .*a.npy, y: FILE}"):
        load(train=f"{tmp_path}/a.npy", val_fraction=0.5)
    with pytest.raises(ValueError, match=r"^train={'x': 'a.npy'} must have the keys x and y"):
        load(train={"x": "a.npy"}, val_fraction=0.5)


def test_digests_tell_which_split_changed(tmp_path) -> None:
    files = {name: str(save_tensors(tmp_path / f"{name}.pt", x=X + n, y=Y)) for n, name in enumerate(SPLITS)}
    first = load(**files)
    save_tensors(tmp_path / "test.pt", x=X + 9, y=Y)
    second = load(**files)
    assert first.digest == second.digest  # of what runs read
    assert [first.split_digests[name] == second.split_digests[name] for name in SPLITS] == [True, True, False]


SPLITS = ("train", "validation", "test")
NAN = torch.where(torch.arange(6)[:, None, None] == 2, torch.nan, Y)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"x": X}, r"has no array 'y': it holds x \[6, 4, 4\]; name the arrays with data.y=NAME"),
        ({"x": X, "y": [1, 2]}, "y holds list, not an array of numbers"),
        ({"x": X[0, 0], "y": Y[0, 0]}, r"\[4\], y \[4\]: they do not share a grid of 1 to 3 dimensions; save"),
        ({"x": X, "y": Y[:5]}, r"x of .* is \[6, 4, 4\], y \[5, 4, 4\]: both need the same number of samples"),
        ({"x": X[:0], "y": Y[:0]}, "at least one"),
        ({"x": X, "y": torch.ones(6, 8, 8)}, "they do not share a grid .*, both on the same grid"),
        ({"x": X, "y": NAN}, "y of .* is not finite in 1 samples, the first is sample 2"),
        ({"x": X, "y": torch.zeros(6, 4, 4)}, "y of .* is 0 everywhere in sample 0"),
        ({"x": X, "y": Y + 1j}, "y is complex; save its real and imaginary parts as two channels"),
    ],
)
def test_unsuitable_tensors_are_rejected(tensors, message, tmp_path) -> None:
    with pytest.raises(ValueError, match=message):
        read_field_pairs(save_tensors(tmp_path / "bad.pt", **tensors))


def test_unreadable_files_are_rejected(tmp_path) -> None:
    torch.save(X, tmp_path / "tensor.pt")
    with pytest.raises(ValueError, match=r"tensor.pt holds one array, and x and y are needed; give"):
        read_field_pairs(tmp_path / "tensor.pt")
    (tmp_path / "text.pt").write_text("no tensors")
    whole = save_tensors(tmp_path / "torn.pt", x=X, y=Y).read_bytes()
    (tmp_path / "torn.pt").write_bytes(whole[: len(whole) // 2])
    for name in ("text.pt", "torn.pt"):
        with pytest.raises(ValueError, match=f"{name} is damaged or not a file of tensors saved with torch.save"):
            read_field_pairs(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"none.pt does not exist; give a file with the arrays x and y"):
        read_field_pairs(tmp_path / "none.pt")


class Harmful:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("ran"),)


def test_code_in_file_is_not_run(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"x": Harmful(), "y": Y.tolist()}, protocol=2))
    torch.save({"x": Harmful(), "y": Y}, tmp_path / "zip.pt")
    for name in ("plain.pt", "zip.pt"):
        with pytest.raises(ValueError, match="not a file of tensors"):
            read_field_pairs(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"validation": []}, r"validation=\[\] is empty"),
        ({"validation": "{0}"}, "^validation: .*one.pt is in the train split too; give each split files of its own"),
        ({"limit": 0}, "limit=0 must be 1 or more"),
        ({"limit": 7}, "limit=7 is more than the 6 samples for training; lower it"),
        ({"validation": "{1}"}, "the channels of x and y differ between files"),
        ({"validation": "{2}"}, r"the dimensions of the grids differ between files: \[2, 1\]"),
        ({"test": "{2}"}, r"the dimensions of the grids differ between files: \[2, 2, 1\]"),
        ({"validation": "none.pt"}, "validation='none.pt' does not exist"),
        ({"val_fraction": 0.1}, "val_fraction=0.1 does not go with validation"),
        ({"test_share": 0.1, "test": "{2}"}, "test_share=0.1 does not go with test, which names the whole test split"),
    ],
)
def test_incompatible_files_are_rejected(changed, message, tmp_path) -> None:
    one, other = (save_tensors(tmp_path / f"{name}.pt", x=X + n, y=Y) for n, name in enumerate(("one", "other")))
    two = save_tensors(tmp_path / "two.pt", x=torch.ones(2, 2, 4, 4), y=torch.ones(2, 1, 4, 4))
    line = save_tensors(tmp_path / "line.pt", x=torch.ones(2, 4), y=torch.ones(2, 4))
    changed = {
        name: value.format(one, two, line) if isinstance(value, str) else value for name, value in changed.items()
    }
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load(**{"train": str(one), "validation": str(other), **changed})
