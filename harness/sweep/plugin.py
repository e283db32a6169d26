"""Hydra plugin of the sweeper. Hydra loads it at every start, so heavy imports are deferred."""

import os
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.hydra_optuna_sweeper.config import OptunaSweeperConf
from omegaconf import DictConfig

import harness.config.hydra_internals  # so that Hydra parses ranges such as log(1e-4,1e-1)
import harness.sweep.study.curve_config  # noqa: F401  # so that Hydra finds hydra/sweeper/sampler=curve
from harness.core.signals import interrupt_on_signals
from harness.core.terminal import end_start
from harness.sweep.hydra_app_internals import WORKER_VARIABLE, always_use_sweeper, skip_multirun_callbacks

OWN_TASK_MODULE = "harness.commands.run"  # of the task function of our own app


@dataclass
class StudySweeperConf(OptunaSweeperConf):
    """Schema of hydra-optuna-sweeper with more options. None stands for the default, which docs/sweeping.md lists.

    In our own configuration the `sweep` node has the same options.
    """

    defaults: list[Any] = field(default_factory=lambda: [{"sampler": "curve"}])
    _target_: str = "harness.sweep.plugin.StudySweeper"
    n_trials: Any = None
    runs: Any = None
    n_jobs: Any = None
    devices_per_trial: Any = None
    study_name: Any = None
    max_failure_rate: Any = None
    objectives: Any = None
    pruner: Any = None
    max_seconds: Any = None
    patience: Any = None
    max_failures: Any = None
    keep: Any = None
    max_disk: Any = None
    baseline: Any = None
    enqueue: Any = None
    warm_start: Any = None
    conditional: Any = None
    dry_run: Any = None
    mlflow: Any = None
    mlflow_uri: Any = None
    mlflow_experiment: Any = None


ConfigStore.instance().store(group="hydra/sweeper", name="harness", node=StudySweeperConf, provider="plateau-harness")


class StudySweeper(Sweeper):
    """Sweeper behind `-m hydra/sweeper=harness`: one Optuna study with independent workers."""

    def __init__(self, **options: Any) -> None:
        """Ignore the options: they are read from the whole configuration, where interpolations resolve."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._hydra_context, self._task_function, self._config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> Any:
        from harness.sweep.optuna_internals import silence_optuna

        silence_optuna()
        if getattr(self._task_function, "__module__", "") == OWN_TASK_MODULE:
            from harness.sweep.programs.training.sweep import run_sweep

            interrupt_on_signals()
            end_start()
            return run_sweep(self._config, self._hydra_context, arguments)
        from harness.sweep.programs.hydra_app.sweep import run_app_sweep

        return run_app_sweep(self._config, self._hydra_context, self._task_function, arguments)


always_use_sweeper("harness", StudySweeper)
if WORKER_VARIABLE in os.environ:
    skip_multirun_callbacks()
