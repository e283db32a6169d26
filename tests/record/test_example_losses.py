"""The file of losses of single examples: what is written is read, and damage is named."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from harness.core.errors import DamageError
from harness.record.example_losses import (
    BEST_EXAMPLES,
    ExampleLosses,
    copy_example_losses,
    read_example_losses,
    write_example_losses,
)

LOSSES = ExampleLosses(np.array([3.5, 1e-300, 7.25]), np.array([2, 1, 3]), 40, "nats/token", "v" * 16)


def test_written_losses_are_read(tmp_path: Path) -> None:
    write_example_losses(tmp_path / BEST_EXAMPLES, LOSSES)
    (tmp_path / "resumed").mkdir()
    copy_example_losses(tmp_path, tmp_path / "resumed")
    copy_example_losses(tmp_path / "absent", tmp_path / "resumed")
    found = read_example_losses(tmp_path / "resumed" / BEST_EXAMPLES)
    assert np.array_equal(found.sums, LOSSES.sums)
    assert np.array_equal(found.counts, LOSSES.counts)
    assert (found.step, found.unit, found.validation) == (40, "nats/token", "v" * 16)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [BEST_EXAMPLES]


def test_every_damaged_byte_is_found_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / BEST_EXAMPLES
    write_example_losses(path, LOSSES)
    content = path.read_bytes()
    for position in range(0, len(content), 7):
        path.write_bytes(content[:position] + bytes([content[position] ^ 64]) + content[position + 1 :])
        with suppress(DamageError):
            found = read_example_losses(path)
            assert np.array_equal(found.sums, LOSSES.sums)
            assert np.array_equal(found.counts, LOSSES.counts)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY", b"x" * 100])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / BEST_EXAMPLES).write_bytes(content)
    with pytest.raises(DamageError, match="damaged or not a file of example losses"):
        read_example_losses(tmp_path / BEST_EXAMPLES)
