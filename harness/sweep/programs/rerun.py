"""Prepare the program of a sweep to be run again, whichever it is."""

from harness.core.errors import ConfigError
from harness.sweep.program_file import RecordedProgram
from harness.sweep.rerun import Rerun, RerunOptions
from harness.sweep.swept_study import SweptStudy


def prepare_rerun(study: SweptStudy, options: RerunOptions) -> Rerun:
    """Return what runs the program of a sweep again, with other seeds.

    Raises:
        ConfigError: If it cannot be run again, or an option does not suit it.
    """
    match study.spec.program:
        case "training":
            from harness.sweep.programs.training.rerun import prepare_training_rerun  # imports torch

            return prepare_training_rerun(study, options)
        case "hydra_app":
            from harness.sweep.programs.hydra_app.rerun import prepare_app_rerun

            return prepare_app_rerun(study, options)
        case "command":
            from harness.sweep.programs.command.rerun import prepare_command_rerun

            return prepare_command_rerun(study, options)
    raise ConfigError(f"program: {study.spec.program}: cannot be run again with other seeds")


def find_rerun_options(kind: str, program: RecordedProgram) -> str | None:
    """Return the options that `plateau confirm` and `ablate` need for a recorded program; None if it cannot start."""
    settings = program.settings
    if kind == "command":
        from harness.sweep.programs.command.command_line import ProgramCommandLine
        from harness.sweep.programs.command.template import CommandTemplate

        return ProgramCommandLine(CommandTemplate.from_json(settings["template"]), {}).confirm_options
    if kind == "hydra_app":
        options: str | None = settings["command_line"]["confirm_options"]
        return options
    return ""
