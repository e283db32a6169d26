"""Validate a configuration before anything is built."""

import math
import re
import tempfile
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, InterpolationToMissingValueError, OmegaConfBaseException

from harness.config.compatibility import check_task_parts
from harness.config.compose import contains_key, flatten_values, to_plain_dict, without_sweep_keys
from harness.config.group_options import is_left_open
from harness.config.schema import RunSettings
from harness.config.targets import check_all_components
from harness.core.errors import ConfigError, did_you_mean
from harness.core.lr_keys import is_lr_key
from harness.core.paths import project_dir, run_command
from harness.diagnosis.expectations import parse_expectation
from harness.diagnosis.thresholds import Thresholds
from harness.tracking.store_uri import check_database_driver, resolve_store_uri, sqlite_path

REQUIRED_COMPONENTS = ("task", "optimizer", "schedule", "parallel")
"""Groups whose option must be a component."""
SECTIONS = (
    "batch", "loop", "precision", "device", "start", "tracking", "thresholds", "observers", *REQUIRED_COMPONENTS,
)  # fmt: skip
PARTIAL_COMPONENTS = ("task", "model", "data", "lora", "optimizer")
"""Components that are called with other parts of the run; the rest are complete once they are built."""
KEYS = ("seed", "name", "weight_decay_applies_to", "compile", "output_dir", "cache_dir", "lora", "locked", "unlock",
        "expect", "record_examples", "score_test")  # fmt: skip
"""Keys and sections that a configuration must have; `model`, `data` and `tokenizer` depend on the task."""
RUN_NAME_PATTERN = r"[\w.+-]{1,80}"


def validate_config(cfg: DictConfig) -> RunSettings:
    """Return the settings of `cfg`.

    Raises:
        ConfigError: If a value cannot work; the message names the first such value.
    """
    cfg = without_sweep_keys(cfg)
    _check_interpolations(cfg)
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise ConfigError(f"{missing[0]}: has no value; add {missing[0]}=…")
    _check_required_values(cfg)
    _check_top_level(cfg)
    schemas = {
        name: hint
        for name, hint in get_type_hints(RunSettings).items()
        if isinstance(hint, type) and is_dataclass(hint)
    }
    sections = {name: parse_section(name, schema, cfg[name]) for name, schema in schemas.items()}
    check_all_components(to_plain_dict(cfg))
    check_task_parts(to_plain_dict(cfg))
    _check_learning_rates(cfg.optimizer)
    _check_expectations(cfg.expect)
    _check_test_split(cfg)
    parse_section("thresholds", Thresholds, cfg.thresholds)
    if isinstance(uri := sections["tracking"].uri, str) and "mlflow" in cfg.observers:
        _check_store_uri(uri)
    check_writable("tracking.uri", _find_tracking_dir(sections["tracking"].uri))
    return RunSettings(
        seed=cfg.seed,
        weight_decay_applies_to=cfg.weight_decay_applies_to,
        record_examples=cfg.record_examples,
        score_test=cfg.score_test,
        output_dir=check_writable("output_dir", project_dir() / cfg.output_dir),
        cache_dir=check_writable("cache_dir", project_dir() / cfg.cache_dir),
        **sections,
    )


def parse_section(name: str, schema: type, node: DictConfig) -> Any:
    """Return `node` as an instance of the dataclass `schema`.

    Raises:
        ConfigError: If a key is unknown, or a value has the wrong type or is out of range.
    """
    known = [field.name for field in fields(schema)]
    for key in map(str, node):
        if key not in known:
            raise ConfigError(f"{name}.{key}: does not exist{did_you_mean(key, known)}")
    try:
        given = to_plain_dict(node)  # resolved here: interpolations refer to other sections
        typed = to_plain_dict(OmegaConf.merge(OmegaConf.structured(schema), given))
        return schema(**{key: typed[key] for key in known})
    except OmegaConfBaseException as error:
        raise ConfigError(f"{name}.{error.full_key}: {_describe_wrong_type(error)}") from error
    except ValueError as error:
        raise ConfigError(f"{name}.{error}") from error


def _describe_wrong_type(error: OmegaConfBaseException) -> str:
    message = str(error).partition("\n")[0]
    wrong = re.match(r"Value '(.*)' of type '(\w+)' could not be converted to (Integer|Float)", message)
    if not wrong:
        return message
    value = repr(wrong[1]) if wrong[2] == "str" else wrong[1]
    return f"{value} is not a {'whole number' if wrong[3] == 'Integer' else 'number'}"


def check_writable(key: str, folder: Path) -> Path:
    """Return `folder`, if a file can be created in it or in its nearest existing parent."""
    existing = folder
    try:
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        reason = f"cannot be written to ({error.strerror})"
        raise ConfigError(f"{key}: {existing}: {reason}; choose another folder with {key}=…") from error
    return folder


def _check_interpolations(cfg: DictConfig) -> None:
    for key in map(str, cfg):
        try:
            node = None if OmegaConf.is_missing(cfg, key) else cfg[key]
            OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig | ListConfig) else None
        except InterpolationToMissingValueError:
            continue  # what it refers to is reported as missing
        except InterpolationKeyError as error:
            missing = re.search(r"Interpolation key '(.*)' not found", str(error))
            name = error.full_key if contains_key(key, str(error.full_key or "")) else key
            reason = f"it refers to {missing[1] if missing else 'a key'}, which does not exist"
            raise ConfigError(f"{name}: has no value, since {reason}; add {name}=…") from error
        except OmegaConfBaseException as error:
            name = error.full_key if contains_key(key, str(error.full_key or "")) else key
            reason = str(error).partition("\n")[0]
            raise ConfigError(f"{name}: {reason}; set what the value refers to") from error


def _check_required_values(cfg: DictConfig) -> None:
    """Check that what an option's file leaves open is not given as an empty text, as by `model.name=$UNSET`."""
    for key, value in flatten_values(OmegaConf.to_container(cfg)).items():
        if value == "" and is_left_open(key):
            raise ConfigError(f"{key}: has no value; add {key}=…")


def _check_top_level(cfg: DictConfig) -> None:
    for key in (*SECTIONS, *KEYS):
        if key not in cfg:
            raise ConfigError(f"{key}: has no value; leave out '~{key}', or give it one")
    for key, default in (("output_dir", "outputs"), ("cache_dir", ".cache")):
        if not isinstance(cfg[key], str) or not cfg[key]:
            raise ConfigError(f"{key}: {cfg[key]!r} must be a path; set {key}={default}")
    if cfg.name is not None and not re.fullmatch(RUN_NAME_PATTERN, str(cfg.name)):
        raise ConfigError(f"name: {cfg.name!r} must be 1 to 80 characters: letters, digits, . _ + -")
    for section in SECTIONS:
        if cfg[section] is not None and not isinstance(cfg[section], DictConfig):
            raise ConfigError(f"{section}: {cfg[section]!r} is not a section; set its keys: {section}.KEY=VALUE")
        if cfg[section] is None:
            raise ConfigError(f"{section}: no option is chosen; `{' '.join(run_command())} --help` lists the options")
    _check_component_nodes(cfg)
    if not isinstance(cfg.seed, int) or isinstance(cfg.seed, bool) or not 0 <= cfg.seed < 2**32:
        raise ConfigError(f"seed: {cfg.seed!r} must be a whole number from 0 to {2**32 - 1}")
    for key in ("record_examples", "score_test"):
        if not isinstance(cfg[key], bool):
            raise ConfigError(f"{key}: {cfg[key]!r} must be true or false")
    if cfg.weight_decay_applies_to not in ("hidden", "matrices", "all"):
        raise ConfigError(
            f"weight_decay_applies_to: {cfg.weight_decay_applies_to!r} must be one of hidden, matrices, all"
        )


def _check_component_nodes(cfg: DictConfig) -> None:
    """Check that each component names a `_target_`, and is partial if it is called once other parts are built."""
    nodes = {name: cfg[name] for name in REQUIRED_COMPONENTS}
    nodes |= {name: cfg[name] for name in ("model", "data", "tokenizer", "lora") if cfg.get(name)}
    nodes |= {f"observers.{name}": cfg.observers[name] for name in map(str, cfg.observers)}
    for name, node in nodes.items():
        if not isinstance(node, DictConfig) or node.get("_target_") is None:
            found = f"it has {', '.join(map(str, node)) or 'nothing'}" if isinstance(node, DictConfig) else repr(node)
            if name == "lora":
                raise ConfigError(f"lora: {found}, and lora=none has no adapters; choose another option of lora")
            remedy = "begin your own with '_target_: my_package.MyComponent' (docs/extending.md)"
            group = name.partition(".")[0]
            raise ConfigError(f"{name}: no _target_, {found}; choose an option with {group}=…, or {remedy}")
        is_partial, value = name in PARTIAL_COMPONENTS, node.get("_partial_", False)
        if value is not is_partial:
            raise ConfigError(f"{name}._partial_: {value!r} must be {str(is_partial).lower()} in its YAML")


def _check_learning_rates(optimizer: DictConfig) -> None:
    for name, value in to_plain_dict(optimizer).items():
        if is_lr_key(f"optimizer.{name}"):
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise ConfigError(f"optimizer.{name}: {value!r} is not a number")
            if not 0 < value < math.inf:
                raise ConfigError(f"optimizer.{name}: {value} must be a finite number above 0")


def _check_store_uri(uri: str) -> None:
    try:
        resolve_store_uri(uri)
    except ValueError as error:
        raise ConfigError(f"tracking.{error}") from error
    check_database_driver("tracking.uri", uri)


def _check_expectations(expect: Any) -> None:
    if not isinstance(expect, ListConfig):
        raise ConfigError(f"expect: {expect!r} is not a list; write \"expect=['{expect}']\"")
    for text in expect:
        try:
            parse_expectation(text)
        except ValueError as error:
            raise ConfigError(f"expect: {error}") from error


def _check_test_split(cfg: DictConfig) -> None:
    """Check that data which can have a test split has one if it is to be scored; other data are known once built."""
    node = cfg.get("data")
    remedies = {"test_share": "data.test_share=0.1", "test": "data.test=FILE"}
    known = [key for key in remedies if isinstance(node, DictConfig) and key in node]
    if cfg.score_test and known and all(node[key] is None for key in known):
        raise ConfigError(
            f"score_test: true: the data has no test split; set {' or '.join(remedies[key] for key in known)}, "
            "or leave score_test out"
        )


def _find_tracking_dir(uri: str | None) -> Path:
    """Return the folder of a SQLite store; a server needs none, so the project's own is checked in its place."""
    file = sqlite_path(uri) if isinstance(uri, str) else None
    return file.parent if file else project_dir()
