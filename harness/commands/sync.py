"""python -m harness sync FOLDER: what MLflow lacks of runs and sweeps is uploaded."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.config.errors import ConfigError
from harness.record import metrics_file
from harness.tracking import sweep_uploader
from harness.tracking.mlflow_client import UploadFailed
from harness.tracking.upload_process import uploader


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m harness sync", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="of a run or a sweep")
    return max(_told(folder) for folder in parser.parse_args(arguments).folders)


def _told(folder: Path) -> int:
    try:
        return sync(folder)
    except ConfigError as error:  # the other folders have their turn
        print(error, file=sys.stderr)
        return 2


def sync(folder: Path) -> int:
    """Upload what MLflow lacks of the run or the sweep in `folder` and say what that was."""
    if not (folder / metrics_file.NAME).is_file() and not sweep_uploader.is_sweep(folder):
        raise ConfigError(
            f"{folder} is no run folder: it holds no {metrics_file.NAME}, and no {sweep_uploader.IDENTITY} of a sweep"
        )
    try:
        done = uploader(folder)()
    except UploadFailed as error:
        print(f"{folder}: {error}; what it has is kept, try again later", file=sys.stderr)
        return 1
    brought = f"{done.lines} lines and {done.files} files went to" if done.lines or done.files else "nothing missing in"
    print(f"{folder}: {brought} {done.uri}{'' if done.is_complete else '; it still goes on'}")
    return 0
