"""The study in the folder of a sweep, opened to be read: errors and their remedies."""

from pathlib import Path

import pytest

from harness.core.errors import ConfigError
from harness.sweep.study.recorded_study import open_recorded_study


def test_a_server_that_refuses_asks_for_the_address_that_was_not_recorded(tmp_path: Path) -> None:
    """Users and passwords are left out of a recorded address, so what the server lacks may be those."""
    with pytest.raises(ConfigError) as error:
        open_recorded_study(tmp_path, "tuned", "postgresql+psycopg://127.0.0.1:1/studies")
    assert str(error.value).startswith(f"STUDY: {tmp_path}: postgresql+psycopg://127.0.0.1:1/studies cannot be opened")
    assert str(error.value).endswith("; if its address has a user or a password, give it with --storage URL")


def test_a_damaged_file_is_to_be_restored(tmp_path: Path) -> None:
    database = tmp_path / "study.db"
    database.write_bytes(b"no database" * 1000)
    with pytest.raises(ConfigError, match=r"STUDY: .*study\.db cannot be .*; restore it"):
        open_recorded_study(tmp_path, "tuned", f"sqlite:///{database}")
