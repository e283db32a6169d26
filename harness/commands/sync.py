"""python -m harness sync FOLDER: what MLflow lacks of runs and sweeps is uploaded."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.config.errors import ConfigError
from harness.record import metrics_file
from harness.tracking import sweep_uploader
from harness.tracking.mlflow_client import UploadError
from harness.tracking.upload_process import make_uploader


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m harness sync", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="of a run or a sweep")
    return max(_sync_with_exit_status(folder) for folder in parser.parse_args(arguments).folders)


def _sync_with_exit_status(folder: Path) -> int:
    try:
        return sync_folder(folder)
    except ConfigError as error:  # the other folders have their turn
        print(error, file=sys.stderr)
        return 2


def sync_folder(folder: Path) -> int:
    """Upload what MLflow lacks of the run or the sweep in `folder` and say what that was."""
    if not (folder / metrics_file.METRICS_FILE).is_file() and not sweep_uploader.is_sweep_folder(folder):
        raise ConfigError(
            f"{folder} is no run folder: it holds no {metrics_file.METRICS_FILE}, and no {sweep_uploader.SWEEP_FILE} of a sweep"
        )
    try:
        done = make_uploader(folder)()
    except UploadError as error:
        print(f"{folder}: {error}; what it has is kept, try again later", file=sys.stderr)
        return 1
    brought = f"{done.lines} lines and {done.files} files went to" if done.lines or done.files else "nothing missing in"
    print(f"{folder}: {brought} {done.uri}{'' if done.is_complete else '; it still goes on'}")
    return 0
