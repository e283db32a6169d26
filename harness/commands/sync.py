"""plateau sync RUN: upload what MLflow lacks of runs and sweeps."""

import sys
from collections.abc import Sequence
from pathlib import Path

from harness.commands.arguments import RUN_HELP, CommandParser, add_output_dir
from harness.core.errors import ConfigError, DamageError
from harness.record.metrics_file import METRICS_FILE, find_record
from harness.record.run_lookup import find_run
from harness.tracking import sweep_uploader
from harness.tracking.mlflow_client import UploadError
from harness.tracking.store_uri import adopt_configured_store
from harness.tracking.upload_process import make_uploader


def main(arguments: Sequence[str]) -> int:
    parser = CommandParser(prog="plateau sync", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help=f"{RUN_HELP}; or a study's folder or name")
    add_output_dir(parser)
    args = parser.parse_args(arguments)
    adopt_configured_store()
    return max(_sync_run(run, args.output_dir) for run in args.runs)


def _sync_run(run: str, output_dir: Path) -> int:
    try:
        return sync_folder(find_run(run, output_dir, "RUN", takes_studies=True))
    except ConfigError as error:  # the others are uploaded all the same
        print(error, file=sys.stderr)
        return 2


def sync_folder(folder: Path) -> int:
    """Upload what MLflow lacks of the run or sweep in `folder` and return the exit status.

    0 if MLflow has everything so far, 1 if the upload failed, 2 if the folder holds neither a run nor a sweep, is
    damaged or names a store that is not the user's.
    """
    if not find_record(folder).is_file() and not sweep_uploader.is_sweep_folder(folder):
        missing = f"(no {METRICS_FILE}) nor a sweep (no {sweep_uploader.SWEEP_FILE})"
        print(f"{folder}: neither a run {missing}", file=sys.stderr)
        return 2
    try:
        result = make_uploader(folder)()
    except UploadError as error:
        print(f"{folder}: {error}; try again later", file=sys.stderr)
        return 1
    except (DamageError, ConfigError) as error:
        print(f"{folder}: {error}", file=sys.stderr)
        return 2
    has_news = result.lines or result.files
    uploaded = f"uploaded {result.lines} lines and {result.files} files to" if has_news else "nothing to upload to"
    print(f"{folder}: {uploaded} {result.uri}{'' if result.is_complete else ' (still running)'}")
    return 0
