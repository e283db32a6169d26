"""The private parts of Hydra that this project uses. tests/config/test_hydra_internals.py fails when they change."""

from collections.abc import Sequence
from typing import Any

from hydra._internal.execution_policy import execution_whitelist
from hydra._internal.utils import _run_hydra, get_args_parser
from hydra.types import TaskFunction


def run_hydra_app(
    task: TaskFunction, arguments: Sequence[str], *, config_dir: str, config_name: str, trusted: Sequence[str]
) -> Any:
    """Do what `hydra.main` does, with `arguments` instead of `sys.argv`.

    `plateau run ARGUMENTS` cannot use `hydra.main`, which reads the command line of the process.

    Args:
        task: Called with the composed configuration, once per job.
        trusted: Patterns of the `_target_`s that Hydra may call.
    """
    parser = get_args_parser()
    with execution_whitelist(trusted):
        return _run_hydra(
            args=parser.parse_intermixed_args(list(arguments)),
            args_parser=parser,
            task_function=task,
            config_path=config_dir,
            config_name=config_name,
        )
