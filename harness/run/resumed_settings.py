"""A command that resumes a run takes the run's own choices, unless it overrides them."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.config.alternatives import find_replaced_keys, read_given_settings
from harness.config.compose import compose_config, contains_key, list_choices, list_file_ranges
from harness.config.errors import HYDRA_ERRORS
from harness.config.overrides import format_value, list_swept_keys, read_override_key
from harness.core.errors import ConfigError
from harness.core.paths import project_dir
from harness.record.run_lookup import find_run
from harness.record.trial_record import check_own_run
from harness.run.reproduce import SEARCH_PATH_KEY, reproduce_named_overrides

NOT_TAKEN_OVER = ("start", "device", "tracking", "output_dir", "cache_dir")
"""Settings of the machine and of this command, which are not those of the resumed run."""


def take_over_settings(overrides: Sequence[str], is_sweep: bool = False) -> list[str]:
    """Return `overrides` after those that reproduce the run that they resume; unchanged if they resume none.

    What `overrides` set wins: choosing another option leaves out the run's values for its own. Another experiment than
    that of the run replaces all its choices. A sweep searches its own ranges, and the run's values are its baseline.

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
    check_own_run(folder, "start.run")
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
    same = _find_same_options(inherited, own, given)
    replaced = {*NOT_TAKEN_OVER, *map(read_override_key, overrides), *find_replaced_keys(given)} - same
    kept = [
        one
        for one in inherited
        if (name := read_override_key(one)) not in same
        and not any(contains_key(key, name) for key in replaced)
        and not one.lstrip("+~").startswith(("observers.", "observers={"))  # they may name a store too
    ]
    if is_sweep:
        kept = [one for one in kept if read_override_key(one) != "score_test"]  # no sweep may
        kept = _set_baseline(kept, inherited, overrides, given)
    return [*kept, *overrides, *_join_unlocked(own.get("unlock"), given.get("unlock"))]


def _find_same_options(inherited: Sequence[str], own: Mapping[str, Any], given: Mapping[str, Any]) -> set[str]:
    """Return the groups for which the command chooses the option that the run has."""
    groups = {key for key in given if any(name.startswith(f"{key}.") for name in own)} - {*NOT_TAKEN_OVER}
    # a run whose own files are absent here is reproduced by setting the `_target_` of another option
    chosen = {key: given[key] for key in groups if f"{key}._target_" not in own}
    choices = list_choices(inherited) if chosen else {}
    return {key for key, option in chosen.items() if choices.get(key) == option}


def _set_baseline(
    kept: Sequence[str], inherited: Sequence[str], overrides: Sequence[str], given: Mapping[str, Any]
) -> list[str]:
    """Return the overrides that a sweep inherits, with values of keys that its file searches as its baseline.

    Options that its file searches are fixed, since the moments of one optimizer do not fit another.
    """
    keys = ("experiment", "sweeps", SEARCH_PATH_KEY)
    decisive = [one for one in (*kept, *overrides) if read_override_key(one) in keys]
    ranges, choices = list_file_ranges(decisive), list_choices(inherited)
    options = [key for key in sorted(ranges & choices.keys()) if key not in given]
    baseline = [
        one
        for one in kept
        if not one.startswith("~")
        and (name := read_override_key(one)) not in choices
        and ranges & {name, *find_replaced_keys({name: ""})}
    ]
    fixed = [one for one in kept if one not in baseline and not (one.startswith("~") and one[1:] in ranges)]
    fixed += [f"{key}={choices[key]}" for key in options if key not in map(read_override_key, fixed)]
    has_own = "sweep.baseline_values" in given or not baseline
    return [*fixed, *([] if has_own else [f"sweep.baseline_values={format_value(baseline)}"])]


def count_from_checkpoint(overrides: Sequence[str]) -> list[str]:
    """Return `overrides` that count the steps of a resumed run from its checkpoint, unless they say otherwise.

    For commands that set the length themselves, so that a run that has taken all its steps can be resumed.
    """
    start, key = compose_config(overrides).start, "start.restart_schedule"
    is_set = start.kind != "resume" or start.get("restart_schedule", False) or key in read_given_settings(overrides)
    return [*overrides, *([] if is_set else [f"{key}=true"])]


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
