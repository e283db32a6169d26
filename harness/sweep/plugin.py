"""Hydra plugin of the sweeper. Hydra loads it at every start, so heavy imports are deferred."""

from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.hydra_optuna_sweeper.config import OptunaSweeperConf
from omegaconf import DictConfig

from harness.core.signals import interrupt_on_signals


@dataclass
class StudySweeperConf(OptunaSweeperConf):
    """Schema of hydra-optuna-sweeper, whose numbers are None where the sweeper chooses them."""

    _target_: str = "harness.sweep.plugin.StudySweeper"
    n_trials: Any = None
    n_jobs: Any = None
    study_name: Any = None
    max_failure_rate: Any = None


ConfigStore.instance().store(group="hydra/sweeper", name="harness", node=StudySweeperConf, provider="plateau-harness")


class StudySweeper(Sweeper):
    """Sweeper behind `python run.py -m`: one Optuna study with independent workers."""

    def __init__(self, **options: Any) -> None:
        """Ignore the options: they are read from the whole configuration, where interpolations resolve."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._hydra_context, self._config = hydra_context, config

    def sweep(self, arguments: list[str]) -> None:
        from harness.core.terminal import end_start
        from harness.sweep.optuna_internals import silence_optuna
        from harness.sweep.programs.training.sweep import run_sweep

        interrupt_on_signals()
        silence_optuna()
        end_start()
        run_sweep(self._config, self._hydra_context, arguments)
