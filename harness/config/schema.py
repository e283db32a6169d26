"""The configuration, checked before anything is built: every refusal names the key, the value and the remedy."""

import math
import re
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from harness.config.errors import ConfigError, did_you_mean
from harness.config.targets import check_target, find_targets
from harness.diagnosis.expectations import parse_expectation
from harness.diagnosis.thresholds import Thresholds

ROOT = Path(__file__).resolve().parents[2]

RUN_NAME_PATTERN = r"[\w.+-]{1,80}"

SWEEP_ONLY_KEYS = ("sweep", "pruner", "preflight")
"""What only a sweep reads of a configuration."""
NON_TRAINING_KEYS = (
    "observers",
    "tracking",
    "output_dir",
    "cache_dir",
    "name",
    "locked",
    "unlock",
    "expect",
    "thresholds",
)
"""Keys that decide nothing about the training."""


@dataclass(frozen=True)
class BatchSettings:
    batch_size: int
    micro_batch_size: int | None = None

    def __post_init__(self) -> None:
        _check_at_least(1, batch_size=self.batch_size, micro_batch_size=self.micro_batch_size)

    def resolve_micro_batch_size(self, devices: int) -> int:
        """Examples a forward pass on each of `devices`; ValueError where the batch does not divide."""
        if self.batch_size % devices:
            raise ValueError(f"batch_size: {self.batch_size} does not divide over {devices} devices")
        share = self.batch_size // devices
        micro = self.micro_batch_size or share
        if share % micro:
            divisors = [str(n) for n in range(1, share + 1) if share % n == 0]
            each = f"{share} examples a device" if devices > 1 else f"batch_size {share}"
            raise ValueError(f"micro_batch_size: {micro} does not divide {each}; choose from {', '.join(divisors)}")
        return micro


@dataclass(frozen=True)
class LoopSettings:
    max_steps: int | None = None
    epochs: float | None = None
    max_tokens: int | None = None
    evals: int | None = None
    eval_every: int | None = None
    log_every: int = 10
    grad_clip: float | None = None
    patience: int | None = None
    on_spike: Literal["warn", "rollback", "stop"] = "warn"
    spike_lr_factor: float = 0.5
    max_rollbacks: int = 3
    save_every: int | None = None
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        _check_exactly_one(max_steps=self.max_steps, epochs=self.epochs, max_tokens=self.max_tokens)
        _check_exactly_one(evals=self.evals, eval_every=self.eval_every)
        _check_at_least(1, **{name: getattr(self, name) for name in (
            "max_steps", "max_tokens", "evals", "eval_every", "log_every", "patience", "save_every",
            "keep_checkpoints", "max_rollbacks")})  # fmt: skip
        _check_positive(epochs=self.epochs, grad_clip=self.grad_clip, spike_lr_factor=self.spike_lr_factor)
        if self.spike_lr_factor > 1:
            raise ValueError(f"spike_lr_factor: {self.spike_lr_factor} would raise the LR after a spike; use 1 or less")

    def compute_total_steps(self, batch_size: int, examples: int, tokens_per_example: float) -> int:
        """Updates in the run; an epoch is examples // batch_size of them, a token budget is rounded up."""
        if self.max_steps is not None:
            return self.max_steps
        if self.epochs is not None:
            return max(1, round(self.epochs * max(1, examples // batch_size)))
        return max(1, -(-self.max_tokens // round(batch_size * tokens_per_example)))

    def compute_eval_steps(self, total_steps: int) -> frozenset[int]:
        """The steps after which to evaluate; the last is always one."""
        if self.eval_every is not None:
            return frozenset(range(self.eval_every, total_steps, self.eval_every)) | {total_steps}
        return frozenset(max(1, round(total_steps * k / self.evals)) for k in range(1, self.evals + 1))


@dataclass(frozen=True)
class PrecisionSettings:
    autocast: Literal["bfloat16", "float16"] | None = None
    max_skips: int = 0

    def __post_init__(self) -> None:
        if self.autocast not in (None, "bfloat16", "float16"):
            raise ValueError(f"autocast: {self.autocast!r} is none of null, bfloat16, float16")
        _check_at_least(0, max_skips=self.max_skips)


@dataclass(frozen=True)
class DeviceSettings:
    kind: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        _check_at_least(1, threads=self.threads)


@dataclass(frozen=True)
class StartSettings:
    kind: Literal["scratch", "warm", "resume"] = "scratch"
    source: str | None = None
    run: str | None = None
    checkpoint: str = "last"
    schedule: Literal["continue", "restart"] = "continue"

    def __post_init__(self) -> None:
        if self.kind not in ("scratch", "warm", "resume"):
            raise ValueError(f"kind: {self.kind!r} is none of scratch, warm, resume")
        if (self.kind == "warm") != bool(self.source):
            raise ValueError(f"source: {self.source!r} does not go with kind {self.kind}; use start=warm with a source")
        if (self.kind == "resume") != bool(self.run):
            raise ValueError(f"run: {self.run!r} does not go with kind {self.kind}; use start=resume with a run")
        if self.checkpoint not in ("best", "last") and not self.checkpoint.isdecimal():
            raise ValueError(f"checkpoint: {self.checkpoint!r} is none of best, last and a step")


@dataclass(frozen=True)
class RunSettings:
    """The numbers that are ours; the components stay in the configuration until they are built."""

    seed: int
    batch: BatchSettings
    loop: LoopSettings
    precision: PrecisionSettings
    device: DeviceSettings
    start: StartSettings
    weight_decay_scope: Literal["hidden", "matrices", "all"]
    output_dir: Path
    cache_dir: Path


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """The configuration of `overrides`, with the search path of the running application where there is one.

    A process that asks again gets what it got before, whatever has become of the files."""
    hydra = GlobalHydra.instance()
    return deepcopy(_compose_cached(hydra.config_loader() if hydra.is_initialized() else None, tuple(overrides)))


@lru_cache(maxsize=64)
def _compose_cached(application: ConfigLoader | None, overrides: tuple[str, ...]) -> DictConfig:
    with nullcontext() if application else initialize_config_dir(str(ROOT / "conf"), job_name="run"):
        return hydra_compose("config", list(overrides))


def without_sweep_keys(cfg: DictConfig) -> DictConfig:
    """`cfg` without what only a sweep reads: all that a run knows and records."""
    if not cfg.keys() & set(SWEEP_ONLY_KEYS):
        return cfg
    part = deepcopy(cfg)
    with open_dict(part):
        for key in SWEEP_ONLY_KEYS:
            part.pop(key, None)
    return part


def validate_config(cfg: DictConfig) -> RunSettings:
    """The settings of `cfg`; ConfigError at the first thing that cannot work, before anything is built."""
    cfg = without_sweep_keys(cfg)
    for key in sorted(OmegaConf.missing_keys(cfg)):
        raise ConfigError(f"{key} has no value; give it one: {key}=…")
    _check_top_level(cfg)
    groups = {field.name: field.type for field in fields(RunSettings) if hasattr(field.type, "__post_init__")}
    sections = {name: parse_section(name, schema, cfg[name]) for name, schema in groups.items()}
    if cfg.weight_decay_scope not in ("hidden", "matrices", "all"):
        raise ConfigError(f"weight_decay_scope: {cfg.weight_decay_scope!r} is none of hidden, matrices, all")
    if cfg.lora and cfg.lora.get("_target_") is None:
        raise ConfigError(f"lora: {', '.join(cfg.lora)} set, and lora=none has no adapters; choose another lora")
    for key, node in find_targets(cfg):
        check_target(key, node)
    _check_learning_rates(cfg.optimizer)
    _check_expectations(cfg.expect)
    parse_section("thresholds", Thresholds, cfg.thresholds)
    check_writable("tracking.uri", _find_tracking_dir(cfg.tracking.uri))
    return RunSettings(
        seed=_read_seed(cfg, "seed"),
        weight_decay_scope=cfg.weight_decay_scope,
        output_dir=check_writable("output_dir", ROOT / cfg.output_dir),
        cache_dir=check_writable("cache_dir", ROOT / cfg.cache_dir),
        **sections,
    )


def contains_key(outer: str, inner: str) -> bool:
    """Whether the dotted key `inner` is `outer` or lies in it."""
    return f"{inner}.".startswith(f"{outer}.")


def flatten_config(node: object, key: str = "") -> dict[str, str]:
    """Every leaf of nested mappings, as text, under the keys that lead to it; an empty mapping is a leaf."""
    if not isinstance(node, dict) or not node:
        return {key: str(node)}
    children = [flatten_config(child, f"{key}.{name}" if key else name) for name, child in node.items()]
    return {name: value for child in children for name, value in child.items()}


def _check_top_level(cfg: DictConfig) -> None:
    for key in ("output_dir", "cache_dir"):
        if not isinstance(cfg[key], str) or not cfg[key]:
            raise ConfigError(f"{key}: {cfg[key]!r} is no folder")
    if cfg.name is not None and not re.fullmatch(RUN_NAME_PATTERN, str(cfg.name)):
        raise ConfigError(f"name: {cfg.name!r} may have up to 80 letters, digits and any of . _ + -")
    for group in ("batch", "loop", "precision", "device", "start", "task", "optimizer", "schedule", "observers"):
        if not isinstance(cfg.get(group), DictConfig):
            raise ConfigError(f"{group}: nothing is chosen; `python run.py --help` shows the options")


def parse_section(name: str, schema: type, node: DictConfig) -> Any:
    known = [field.name for field in fields(schema)]
    for key in node:
        if key not in known:
            raise ConfigError(f"{name}.{key} does not exist{did_you_mean(str(key), known)}")
    try:
        typed = OmegaConf.to_container(OmegaConf.merge(OmegaConf.structured(schema), node), resolve=True)
        return schema(**{key: typed[key] for key in known})
    except OmegaConfBaseException as error:
        raise ConfigError(f"{name}.{error.full_key}: {str(error).partition(chr(10))[0]}") from error
    except ValueError as error:
        raise ConfigError(f"{name}.{error}") from error


def _check_learning_rates(optimizer: DictConfig) -> None:
    for name, value in optimizer.items():
        if name == "lr" or str(name).endswith("_lr"):
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise ConfigError(f"optimizer.{name}: {value!r} is not a number")
            if not 0 < value < math.inf:
                raise ConfigError(f"optimizer.{name}: {value} must be above 0")


def _check_expectations(expect: Any) -> None:
    if not isinstance(expect, ListConfig):
        raise ConfigError(f"expect: {expect!r} is no list; write \"expect=['{expect}']\"")
    for text in expect:
        try:
            parse_expectation(text)
        except ValueError as error:
            raise ConfigError(f"expect: {error}") from error


def _read_seed(cfg: DictConfig, key: str) -> int:
    value = cfg[key]
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**32:
        raise ConfigError(f"{key}: {value!r} must be a whole number from 0 to {2**32 - 1}")
    return value


def check_writable(key: str, folder: Path) -> Path:
    """`folder`, if a file can be made in the nearest folder above it that exists; none is left there."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise ConfigError(f"{key}: {existing} cannot be written to; choose another folder with {key}=…") from error
    return folder


def _find_tracking_dir(uri: str | None) -> Path:
    """Where the store's file goes; a server's address has none, and the project's own folder stands for it."""
    return Path(uri.removeprefix("sqlite:///")).parent if (uri or "").startswith("sqlite:///") else ROOT / "mlruns"


def _check_exactly_one(**given: Any) -> None:
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1:
        said = " and ".join(f"{name}={given[name]}" for name in names) or "none of them is set"
        one = names[0] if names else next(iter(given))
        others = " ".join(f"loop.{name}=null" for name in given if name != one)
        raise ValueError(f"{one}: exactly one of {', '.join(given)} says it, and {said}; add {others}")


def _check_at_least(lowest: int, **given: Any) -> None:
    for name, value in given.items():
        if value is not None and value < lowest:
            raise ValueError(f"{name}: {value} must be at least {lowest}")


def _check_positive(**given: Any) -> None:
    for name, value in given.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name}: {value} must be above 0")
