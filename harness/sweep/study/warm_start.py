"""Find what a warm start begins with, an earlier study or a range test, and read the points for the first trials."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.storages import BaseStorage
from optuna.study import Study

from harness.core.credentials import hide_credentials
from harness.core.errors import ConfigError
from harness.record.lr_range_file import RANGE_TEST_FILE, read_range_test
from harness.record.run_lookup import default_output_dir, find_run, is_study_folder
from harness.record.sweep_files import JOURNAL_FILE, name_study_folder
from harness.sweep.optuna_internals import silence_optuna
from harness.sweep.program_file import read_program
from harness.sweep.request import SweepRequest
from harness.sweep.space.search_space import baseline_values
from harness.sweep.study.distinct_sampler import Identity, identify_point
from harness.sweep.study.prior import PriorPoint, choose_points, draw_band_points
from harness.sweep.study.recorded_study import open_recorded_study
from harness.sweep.study.storage import STORAGE_ERRORS, open_storage
from harness.sweep.study.trial_attrs import SEED_RUN

LR_RANGE = "lr_range"
"""Stands for the range test of the current configuration."""
FIRST_PROPOSALS = 8  # half of which a prior may set, where the sampler does not say how many it draws at random
KEY = "sweep.warm_start"


@dataclass(frozen=True)
class Prior:
    """Points for the first trials of a study, the best first, and the study or the file they come from."""

    source: str
    points: Sequence[PriorPoint]

    def describe(self, numbers: Sequence[int], searched: set[str]) -> str:
        """Return what the trials with these numbers begin with, and what is left to the sampler."""
        keys = list(dict.fromkeys(key for point in self.points for key in point.values))
        trials = [str(point.origin["trial"]) for point in self.points if "trial" in point.origin]
        which = f"the best trials of {self.source} ({', '.join(trials)})" if trials else f"the band of {self.source}"
        others = sorted(searched - set(keys))
        rest = f"; the sampler proposes {', '.join(others)}" if others else ""
        listed = ", ".join(map(str, numbers))
        return f"warm start: trial{'s' * (len(numbers) > 1)} {listed} take {', '.join(keys)} from {which}{rest}"


def read_prior(request: SweepRequest) -> Prior:
    """Return the points that `sweep.warm_start` gives a new study.

    Raises:
        ConfigError: If there are none: the source does not exist, has nothing of use, or no trial may take it.
    """
    given = str(request.options.warm_start)
    if request.spec.is_grid:
        raise ConfigError(f"{KEY}: {hide_credentials(given)}: a grid runs its own points only; leave it out")
    count = _count_prior_trials(request)
    if file := _find_range_file(request, given):
        return _read_band_prior(request, file, count)
    earlier, source = _find_earlier_study(request, given)
    if any(SEED_RUN in trial.user_attrs for trial in earlier.get_trials(deepcopy=False)):
        raise ConfigError(
            f"{KEY}: {source}: runs of configurations over seeds, not a sweep; name the sweep they are of"
        )
    try:
        points = choose_points(request.space, earlier, count, _list_known_points(request))
    except ConfigError as error:
        raise ConfigError(f"{KEY}: {source}: {error}; leave it out, or name another study") from error
    return Prior(source, points)


def _count_prior_trials(request: SweepRequest) -> int:
    """Return half of the trials that the sampler draws at random, or that are left by the number of trials."""
    n_random = request.spec.sampler.get("n_startup_trials")
    first = n_random if isinstance(n_random, int) and n_random > 1 else FIRST_PROPOSALS
    n_before = request.has_baseline + len(request.options.enqueue)
    count = min(first, request.budget.n_trials - n_before) // 2
    if count < 1:
        raise ConfigError(
            f"{KEY}: it sets half of the first proposals, and {request.budget.n_trials} trials leave no two of them; "
            f"raise sweep.n_trials to {n_before + 2} or more, or leave it out"
        )
    return count


def _list_known_points(request: SweepRequest) -> set[Identity]:
    """Return the points that a new study runs first: the current configuration and those of `sweep.enqueue`."""
    points = [request.space.to_trial_params(point) for point in request.options.enqueue]
    values, out_of_range = baseline_values(request.space, request.current_values)
    if request.has_baseline and not out_of_range:
        points.append(request.space.to_trial_params(values))
    return {identify_point(params) for params in points}


def _find_range_file(request: SweepRequest, given: str) -> Path | None:
    """Return the file of a range test, None if a study is meant.

    Raises:
        ConfigError: If there is no range test of the current configuration.
    """
    if given == LR_RANGE:
        if request.range_test is None:
            raise ConfigError(
                f"{KEY}: {LR_RANGE}: there is no range test of this configuration; run `plateau lr-range` with the "
                f"same overrides, or give the path of its {RANGE_TEST_FILE}"
            )
        return request.range_test
    with suppress(OSError, ValueError, RuntimeError):  # too long, a null character, no such user
        path = Path(given).expanduser()
        file = path if path.name == RANGE_TEST_FILE else path / RANGE_TEST_FILE
        return file if file.is_file() else None
    return None


def _read_band_prior(request: SweepRequest, file: Path, count: int) -> Prior:
    try:
        test = read_range_test(file)
    except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{KEY}: {file}: cannot be read ({error}); run `plateau lr-range` again") from error
    if test.band is None:
        raise ConfigError(f"{KEY}: {file}: the range test has no band: {test.reason}; leave it out")
    spec = request.spec
    try:
        points = draw_band_points(request.space, test.band.low, test.band.high, count, spec.seed, spec.digits)
    except ConfigError as error:
        raise ConfigError(f"{KEY}: {file}: {error}; leave it out, or change the range") from error
    return Prior(str(file), points)


def _find_earlier_study(request: SweepRequest, given: str) -> tuple[Study, str]:
    """Return the study that a user calls `given`, and its name.

    It is a study in the database of the new one, by name; the only study of a database, by URL; or the folder of a
    sweep, by name or path.
    """
    silence_optuna()
    storage = request.options.storage
    if storage is not None and (found := _load_named_study(request, storage, given)):
        return found, given
    if "://" in given:
        return _load_only_study(request, given)
    path = Path(given)
    path = path.parent if path.name == JOURNAL_FILE and path.is_file() else path
    beside = request.folder.with_name(name_study_folder(given))
    if is_study_folder(path):
        folder = path
    elif is_study_folder(beside):
        folder = beside
    else:
        folder = find_run(given, default_output_dir(), KEY, takes_studies=True)
    if not is_study_folder(folder):
        raise ConfigError(f"{KEY}: {given}: not a sweep; name a study, as `plateau list` shows them")
    program = read_program(folder)
    url = program.storage
    if storage is not None and hide_credentials(storage) == url:  # which is recorded without its password
        url = storage
    return open_recorded_study(folder, program.study, url, key=KEY, storage_option="sweep.storage=URL"), program.study


def _load_named_study(request: SweepRequest, url: str, name: str) -> Study | None:
    storage = _open_database(request, url)
    return optuna.load_study(study_name=name, storage=storage) if name in optuna.get_all_study_names(storage) else None


def _load_only_study(request: SweepRequest, url: str) -> tuple[Study, str]:
    storage, public = _open_database(request, url), hide_credentials(url)
    names = optuna.get_all_study_names(storage)
    if len(names) != 1:
        problem = f"has {len(names)} studies ({', '.join(names)})" if names else "has no study"
        raise ConfigError(f"{KEY}: {public}: {problem}; set sweep.storage={public} and {KEY}=NAME")
    return optuna.load_study(study_name=names[0], storage=storage), names[0]


def _open_database(request: SweepRequest, url: str) -> BaseStorage:
    try:
        return open_storage(url, request.folder)
    except STORAGE_ERRORS as error:
        raise ConfigError(f"{KEY}: {hide_credentials(url)} cannot be read ({error})") from error
