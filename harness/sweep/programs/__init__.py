"""The programs whose runs are trials: our own training, any Hydra app, any command."""

from harness.core.errors import ConfigError
from harness.sweep.study.spec import StudySpec
from harness.sweep.trial_runner import TrialRunner


def make_trial_runner(spec: StudySpec) -> TrialRunner:
    """Return the runner of a study's program, for a worker process of our own.

    Raises:
        ConfigError: If the program must start its workers itself, or is unknown.
    """
    match spec.program["kind"]:
        case "training":
            from harness.sweep.programs.training.runner import TrainingRunner  # imports torch

            return TrainingRunner(spec)
        case "command":
            from harness.sweep.programs.command.runner import CommandRunner

            return CommandRunner(spec)
    raise ConfigError(f"program: {spec.program['kind']}: trials of this program cannot be run by a worker of ours")
