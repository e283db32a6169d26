"""What Hydra finds of the sweeper when it starts: its schema and a class that imports nothing heavy."""

from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.hydra_optuna_sweeper.config import OptunaSweeperConf
from omegaconf import DictConfig


@dataclass
class StudySweeperConf(OptunaSweeperConf):
    """The stock sweeper's surface; what `sweep` says in our words is taken from there."""

    _target_: str = "harness.sweep.plugin.StudySweeper"
    n_trials: Any = "${sweep.n_trials}"
    n_jobs: Any = "${sweep.n_jobs}"
    study_name: Any = "${sweep.study}"
    storage: Any = "${sweep.storage}"
    max_failure_rate: Any = None


ConfigStore.instance().store(group="hydra/sweeper", name="harness", node=StudySweeperConf, provider="plateau-harness")


class StudySweeper(Sweeper):
    """`python run.py -m`: one Optuna study, served by workers that never wait for each other."""

    def __init__(self, **options: Any) -> None:
        """Hydra hands the node over; it is read from the configuration, where its interpolations hold."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._hydra_context, self._config = hydra_context, config

    def sweep(self, arguments: list[str]) -> None:
        from harness.sweep.sweeper import run_sweep

        run_sweep(self._config, self._hydra_context, arguments)
