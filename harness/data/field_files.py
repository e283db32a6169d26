"""Read named arrays from .pt, .npz, .npy and HDF5 files, as data: no code in a file is ever run."""

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.core.files import check_regular_file
from harness.core.formatting import format_bytes

TORCH_SUFFIXES, HDF5_SUFFIXES = (".pt", ".pth"), (".h5", ".hdf5", ".hdf")
FIELD_SUFFIXES = (*TORCH_SUFFIXES, ".npz", ".npy", *HDF5_SUFFIXES)
MAX_UNPACKED_BYTES = 2 * 10**9  # of a compressed file
MAX_PACKING = 2  # times the size of the file; what unpacks to more is compressed
MAX_LISTED = 8  # arrays in a message


def read_arrays(path: Path, names: Mapping[str, str]) -> list[Tensor]:
    """Read arrays of a file as float32; it is opened once.

    Args:
        names: The names of the arrays, by what messages call them: x or y. A single one need have no name in the file,
            as in .npy.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read, or lacks one of these arrays of real numbers.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give a file with the arrays x and y")
    check_regular_file(path)
    if path.suffix not in FIELD_SUFFIXES:
        raise ValueError(f"{path} is not a {', '.join(FIELD_SUFFIXES)} file; convert it, for example with numpy.savez")
    try:
        with _open_arrays(path) as arrays:
            has_no_names = list(arrays) == [""]
            if has_no_names and len(names) > 1:
                raise _FileProblem(f"{path} holds one array, and x and y are needed; give {{x: {path}, y: FILE}}")
            found = {key: arrays[""] if has_no_names else arrays.get(name) for key, name in names.items()}
            for key, array in found.items():
                if array is None:
                    raise _FileProblem(_describe_missing(path, names[key], key, arrays))
            return [_to_float(array, f"{path}: {names[key]}") for key, array in found.items()]
    except _FileProblem as problem:
        raise ValueError(str(problem)) from problem
    except Exception as error:  # torch, numpy and h5py raise many types, depending on the bytes
        raise ValueError(f"{path} is damaged or not a {_describe_format(path)}") from error


class _FileProblem(Exception):
    """Problem of a file, in words for its user."""


@contextmanager
def _open_arrays(path: Path) -> Iterator[Mapping[str, Any]]:
    """Open the arrays of a file by name; an array without a name has an empty one."""
    if path.suffix in HDF5_SUFFIXES:
        with _import_h5py(path).File(path, "r") as file:
            yield _list_datasets(file)
        return
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            _check_unpacked_size(path, sum(entry.file_size for entry in archive.infolist()))
    if path.suffix in TORCH_SUFFIXES:
        yield _name_tensors(torch.load(path, map_location="cpu", weights_only=True), path)
    else:
        loaded = np.load(path, allow_pickle=False)
        yield {"": loaded} if isinstance(loaded, np.ndarray) else loaded


def _name_tensors(content: object, path: Path) -> dict[str, Any]:
    if isinstance(content, Tensor):
        return {"": content}
    if isinstance(content, (list, tuple)):
        content = dict(enumerate(content))
    if not isinstance(content, dict):
        raise _FileProblem(f"{path} holds a {type(content).__name__}; save {{'x': ..., 'y': ...}} with torch.save")
    return {str(name): value for name, value in content.items()}


def _import_h5py(path: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise _FileProblem(
            f"{path}: HDF5 files need h5py: pip install 'plateau-harness[hdf5]', or convert the file to .npz"
        ) from error
    return h5py


def _list_datasets(file: Any) -> dict[str, Any]:
    """Return the data sets of a file and its groups; links to other files are not followed."""
    found: dict[str, Any] = {}

    def visit(name: str, node: Any) -> None:
        if hasattr(node, "dtype") and hasattr(node, "shape") and not (node.is_virtual or node.external):
            found[name] = node

    file.visititems(visit)
    return found


def _to_float(array: Any, where: str) -> Tensor:
    """Return an array of any of the libraries as a float32 tensor.

    Raises:
        _FileProblem: If it does not hold real numbers.
    """
    if hasattr(array, "id") and hasattr(array, "file"):  # a data set of HDF5, which is still on disk
        _check_unpacked_size(Path(array.file.filename), array.nbytes)
        array = array[()]
    if isinstance(array, np.ndarray) and array.dtype.kind in "biufc":
        array = torch.from_numpy(array.astype(np.complex64 if array.dtype.kind == "c" else np.float32))
    if not isinstance(array, Tensor):
        kind = getattr(array, "dtype", type(array).__name__)
        raise _FileProblem(f"{where} holds {kind}, not an array of numbers; name another array")
    if array.is_complex():
        raise _FileProblem(f"{where} is complex; save its real and imaginary parts as two channels")
    return array.float()


def _check_unpacked_size(path: Path, n_bytes: int) -> None:
    """Check that a compressed file, which may be small, does not fill the memory.

    Raises:
        _FileProblem: If it would.
    """
    if n_bytes > MAX_UNPACKED_BYTES and n_bytes > MAX_PACKING * path.stat().st_size:
        limit = format_bytes(MAX_UNPACKED_BYTES)
        raise _FileProblem(f"{path} unpacks to {format_bytes(n_bytes)}, over {limit}; save it without compression")


def _describe_missing(path: Path, name: str, key: str, arrays: Mapping[str, Any]) -> str:
    names = list(arrays)
    shown = [
        f"{one} {list(arrays[one].shape)}" if hasattr(arrays[one], "shape") else f"{one} ({type(arrays[one]).__name__})"
        for one in names[:MAX_LISTED]
    ]
    held = ", ".join([*shown, *(["…"] if len(names) > MAX_LISTED else [])]) or "nothing"
    remedy = "data.x=NAME data.y=NAME" if key == "x" else "data.y=NAME"  # x is read first
    return f"{path} has no array {name!r}: it holds {held}; name the arrays with {remedy}"


def _describe_format(path: Path) -> str:
    if path.suffix in TORCH_SUFFIXES:
        return "file of tensors saved with torch.save"
    return "HDF5 file" if path.suffix in HDF5_SUFFIXES else "file of numbers saved with NumPy"
