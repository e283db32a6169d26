"""The program of a sweep, prepared to run configurations of it again with other seeds."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.core.errors import ConfigError
from harness.sweep.request import WorkerPlan
from harness.sweep.trial_runner import CommandLine


@dataclass(frozen=True)
class RerunOptions:
    """Options of a user for running a swept program again.

    `seed_flag` is how the program takes its seed: a key, or an option or variable of a command. `test_metric` is the
    name under which a program of another kind than ours gives its result on the test split.
    """

    seed_flag: str | None = None
    test_metric: str | None = None
    n_jobs: int | None = None
    devices_per_trial: int | None = None


@dataclass(frozen=True)
class Rerun:
    """The program of a sweep, prepared to run configurations of it again with other seeds.

    `program` is what its runner needs, `seed_key` the key of the seed among the values of a trial, and `seed` that
    which the trials of the sweep had, if it is known. `test_metric` is the name of the objective on the test split,
    None if there is none; it comes after the objectives of the sweep.
    """

    program: Mapping[str, Any]
    workers: WorkerPlan
    seed_key: str
    seed: int | None
    test_metric: str | None
    command_line: CommandLine
    notices: tuple[str, ...] = ()


def check_test_metric(test_metric: str | None, optimized: Iterable[str | None]) -> None:
    """Check that the result on test data is not a metric that the sweep has optimized.

    Raises:
        ConfigError: If it is.
    """
    if test_metric is not None and test_metric in optimized:
        raise ConfigError(f"--test-metric: {test_metric}: is what the sweep has optimized; name a result on other data")
