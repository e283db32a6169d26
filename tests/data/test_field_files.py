"""Arrays of every file format, as data and never as code."""

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.data import field_files
from harness.data.field_files import read_arrays
from harness.data.operator_data import read_field_pairs

X = np.arange(24.0).reshape(2, 3, 4)


def read_array(path: Path, name: str, key: str) -> torch.Tensor:
    [array] = read_arrays(path, {key: name})
    return array


def test_a_file_is_opened_once(tmp_path, monkeypatch) -> None:
    torch.save({"x": torch.ones(4, 8), "y": torch.ones(4, 8)}, tmp_path / "both.pt")
    opened = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda path, **options: opened.append(path) or load(path, **options))
    read_field_pairs(tmp_path / "both.pt")
    assert opened == [tmp_path / "both.pt"]


def write_hdf5(path: Path, **arrays: Any) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[f"fields/{name}"] = array


FORMATS: dict[str, tuple[Callable[[Path], object], str]] = {
    "x.pt": (lambda path: torch.save({"a": torch.tensor(X), "b": 1}, path), "a"),
    "tuple.pth": (lambda path: torch.save((torch.tensor(X), torch.zeros(1)), path), "0"),
    "one.pt": (lambda path: torch.save(torch.tensor(X), path), "x"),
    "x.npz": (lambda path: np.savez(path, a=X, b=[1]), "a"),
    "packed.npz": (lambda path: np.savez_compressed(path, a=X.astype(">f2")), "a"),
    "x.npy": (lambda path: np.save(path, X.astype(np.int16)), "x"),
    "x.h5": (lambda path: write_hdf5(path, a=X.astype(np.float32), b=[1]), "fields/a"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_numbers(name: str, tmp_path: Path) -> None:
    write, array = FORMATS[name]
    write(tmp_path / name)
    found = read_array(tmp_path / name, array, "x")
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.tensor(X, dtype=torch.float32))


@pytest.mark.parametrize("name", ["x.pt", "x.npz", "x.h5"])
def test_missing_name_lists_what_there_is(name: str, tmp_path: Path) -> None:
    FORMATS[name][0](tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name} has no array 'y': it holds .*a \[2, 3, 4\], .*data\.y=NAME"):
        read_array(tmp_path / name, "y", "y")


class Harmful:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("ran"),)


def test_code_in_a_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    objects = np.array([Harmful()], dtype=object)
    np.save(tmp_path / "x.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "x.npz", x=objects, allow_pickle=True)
    torch.save({"x": Harmful()}, tmp_path / "x.pt")
    for name in ("plain.npy", "plain.npz", "plain.h5", "plain.pth"):
        (tmp_path / name).write_bytes(pickle.dumps(Harmful()))
    for path in sorted(tmp_path.iterdir()):
        if path.suffix != ".h5" or "h5py" in sys.modules:
            with pytest.raises(ValueError, match=f"{path.name} is damaged or not a"):
                read_array(path, "x", "x")
    assert not (tmp_path / "ran").exists()


def test_links_out_of_an_hdf5_file_are_not_followed(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    write_hdf5(tmp_path / "secret.h5", x=X)
    (tmp_path / "raw").write_bytes(X.tobytes())
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "fields/x")
        file.create_dataset("y", X.shape, X.dtype, external=[(str(tmp_path / "raw"), 0, h5py.h5f.UNLIMITED)])
        layout = h5py.VirtualLayout(X.shape, X.dtype)
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "fields/x", X.shape)
        file.create_virtual_dataset("z", layout)
    for name in "xyz":
        with pytest.raises(ValueError, match=f"has no array '{name}': it holds nothing"):
            read_array(tmp_path / "x.h5", name, name)


@pytest.mark.parametrize("name", ["packed.npz", "huge.h5"])
def test_small_file_that_unpacks_to_much_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "huge.h5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(tmp_path / name, "w") as file:
            file.create_dataset("x", (10**6, 10**6), "f4", chunks=(1000, 1000))
    else:
        np.savez_compressed(tmp_path / name, x=np.zeros(10**6))
        monkeypatch.setattr(field_files, "MAX_UNPACKED_BYTES", 10**6)
    with pytest.raises(ValueError, match=f"{name} unpacks to .*; save it without compression"):
        read_array(tmp_path / name, "x", "x")


def test_hdf5_without_h5py_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ValueError, match=r"HDF5 files need h5py: pip install 'plateau-harness\[hdf5\]', or convert"):
        read_array(tmp_path / "x.h5", "x", "x")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array(["a"]), "x holds <U1, not an array of numbers"),
        (np.array([1j]), "x is complex; save its real and imaginary parts as two channels"),
    ],
)
def test_other_than_real_numbers_is_refused(array: np.ndarray, message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=array)
    with pytest.raises(ValueError, match=message):
        read_array(tmp_path / "x.npz", "x", "x")


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.mat").write_bytes(b"MATLAB 5.0")
    with pytest.raises(ValueError, match=r"x.mat is not a .pt, .pth, .npz, .npy, .h5, .hdf5, .hdf file; convert it"):
        read_array(tmp_path / "x.mat", "x", "x")
    with pytest.raises(FileNotFoundError, match=r"none.pt does not exist; give a file with the arrays x and y"):
        read_array(tmp_path / "none.pt", "x", "x")
