"""The programs whose runs are trials: our own training, any Hydra app, any command."""

from collections.abc import Mapping
from typing import Any

from harness.core.errors import ConfigError
from harness.sweep.study.spec import StudySpec
from harness.sweep.trial_runner import TrialRunner

TRAINING, HYDRA_APP, COMMAND = "training", "hydra_app", "command"
"""Kinds of programs, as a study stores them."""


def make_trial_runner(spec: StudySpec, program: Mapping[str, Any]) -> TrialRunner:
    """Return the runner of a study's program, for a worker process of our own.

    Raises:
        ConfigError: If the program must start its workers itself, or is unknown.
    """
    match spec.program:
        case "training":
            from harness.sweep.programs.training.runner import TrainingRunner  # imports torch

            return TrainingRunner(spec, program)
        case "command":
            from harness.sweep.programs.command.runner import CommandRunner

            return CommandRunner(spec, program)
    raise ConfigError(f"program: {spec.program}: trials of this program cannot be run by a worker of ours")
