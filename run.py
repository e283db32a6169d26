"""Compose a configuration and run it: `python run.py optimizer=adamw schedule=cosine`."""

import os
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from harness.config import ROOT, check_locked
from harness.explain import ConfigError, explain
from harness.targets import whitelist


class RunEnded(Exception):
    """A run ended otherwise than completed or pruned; the message is its status and reason."""


@hydra.main(config_path=str(ROOT / "conf"), config_name="config", execution_whitelist=whitelist())
def launch(cfg: DictConfig) -> float:
    from harness import processes
    from harness.runner import run

    try:
        check_locked(cfg, HydraConfig.get().overrides.task)
        result = run(cfg)
    except ConfigError as error:  # an exception would make Hydra print its own message first
        sys.exit(refuse(str(error), 2))
    finally:
        processes.leave()
    if result.status not in ("completed", "pruned"):
        raise RunEnded(f"{result.status}: {result.reason}")
    return result.best_val_loss


def main() -> int:
    """0; 1 for a run that failed, diverged or was interrupted; 2 for bad input, with nothing written."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra raises, and every message is made here
    try:
        launch()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        return refuse(explain(error, sys.argv[1:]), 2)
    except (RunEnded, KeyboardInterrupt) as error:
        return refuse(str(error) or "interrupted before the run began", 1)
    return 0


def refuse(message: str, status: int) -> int:
    if int(os.environ.get("RANK", 0)) == 0:
        print(message, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
