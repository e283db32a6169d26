"""Field files: accepted shapes and error messages."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.data.operator_data import load_pt_files, read_field_pairs

X, Y = torch.arange(96.0).view(6, 4, 4) + 1, -torch.arange(96.0).view(6, 4, 4) - 1
SETTINGS = {"limit": None, "eval_batch_size": 4, "shuffle": True, "seed": 0}


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
    train, tests = str(coarse), [str(fine), str(coarse)]
    data = load_pt_files(train=train, tests=tests, cache_dir=tmp_path, **{**SETTINGS, "limit": 2})
    assert [fields.grid for fields in data.held_out] == ["8", "4"]
    assert [len(fields) for fields in (data.train, *data.held_out)] == [2, 6, 6]
    whole = load_pt_files(train=train, tests=tests, cache_dir=tmp_path, **SETTINGS)
    assert whole.digest != data.digest
    assert whole.source == "coarse.pt, fine.pt, coarse.pt"


NAN = torch.where(torch.arange(6)[:, None, None] == 2, torch.nan, Y)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"x": X}, "has no tensor 'y': it holds a dictionary of x; save"),
        ({"x": X, "y": [1, 2]}, "has no tensor 'y': it holds a dictionary of x, y"),
        ({"x": X[0], "y": Y[0]}, r"\[4, 4\]; both must be \[samples, height, width\] or \[samples, channels"),
        ({"x": X, "y": Y[:5]}, r"x of .* is \[6, 1, 4, 4\], y \[5, 1, 4, 4\]: both need the same number of samples"),
        ({"x": X[:0], "y": Y[:0]}, "at least one"),
        ({"x": X, "y": torch.ones(6, 8, 8)}, "their grids differ; sample both on the same grid"),
        ({"x": X, "y": NAN}, "y of .* is not finite in 1 samples, the first is sample 2"),
        ({"x": X, "y": torch.zeros(6, 4, 4)}, "y of .* is 0 everywhere in sample 0"),
        ({"x": X, "y": Y + 1j}, "y of .* is complex; save its real and imaginary parts as two channels"),
    ],
)
def test_unsuitable_tensors_are_rejected(tensors, message, tmp_path) -> None:
    with pytest.raises(ValueError, match=message):
        read_field_pairs(save_tensors(tmp_path / "bad.pt", **tensors))


def test_unreadable_files_are_rejected(tmp_path) -> None:
    torch.save(X, tmp_path / "tensor.pt")
    with pytest.raises(ValueError, match="it holds a Tensor"):
        read_field_pairs(tmp_path / "tensor.pt")
    (tmp_path / "text.pt").write_text("no tensors")
    whole = save_tensors(tmp_path / "torn.pt", x=X, y=Y).read_bytes()
    (tmp_path / "torn.pt").write_bytes(whole[: len(whole) // 2])
    for name in ("text.pt", "torn.pt"):
        with pytest.raises(ValueError, match=f"{name} is damaged or not a file of tensors saved with torch.save"):
            read_field_pairs(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"none.pt does not exist; give a .pt file with x and y"):
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
        ({"tests": "{0}"}, "tests='.*' must be a list of files"),
        ({"tests": []}, r"tests=\[\] must be a list of files"),
        ({"limit": 0}, "limit=0 must be 1 or more"),
        ({"limit": 7}, "limit=7 is more than the 6 samples of .*lower it"),
        ({"tests": ["{0}", "{0}"]}, "two of the tests have the same grid: 4, 4"),
        ({"tests": ["{1}"]}, "the channels of x and y differ between files"),
    ],
)
def test_incompatible_files_are_rejected(changed, message, tmp_path) -> None:
    one = save_tensors(tmp_path / "one.pt", x=X, y=Y)
    two = save_tensors(tmp_path / "two.pt", x=torch.ones(2, 2, 4, 4), y=torch.ones(2, 1, 4, 4))
    if isinstance(changed.get("tests"), list):
        changed = {"tests": [test.format(one, two) for test in changed["tests"]]}
    with pytest.raises(ValueError, match=message):
        load_pt_files(**{"train": str(one), "tests": [str(one)], "cache_dir": tmp_path, **SETTINGS, **changed})
