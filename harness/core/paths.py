"""Folders of the configuration and of the results."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def config_dir() -> Path:
    """Return the folder of the shipped configuration: inside an installed package, beside it in a checkout."""
    packaged = PACKAGE / "conf"
    return packaged if packaged.is_dir() else PACKAGE.parent / "conf"


def project_dir() -> Path:
    """Return the folder that outputs/, .cache/ and mlruns/ are relative to.

    It is the root of a checkout, or the current folder if the package is installed.
    """
    return PACKAGE.parent if (PACKAGE.parent / "pyproject.toml").is_file() else Path.cwd()
