"""Find the folder of a recorded run or study by what a user calls it.

A run is called by its folder, its name, its MLflow run id, or a prefix of these that no other run has; the newest run
is `last`. Several runs may have one name: it stands for the newest of them. Trials are `STUDY/3` and `STUDY/best`.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from functools import cache, cached_property
from pathlib import Path

from harness.core.digests import read_json
from harness.core.errors import ConfigError
from harness.core.paths import project_dir
from harness.core.terminal import announce
from harness.record.metrics_file import METRICS_FILE, TRIAL_FILE
from harness.record.sweep_files import JOURNAL_FILE, STUDIES_FOLDER, SUMMARY_FILE, SWEEP_FILE, name_study_folder

LAST, BEST = "last", "best"
DATE_PATTERN = r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d"
DATE = re.compile(rf"({DATE_PATTERN})_(?=.)")
"""Beginning of the name of a run's folder, in local time."""
DATE_FORMAT = "%Y-%m-%d_%H-%M-%S"
MLFLOW_ID_PREFIX = r"[0-9a-f]{4,32}"
STUDY_FILES = (SWEEP_FILE, JOURNAL_FILE)
OUTPUT_DIR, MULTIRUN_FOLDER = "outputs", "multirun"
"""Folders of our runs and of commands' studies, and of the sweeps of Hydra apps, unless they choose another one."""
MAX_LISTED = 10  # candidates in a message


class RunNotFoundError(ConfigError):
    """No run has this name, and no other run's name begins with it."""


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run in output_dir, or of a study in its folder `sweeps`."""

    path: Path

    @cached_property
    def date(self) -> str:
        """When it was created, in DATE_FORMAT."""
        dated = DATE.match(self.path.name)
        return dated[1] if dated else f"{datetime.fromtimestamp(self._changed_at):{DATE_FORMAT}}"

    @cached_property
    def name(self) -> str:
        """The folder's name without its date, and without the number of a second run in that second."""
        name = DATE.sub("", self.path.name, count=1)
        unnumbered = re.sub(r"_\d+$", "", name)
        has_first = name != unnumbered and self.path.with_name(self.path.name[: len(unnumbered) - len(name)]).exists()
        return unnumbered if has_first else name

    @property
    def age_key(self) -> tuple[str, float]:
        return self.date, self._changed_at

    @cached_property
    def _changed_at(self) -> float:
        for name in (
            "config.yaml",
            "sweep.yaml",
            JOURNAL_FILE,
            METRICS_FILE,
            TRIAL_FILE,
            "",
        ):  # the first is written once
            with suppress(OSError):
                return (self.path / name).stat().st_mtime
        return 0.0


def list_runs(output_dir: Path) -> list[RunFolder]:
    """Return the runs in a folder, newest first, damaged ones included."""
    return _list_folders(output_dir, (METRICS_FILE, TRIAL_FILE, "config.yaml"))


def list_studies(output_dir: Path) -> list[RunFolder]:
    """Return the studies of `output_dir`, newest first, damaged ones included."""
    found = [study for parent in _list_study_parents(output_dir) for study in _list_folders(parent, STUDY_FILES)]
    distinct = {study.path.resolve(): study for study in found}
    return sorted(distinct.values(), key=lambda study: study.age_key, reverse=True)


def _list_study_parents(output_dir: Path) -> list[Path]:
    """Return the folders in which studies are looked for.

    With the default output_dir, those are also the folders in which sweeps of other programs write here.
    """
    parents = [output_dir / STUDIES_FOLDER, output_dir]
    if output_dir == default_output_dir():
        parents += [Path(OUTPUT_DIR, STUDIES_FOLDER).absolute(), Path(MULTIRUN_FOLDER).absolute()]
    return parents


def find_run(
    source: str, output_dir: Path, key: str, *, takes_studies: bool = False, takes_prefixes: bool = True
) -> Path:
    """Return the path `source`, or the folder of the run that is called so.

    If several runs have exactly this name, the newest is returned, and a line on standard error says so.

    Args:
        source: A path, which need not be one of a run; or one of the names of a run in `output_dir`.
        key: Begins the messages of errors.
        takes_studies: Whether `source` may also name a study.
        takes_prefixes: Whether the beginning of a name is enough if no other run's name begins so.

    Raises:
        RunNotFoundError: If there is none.
        ConfigError: If the names of several runs begin so, or it is a study.
    """
    if source == LAST:
        return _find_last(output_dir, key)
    found = [path] if (path := _find_path(source, (Path(), output_dir))) else []
    name = source if found else _read_mlflow_name(source)
    found = found or _find_trial(name, output_dir, key, takes_prefixes)
    found = found or _find_named(name, output_dir, takes_studies, takes_prefixes)
    found = list({path.resolve(): path for path in reversed(found)}.values())[::-1]  # links may lead to the same run
    if not found:
        hint = _describe_nearest(source, output_dir)
        raise RunNotFoundError(f"{key}: {source!r} is not a file, a folder, or a run in {output_dir}{hint}")
    exact = _without_folder(name, output_dir)
    if len(found) > 1 and not any(RunFolder(path).name != exact or is_study_folder(path) for path in found):
        newest = max(found, key=lambda path: RunFolder(path).age_key)
        _announce_newest(newest, len(found), exact, key)
        found = [newest]
    if len(found) > 1:
        names = _format_lines(found, output_dir)
        raise ConfigError(f"{key}: {source!r} stands for {len(found)} runs; name one of them:{names}")
    if not takes_studies and is_study_folder(found[0]):
        study = found[0].name
        raise ConfigError(f"{key}: {source!r} is a study; name one of its trials: {study}/{BEST} or {study}/3")
    return found[0]


def read_mlflow_run_id(record: Path) -> str | None:
    """Return the run id in an mlflow.json, or None if the file is missing or damaged."""
    try:
        run_id = read_json(record).get("run_id")
    except (ValueError, OSError):
        return None
    return run_id if isinstance(run_id, str) else None


def describe_study_name(folder: Path) -> str:
    """Return what `find_run` finds a study by from the current folder: the name of its folder, or else a path."""
    with suppress(ConfigError):
        found = find_run(folder.name, default_output_dir(), "STUDY", takes_studies=True, takes_prefixes=False)
        if found.resolve() == folder.resolve():
            return folder.name
    return min(os.path.relpath(folder), str(folder), key=len)


def read_best_trials(study: Path) -> list[str]:
    """Return the folder names of a study's best trial, or of all on its Pareto front; empty if it has none yet.

    Raises:
        DamageError: If its summary is damaged.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        tags = read_json(study / SUMMARY_FILE).get("tags", {})
        if "best_trials" in tags:
            return [Path(name).name for name in str(tags["best_trials"]).split(",")]
        best = tags.get("best_folder") or tags.get("best_trial")
        return [Path(str(best)).name] if best else []
    return []


def is_study_folder(path: Path) -> bool:
    """Return whether `path` is the folder of a sweep."""
    return any((path / name).is_file() for name in STUDY_FILES)


def default_output_dir() -> Path:
    """Return the folder in which runs are looked up by default."""
    return project_dir() / OUTPUT_DIR


@cache  # a process looks a name up several times
def _announce_newest(newest: Path, n_runs: int, name: str, key: str) -> None:
    announce(f"{key}: {name!r} is the newest of {n_runs} runs with this name, {newest.name}; name others by folder")


def _list_folders(parent: Path, files: Sequence[str]) -> list[RunFolder]:
    """Return the folders in `parent` with at least one of `files`, newest first."""
    try:
        folders = [RunFolder(path) for path in parent.iterdir() if any((path / name).exists() for name in files)]
    except OSError:
        return []
    return sorted(folders, key=lambda folder: folder.age_key, reverse=True)


def _read_mlflow_name(source: str) -> str:
    """Return what the name of a run in MLflow stands for here, such as "mine 2026-11-29_10-45-12"; else `source`."""
    if dated := re.fullmatch(rf"(\S+) ({DATE_PATTERN})( #\w+)?", source):
        return f"{dated[2]}_{dated[1]}"
    trial = re.match(r"(.+?/\d+)(?: |$)", source)  # the name of a study may have spaces, and values slashes
    return trial[1] if trial else source


def _find_path(source: str, parents: Iterable[Path], files: Sequence[str] = ("",)) -> Path | None:
    """Return the first existing path `source` in one of `parents`, of a folder that has one of `files` if given."""
    for parent in parents if source else ():  # Path("") is the current folder
        with suppress(OSError, ValueError, RuntimeError):  # too long, a null character, no such user
            path = parent / Path(source).expanduser()
            if any((path / name).exists() for name in files):
                return path
    return None


def _find_last(output_dir: Path, key: str) -> Path:
    runs = list_runs(output_dir)
    if not runs:
        trials = f"; trials are STUDY/{BEST} or STUDY/3" if list_studies(output_dir) else ""
        raise RunNotFoundError(f"{key}: {LAST!r}: there is no run in {output_dir} yet{trials}")
    return runs[0].path


def _find_trial(source: str, output_dir: Path, key: str, takes_prefixes: bool) -> list[Path]:
    """Return the folder of the trial STUDY/best or STUDY/3, where STUDY is a study's name or folder.

    Raises:
        ConfigError: If the study has no such trial, or several best ones.
    """
    name, _, number = source.rstrip("/").rpartition("/")
    if not name or not (number == BEST or number.isdecimal()):
        return []
    parents = _list_study_parents(output_dir)
    path = _find_path(name, (Path(), *parents), STUDY_FILES) or _find_path(name, (Path(), *parents))
    path = path or _find_path(name_study_folder(name), parents)
    studies = [path] if path else []
    if takes_prefixes and not studies:
        start = name_study_folder(name)
        studies = [study.path for study in list_studies(output_dir) if study.path.name.startswith(start)]
    if len(studies) != 1 or not is_study_folder(studies[0]):
        return [study / number for study in studies if len(studies) > 1]
    [study] = studies
    if number != BEST:
        if (study / number).is_dir():
            return [study / number]
        numbers = sorted(int(path.name) for path in study.iterdir() if path.name.isdecimal())
        known = f"it has {numbers[0]} to {numbers[-1]}" if numbers else "it has none yet"
        raise RunNotFoundError(f"{key}: {source!r}: {study} has no folder of trial {number}; {known}")
    try:
        best = read_best_trials(study)
    except ValueError as error:
        raise ConfigError(f"{key}: {source!r}: {error}; name a trial by its number, such as {study.name}/3") from error
    if len(best) > 1:
        names = " or ".join(f"{study.name}/{trial}" for trial in best)
        raise ConfigError(f"{key}: {source!r}: the study has several objectives and no single best trial; use {names}")
    if not best or not (study / best[0]).is_dir():
        raise RunNotFoundError(f"{key}: {source!r}: no trial in {study} has completed yet; name one by its number")
    return [study / best[0]]


def _find_named(source: str, output_dir: Path, takes_studies: bool, takes_prefixes: bool) -> list[Path]:
    """Return the folders that are called `source`, newest first; if there are none, those whose names begin so."""
    source = _without_folder(source, output_dir)
    if not source:
        return []
    runs, studies = list_runs(output_dir), list_studies(output_dir)
    exact = [run.path for run in runs if run.name == source]
    if takes_studies or not exact:
        exact += [study.path for study in studies if study.path.name == name_study_folder(source)]
    if exact or "/" in source:
        return exact
    ids = dict(_iter_mlflow_ids(output_dir, runs)) if re.fullmatch(MLFLOW_ID_PREFIX, source) else {}
    if exact := [folder for folder, run_id in ids.items() if run_id == source]:
        return exact
    if not takes_prefixes:
        return []
    named = [*runs, *(studies if takes_studies else [])]
    found = [run.path for run in named if run.path.name.startswith(source) or run.name.startswith(source)]
    return list(dict.fromkeys([*found, *(folder for folder, run_id in ids.items() if run_id.startswith(source))]))


def _without_folder(source: str, output_dir: Path) -> str:
    """Return `source` relative to `output_dir` if it is a path in there, such as outputs/mine."""
    with suppress(OSError, ValueError, RuntimeError):
        path = Path(source).expanduser().resolve()
        return str(path.relative_to(output_dir.resolve())) if "/" in source else source
    return source


def _iter_mlflow_ids(output_dir: Path, runs: Iterable[RunFolder]) -> Iterator[tuple[Path, str]]:
    """Yield the folders of runs and trials with their MLflow run ids, as far as they were uploaded."""
    studies = (study.path for study in list_studies(output_dir))
    trials = [record for study in studies for record in sorted(study.glob("*/mlflow.json"), reverse=True)]
    for folder in (*(run.path for run in runs), *(record.parent for record in trials)):
        if run_id := read_mlflow_run_id(folder / "mlflow.json"):
            yield folder, run_id


def _format_lines(folders: Sequence[Path], output_dir: Path) -> str:
    """Return what to type for each folder, in lines of their own."""
    parents = _list_study_parents(output_dir)
    names = [_name_within(path, parents) for path in folders]
    more = [f"… {len(names) - MAX_LISTED} more; `plateau list` shows them"] if len(names) > MAX_LISTED else []
    return "".join(f"\n  {line}" for line in [*names[:MAX_LISTED], *more])


def _name_within(path: Path, parents: Iterable[Path]) -> str:
    """Return the path relative to the first parent that it lies in."""
    return next((str(path.relative_to(parent)) for parent in parents if path.is_relative_to(parent)), str(path))


def _describe_nearest(source: str, output_dir: Path) -> str:
    """Return the names that are most like `source`, and the command that lists all."""
    runs, studies = list_runs(output_dir), list_studies(output_dir)
    if not runs and not studies:
        return ", which has no runs yet"
    _, slash, number = source.rpartition("/")
    trial = f"{slash}{number}" if number == BEST or number.isdecimal() else ""
    names = [*(run.name for run in runs), *(run.path.name for run in runs)]
    names += [f"{study.path.name}{trial}" for study in studies]
    near = " or ".join(map(repr, get_close_matches(source, dict.fromkeys(names), n=3)))
    return f"; did you mean {near}? `plateau list` shows all" if near else "; see `plateau list`"
