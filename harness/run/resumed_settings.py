"""A command that resumes a run takes the run's own choices, unless it overrides them."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.config.alternatives import find_replaced_keys, read_given_settings
from harness.config.compose import compose_config, contains_key, list_file_ranges
from harness.config.errors import HYDRA_ERRORS
from harness.config.overrides import format_value, list_swept_keys, read_override_key
from harness.core.errors import ConfigError
from harness.core.paths import project_dir
from harness.record.run_lookup import find_run
from harness.run.reproduce import SEARCH_PATH_KEY, reproduce_named_overrides

NOT_TAKEN_OVER = ("start", "device", "tracking", "output_dir", "cache_dir")
"""Settings of the machine and of this command, which are not those of the resumed run."""


def take_over_settings(overrides: Sequence[str], is_sweep: bool = False) -> list[str]:
    """Return `overrides` after those that reproduce the run that they resume; unchanged if they resume none.

    What `overrides` set wins: choosing an option leaves out the run's values for its own option. Another experiment
    than that of the run replaces all its choices. A sweep searches the ranges of its file whatever the run had.

    Raises:
        ConfigError: If there is no such run, or its configuration cannot be read.
    """
    try:
        given = read_given_settings(overrides)
        if (
            given.get("start") != "resume"
            or given.get("start.run") in (None, "", "???")
            or "start.run" in list_swept_keys(overrides)
        ):
            return list(overrides)
    except HYDRA_ERRORS:  # Hydra will explain them
        return list(overrides)
    folder = find_run(str(given["start.run"]), _find_output_dir(overrides, given), "start.run")
    if not (folder / "config.yaml").is_file():
        return list(overrides)
    try:
        search_path = [one for one in overrides if read_override_key(one) == SEARCH_PATH_KEY]
        inherited = reproduce_named_overrides(folder, search_path)
    except (ValueError, OSError) as error:
        raise ConfigError(f"start.run: {error}") from error
    own = read_given_settings(inherited)
    if "experiment" in given and given["experiment"] != own.get("experiment"):
        return list(overrides)
    replaced = {*NOT_TAKEN_OVER, *map(read_override_key, overrides), *find_replaced_keys(given)}
    if is_sweep:
        keys = ("experiment", "sweeps", SEARCH_PATH_KEY)
        replaced |= list_file_ranges([one for one in (*inherited, *overrides) if read_override_key(one) in keys])
    kept = [
        one
        for one in inherited
        if not any(contains_key(key, read_override_key(one)) for key in replaced)
        and not one.lstrip("+~").startswith(("observers.", "observers={"))  # they may name a store too
    ]
    return [*kept, *overrides, *_join_unlocked(own.get("unlock"), given.get("unlock"))]


def _find_output_dir(overrides: Sequence[str], given: Mapping[str, Any]) -> Path:
    """Return the output_dir of a command whose other settings need not compose."""
    keys = ("output_dir", "experiment", SEARCH_PATH_KEY)
    decisive = [one for one in overrides if read_override_key(one) in keys]
    if decisive and "output_dir" not in given:
        with suppress(*HYDRA_ERRORS):
            return project_dir() / compose_config(decisive).output_dir
    return project_dir() / str(given.get("output_dir", "outputs"))


def _join_unlocked(inherited: Any, given: Any) -> list[str]:
    """Return an override that unlocks what the run and the command do, if both unlock some keys."""
    if not (isinstance(inherited, list) and isinstance(given, list)):
        return []
    return [f"unlock={format_value(list(dict.fromkeys([*inherited, *given])))}"]
