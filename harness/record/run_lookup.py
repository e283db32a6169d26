"""Find the folder of a recorded run."""

from contextlib import suppress
from pathlib import Path

from harness.core.digests import read_json
from harness.core.errors import ConfigError


def find_run(source: str, output_dir: Path, key: str) -> Path:
    """Return the path `source`, or the folder of the run with that name or MLflow run id.

    Raises:
        ConfigError: If there is neither; the message names `key`.
    """
    for path in (Path(source).expanduser(), output_dir / source):
        with suppress(OSError):  # the text is too long for a path
            if path.exists():
                return path
    for record in output_dir.glob("*/mlflow.json"):
        if read_mlflow_run_id(record) == source:
            return record.parent
    raise ConfigError(f"{key}: {source!r} is not a file, a folder, or a run in {output_dir}")


def read_mlflow_run_id(record: Path) -> str | None:
    """Return the run id in an mlflow.json, or None if the file is missing or damaged."""
    try:
        return read_json(record).get("run_id")
    except (ValueError, OSError):
        return None
