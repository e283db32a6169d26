"""Make the paths in a configuration absolute, so that what is recorded of a run works from any folder."""

import glob
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from harness.config.compose import contains_key
from harness.config.overrides import format_value
from harness.core.paths import project_dir
from harness.record.run_lookup import RunNotFoundError, find_run
from harness.tracking.store_uri import resolve_store_uri

PATH_NAMES = ("path", "paths", "file", "files", "folder", "dir", "train", "test", "tests", "validation")
"""Parts of the keys of files and folders in the sections below."""
NAMED_PATHS = ("model.name", "tokenizer.name")
"""Keys of a Hub name or of a folder."""
PATH_SECTIONS = ("data", "model", "tokenizer", "task", "lora", "optimizer", "schedule")
SHIPPED = ("harness.", "torch.")
"""Beginnings of the `_target_` of components of which every key with a path has one of these names."""
PROJECT_FOLDERS = ("output_dir", "cache_dir")
"""Folders that are relative to the project, wherever a command is started."""
RUN_KEYS = ("start.run", "start.source")
STORE_KEY = "tracking.uri"


def make_paths_absolute(cfg: DictConfig) -> tuple[DictConfig, dict[str, Any]]:
    """Return `cfg` with absolute paths in the place of relative ones and of names of runs, and these values by key.

    What names no file is kept, since it may be a name on the Hub.

    Raises:
        ConfigError: If the name of a run stands for several.
    """
    plain = OmegaConf.to_container(cfg, resolve=False)
    output_dir = project_dir() / str(_get_value(plain, "output_dir"))
    paths = _iter_paths(plain)
    changed = {key: new for key, value in paths if (new := _make_absolute(key, value, output_dir)) != value}
    if not changed:
        return cfg, {}
    cfg = deepcopy(cfg)
    with open_dict(cfg):
        for key, value in changed.items():
            OmegaConf.update(cfg, key, value)
    return cfg, changed


def make_overrides_absolute(overrides: Sequence[str], cfg: DictConfig, changed: Mapping[str, Any]) -> list[str]:
    """Return overrides that compose to the values that `make_paths_absolute` has `changed` in `cfg`.

    Relative paths of the user's configuration files become overrides, unless an experiment locks them.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    absolute = [_rewrite_override(line, override, changed) for line, override in zip(overrides, parsed, strict=True)]
    given = [override.key_or_group for override in parsed]
    locked = cfg.get("locked") or []
    added = [
        f"{key}={_format_plainly(value)}"
        for key, value in changed.items()
        if key not in (*given, *PROJECT_FOLDERS) and not any(contains_key(str(lock), key) for lock in locked)
    ]
    return [*absolute, *added]


def _iter_paths(plain: Any) -> Iterator[tuple[str, Any]]:
    """Yield the key and the value of each path in a configuration."""
    yield from ((key, _get_value(plain, key)) for key in (*PROJECT_FOLDERS, *RUN_KEYS, STORE_KEY))
    has_named_splits = _get_value(plain, "data.source.split") is not None  # of a data set, where files have none
    for section in PATH_SECTIONS:
        for key, value in _iter_leaves(_get_value(plain, section), section):
            if not (has_named_splits and key in ("data.validation", "data.test")):
                yield key, value


def _get_value(plain: Any, key: str) -> Any:
    """Return the value at a dotted key of nested dicts, None if there is none."""
    for name in key.split("."):
        plain = plain.get(name) if isinstance(plain, dict) else None
    return plain


def _iter_leaves(plain: Any, key: str, is_shipped: bool = True) -> Iterator[tuple[str, Any]]:
    """Yield the key and the value of each path below `key`; `is_shipped` says whether its keys are ours."""
    if isinstance(plain, dict):
        target = plain.get("_target_")
        is_shipped = target.startswith(SHIPPED) if isinstance(target, str) else is_shipped
        for name, child in plain.items():
            yield from _iter_leaves(child, f"{key}.{name}", is_shipped)
    elif isinstance(plain, str | list) and (is_path_key(key) or (not is_shipped and _looks_like_path(key, plain))):
        yield key, plain


def _looks_like_path(key: str, value: Any) -> bool:
    """Return whether a value of a user's own component is written like a path: with a folder or a file extension."""
    if isinstance(value, list):
        return bool(value) and all(_looks_like_path(key, one) for one in value)
    is_text = isinstance(value, str) and not key.rpartition(".")[2].startswith("_")
    return is_text and ("/" in value or Path(value).suffix != "")


def is_path_key(key: str) -> bool:
    """Return whether the setting with this dotted key is a file or a folder, or a list or dict of them."""
    section, *names = key.split(".")
    is_path = section in PATH_SECTIONS and not {*names}.isdisjoint(PATH_NAMES) and not names[-1].startswith("_")
    return is_path or key in NAMED_PATHS


def _make_absolute(key: str, value: Any, output_dir: Path) -> Any:
    if isinstance(value, list):
        return [_make_absolute(key, one, output_dir) for one in value]
    if isinstance(value, dict):
        return {name: _make_absolute(key, one, output_dir) for name, one in value.items()}
    if not isinstance(value, str) or not value or value == "???" or "${" in value:  # interpolations follow their key
        return value
    if key in PROJECT_FOLDERS:
        return _normalize_path(project_dir() / value)
    if key in RUN_KEYS:
        return _find_run_folder(key, value, output_dir)
    if key != STORE_KEY:
        return make_path_absolute(value)
    with suppress(ValueError):  # the validation reports it
        return resolve_store_uri(value) if value.startswith("sqlite:///") else value
    return value


def make_path_absolute(value: str) -> str:
    """Return the absolute path of a file, folder or glob that exists; other texts are kept."""
    with suppress(OSError, ValueError, RuntimeError):  # too long, a null character, no such user
        path = Path(value).expanduser()
        if path.exists() or glob.glob(str(path), recursive=True):
            return _normalize_path(path)
    return value


def _normalize_path(path: Path) -> str:
    """Return `path` as an absolute path; only one with `..` loses its symbolic links, which may change its meaning."""
    return str(path.resolve() if ".." in path.parts else path.absolute())


def _find_run_folder(key: str, value: str, output_dir: Path) -> str:
    """Return the absolute path of a run, a file or a folder; `value` if there is none, or it is an experiment."""
    if value.startswith("experiment="):
        return value
    try:
        return make_path_absolute(str(find_run(value, output_dir, key)))
    except RunNotFoundError:
        return value


def _rewrite_override(line: str, override: Override, changed: Mapping[str, Any]) -> str:
    key = override.key_or_group
    start = line.partition("=")[0]
    value = override._value
    if isinstance(value, ChoiceSweep) and is_path_key(key) and not value.tags:
        choices = [_make_element_absolute(element) for element in value.list]
        return f"{start}={','.join(map(_format_plainly, choices))}"
    return f"{start}={_format_plainly(changed[key])}" if key in changed and not override.is_delete() else line


def _make_element_absolute(element: Any) -> Any:
    text = element.text if isinstance(element, QuotedString) else element
    return make_path_absolute(text) if isinstance(text, str) else text


def _format_plainly(value: Any) -> str:
    """Return `value` in Hydra's override grammar, without quotes around an address or path that needs none."""
    if isinstance(value, str):
        with suppress(HydraException):
            if OverridesParser.create().parse_override(f"key={value}").value() == value:
                return value
    return format_value(value)
