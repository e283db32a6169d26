"""The base model that a run starts from: an experiment that is trained once per model and tokenizer, then cached."""

import hashlib
import platform
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from harness.config.compose import NON_TRAINING_KEYS, compose_config, to_plain_dict, without_sweep_keys
from harness.core.distributed import ProcessGroup
from harness.core.terminal import announce
from harness.data.cache import ensure_cached, is_intact
from harness.run.build import instantiate_component
from harness.run.provenance import format_command
from harness.run.unseen_test import hold_out_test
from harness.training.checkpoint import WEIGHTS_FILE, load_weights

SHARED_WITH_BASE = (
    "model", "tokenizer", "device", "parallel", "observers", "tracking", "output_dir", "cache_dir",
)  # fmt: skip
"""Choices that a base model takes from the run that needs it. The seed is not one, so that all seeds share a base."""

PYTHON_DOCS = "harness.data.sources.Pydoc"
"""Beginning of the names of the sources that the base model and its tokenizer are trained on."""
OWN_MODEL = {"tokenizer": "bpe", "lora": "none", "start": "scratch"}


def describe_foreign_base(cfg: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Return a notice if a run on the user's text takes the base model or the tokenizer of Python's documentation.

    Args:
        overrides: Those that `cfg` was composed from; the notice shows the command to use instead.
    """
    source = _select_text(cfg, "data.source._target_")
    has_base = _select_text(cfg, "start.source") == "experiment=pydoc_base"
    has_tokenizer = _select_text(cfg, "tokenizer.corpus._target_").startswith(PYTHON_DOCS)
    if not source or source.startswith(PYTHON_DOCS) or not (has_base or has_tokenizer):
        return []
    foreign = " and ".join(["the base model"] * has_base + ["the tokenizer"] * has_tokenizer)
    choices = OWN_MODEL if has_base else {"tokenizer": OWN_MODEL["tokenizer"]}
    kept = [override for override in overrides if re.split(r"[.=]", override.lstrip("+~"))[0] not in choices]
    command = format_command([*kept, *(f"{group}={option}" for group, option in choices.items())])
    return [
        f"{foreign} come{'' if has_base and has_tokenizer else 's'} from Python's documentation, not from this text; "
        f"to adapt a model of yours, set model=hf model.name=FOLDER; to train on this text alone:\n  {command}"
    ]


def _select_text(cfg: DictConfig, key: str) -> str:
    """Return the value of a dotted key as text; an empty one if there is none, or `cfg` is invalid there."""
    with suppress(OmegaConfBaseException):  # the validation reports it
        return str(OmegaConf.select(cfg, key, default=""))
    return ""


def compose_base_config(experiment: str, cfg: DictConfig) -> DictConfig:
    """Return the configuration of the base model `experiment` for a run of `cfg`.

    If the run cuts test documents from the source that the base is trained on, the base is trained without them.
    """
    base = without_sweep_keys(compose_config([f"experiment={experiment}"]))
    with open_dict(base):
        for key in SHARED_WITH_BASE:
            base[key] = cfg[key]
    hold_out_test(base, cfg)
    return base


def announce_training(base: DictConfig, cfg: DictConfig) -> None:
    """Say what is trained before the run of `cfg` itself; the base's own lines say how much time is left."""
    loop = base.loop
    length = f"{loop.max_steps:,} steps" if loop.max_steps else f"{loop.epochs} epochs" if loop.epochs else ""
    length = length or f"{loop.max_tokens:,} tokens"
    announce(f"training the base model of {length} first; done once, then cached")
    if describe_foreign_base(cfg, ()):
        choices = " ".join(f"{group}={option}" for group, option in OWN_MODEL.items())
        announce(f"it learns Python's documentation; to train on your text alone, stop and add {choices}")


def get_base_weights(
    base: DictConfig, cache_dir: Path, processes: ProcessGroup, train: Callable[[], Path]
) -> dict[str, Tensor]:
    """Return the cached weights of `base`; `train` returns the file with the weights if they are not cached yet."""
    folder = cache_dir / "bases" / _hash_base_config(base)
    if processes.size == 1:
        ensure_cached(folder, lambda draft: _store_weights(train(), draft))
    elif not processes.broadcast(processes.is_main and is_intact(folder)):
        weights = train()  # all ranks train, so none can hold the lock of the cache meanwhile
        store = partial(ensure_cached, folder, partial(_store_weights, weights))
        processes.run_main_first(lambda: store() if processes.is_main else None)
    return load_weights(folder / WEIGHTS_FILE)


def _store_weights(weights: Path, folder: Path) -> None:
    shutil.copyfile(weights, folder / WEIGHTS_FILE)


def _hash_base_config(cfg: DictConfig) -> str:
    """Return a digest of everything that determines the weights: settings, data source and versions."""
    ignored = (*NON_TRAINING_KEYS, "device", "compile")
    decisive = {key: value for key, value in to_plain_dict(cfg).items() if key not in ignored}
    decisive["model"].pop("gradient_checkpointing", None)
    source = instantiate_component(cfg, "data", "source").fingerprint() if "source" in cfg.data else ""
    text = f"{sorted(decisive.items())}{source}{torch.__version__}{platform.python_version()}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]
