"""A package that is missing is named with the extra that installs it."""

import re
import tomllib

import pytest

from harness.config.errors import LAUNCHER_EXTRAS
from harness.core.errors import ConfigError
from harness.core.extras import EXTRAS, describe_missing_package
from harness.tracking.store_uri import check_database_driver
from tests.conftest import ROOT

MODULES = {
    "hydra": "hydra-core", "hydra_plugins": "hydra-optuna-sweeper", "sklearn": "scikit-learn", "yaml": "pyyaml",
}  # fmt: skip
"""Packages by the name of their module, where it is another one."""


def test_every_extra_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {*EXTRAS, *LAUNCHER_EXTRAS.values()} <= {*extras}


def test_sweeps_of_other_programs_bring_nothing_of_a_training() -> None:
    """Its versions of torch and transformers are those of the program."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    needed = {re.split("[<>=]", requirement)[0] for requirement in extras["programs"]}
    assert not needed & {
        "torch", "transformers", "tokenizers", "peft", "datasets", "safetensors", "accelerate", "pytorch_optimizer",
    }  # fmt: skip
    assert needed - {*MODULES.values()} == {package for package in EXTRAS["programs"] if package not in MODULES}
    shared = {requirement for requirement in extras["train"] if re.split("[<>=]", requirement)[0] in needed}
    assert shared <= {*extras["programs"]}


@pytest.mark.parametrize("wanted", ["train", "programs"])
def test_package_of_several_extras_is_that_of_the_wanted_one(wanted: str) -> None:
    missing = ModuleNotFoundError("No module named 'optuna'", name="optuna")
    assert f"plateau-harness[{wanted}]" in describe_missing_package(missing, wanted)
    missing = ModuleNotFoundError("No module named 'torch'", name="torch")
    assert "plateau-harness[train]" in describe_missing_package(missing, wanted)


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
