"""Validation losses of single examples, in files of a run's folder.

A file is an uncompressed .npz with float64 `sums` of the loss over the scored elements of each example, int32 `counts`
of these elements, and `about`: JSON in bytes with step, unit, digest of the validation data and digest of the arrays.
"""

import io
import json
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.core.digests import compute_array_digest
from harness.core.errors import DamageError
from harness.core.files import read_small_file, write_atomically

BEST_EXAMPLES, FINAL_EXAMPLES = "example_losses_best.npz", "example_losses_final.npz"
TEST_EXAMPLES = "example_losses_test.npz"
"""Those of the test split, of the best weights; `validation` is the digest of the test split there."""
READ_ERRORS = (ValueError, KeyError, TypeError, EOFError, OverflowError, MemoryError, RuntimeError, SyntaxError,
               zipfile.BadZipFile, zlib.error)  # fmt: skip
"""Errors of reading a damaged .npz."""
MAX_BYTES = 1_000_000_000  # 12 bytes an example


@dataclass(frozen=True, eq=False)
class ExampleLosses:
    """Losses of the validation examples, in the order of the validation set, at one evaluation."""

    sums: np.ndarray
    counts: np.ndarray
    step: int
    unit: str
    validation: str  # digest of the validation data


def copy_example_losses(source: Path, folder: Path) -> None:
    """Copy those of the best evaluation, if there are any, to the folder of a run that resumes the one in `source`."""
    if (source / BEST_EXAMPLES).is_file():
        write_atomically(folder / BEST_EXAMPLES, (source / BEST_EXAMPLES).read_bytes())


def write_example_losses(path: Path, losses: ExampleLosses) -> None:
    """Write the losses atomically."""
    sums, counts = losses.sums.astype(np.float64), losses.counts.astype(np.int32)
    about = {
        "step": losses.step,
        "unit": losses.unit,
        "validation": losses.validation,
        "digest": compute_array_digest(sums, counts),
    }
    file = io.BytesIO()
    np.savez(file, sums=sums, counts=counts, about=np.frombuffer(json.dumps(about).encode(), np.uint8))
    write_atomically(path, file.getvalue())


def read_example_losses(path: Path) -> ExampleLosses:
    """Read a file that `write_example_losses` wrote.

    Raises:
        DamageError: If it is damaged or something else; the message names it.
        OSError: If it cannot be read.
    """
    try:
        content = read_small_file(path, MAX_BYTES)
        if sum(entry.file_size for entry in zipfile.ZipFile(io.BytesIO(content)).infolist()) > MAX_BYTES:
            raise ValueError("too large")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            sums, counts, about = arrays["sums"], arrays["counts"], json.loads(arrays["about"].tobytes())
        losses = ExampleLosses(sums, counts, int(about["step"]), str(about["unit"]), str(about["validation"]))
        is_intact = compute_array_digest(sums, counts) == about["digest"]
    except READ_ERRORS as error:
        raise DamageError(f"{path} is damaged or not a file of example losses; delete it to compare without") from error
    if not is_intact or sums.shape != counts.shape or sums.ndim != 1:
        raise DamageError(f"{path} is damaged: its digest differs from the arrays; delete it to compare without")
    return losses
