"""Folders of the configuration and of results, in a checkout and in an installed package."""

from harness.core import paths
from tests.conftest import ROOT


def test_folders_of_a_checkout() -> None:
    assert paths.config_dir() == ROOT / "conf"
    assert paths.project_dir() == ROOT


def test_folders_of_an_installed_package(tmp_path, monkeypatch) -> None:
    package = tmp_path / "site-packages" / "harness"
    (package / "conf" / "sweeps").mkdir(parents=True)
    monkeypatch.setattr(paths, "PACKAGE", package)
    monkeypatch.chdir(tmp_path)
    assert paths.config_dir() == package / "conf"
    assert paths.project_dir() == tmp_path
