"""A package that is missing is named with the extra that installs it."""

import tomllib

import pytest

from harness.config.errors import LAUNCHER_EXTRAS
from harness.core.errors import ConfigError
from harness.core.extras import EXTRAS, describe_missing_package
from harness.tracking.store_uri import check_database_driver
from tests.conftest import ROOT


def test_every_extra_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {*EXTRAS, *LAUNCHER_EXTRAS.values()} <= {*extras}


def test_missing_package_is_found_in_the_causes_of_an_error() -> None:
    error = ValueError("fields cannot be read")
    error.__cause__ = ModuleNotFoundError("No module named 'h5py.x'", name="h5py.x")
    assert describe_missing_package(error) == "the package h5py is not installed; pip install 'plateau-harness[hdf5]'"
    assert not describe_missing_package(ModuleNotFoundError("No module named 'mine'", name="mine"))
    assert not describe_missing_package(None)


@pytest.mark.parametrize("uri", ["sqlite:///x.db", "http://localhost:5000", "nonsense", "mysql+nodriver://h/d"])
def test_address_without_a_driver_of_its_own_is_accepted(uri: str) -> None:
    check_database_driver("tracking.uri", uri)


def test_missing_driver_is_named_without_the_password() -> None:
    with pytest.raises(ConfigError, match=r"sweep.storage: mssql\+pymssql://host/d: the driver pymssql is not"):
        check_database_driver("sweep.storage", "mssql+pymssql://me:secret@host/d")
