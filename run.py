"""Compose a configuration and run it: `python run.py optimizer=adamw schedule=cosine`."""

import math
import os
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from harness.config.errors import HYDRA_ERRORS, ConfigError, RunFailedError, explain_error
from harness.config.locks import check_locked
from harness.config.schema import ROOT
from harness.config.targets import hydra_whitelist


@hydra.main(config_path=str(ROOT / "conf"), config_name="config", execution_whitelist=hydra_whitelist())
def run_job(cfg: DictConfig) -> float:
    from harness.core import distributed
    from harness.run.runner import run

    try:
        check_locked(cfg, HydraConfig.get().overrides.task)
        result = run(cfg, **_sweep_arguments())
    except ConfigError as error:  # an exception would make Hydra print its own message first
        sys.exit(report_error(str(error), 2))
    finally:
        distributed.leave_process_group()
    if HydraConfig.get().mode is RunMode.MULTIRUN:
        if result.status == "interrupted":
            raise KeyboardInterrupt(f"interrupted: {result.reason}")  # Hydra would go on with the next run
        if result.status == "diverged":
            return math.nan
    if result.status not in ("completed", "pruned"):
        raise RunFailedError(f"{result.status}: {result.reason}")
    return result.best_val_loss


def _sweep_arguments() -> dict[str, Any]:
    """Folder and tags of a run that a sweeper of Hydra's has started; nothing for a run of its own."""
    from harness.tracking import run_uploader, sweep_uploader

    job = HydraConfig.get()
    if job.mode is not RunMode.MULTIRUN:
        return {}
    sweep = Path(job.sweep.dir)
    tags = (
        {run_uploader.SWEEP_TAG: sweep_uploader.read_sweep_identity(sweep)["id"]}
        if sweep_uploader.is_sweep_folder(sweep)
        else {}
    )
    return {"folder": Path(job.runtime.output_dir), "tags": tags}


def main() -> int:
    """0; 1 for a run or a sweep that failed, diverged or was interrupted; 2 for bad input, with nothing written."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra raises, and every message is made here
    try:
        run_job()
    except ConfigError as error:
        return report_error(str(error), 2)
    except (*HYDRA_ERRORS, ValueError) as error:
        return report_error(explain_error(error, sys.argv[1:]), 2)
    except (RunFailedError, KeyboardInterrupt) as error:
        return report_error(str(error) or "interrupted before the run began", 1)
    return 0


def report_error(message: str, status: int) -> int:
    if int(os.environ.get("RANK", 0)) == 0:
        print(message, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
