"""Load initial weights from a run, a Hugging Face folder or a file, matched to the model by name and shape."""

import re
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import yaml
from omegaconf import DictConfig
from torch import Tensor, nn

from harness.config.compose import load_config
from harness.config.schema import RunSettings
from harness.core.errors import ConfigError
from harness.core.sharding import identify_storage
from harness.core.state import find_broken_tie, load_model_weights
from harness.core.terminal import paragraph_width, wrap_text
from harness.models import untie_head
from harness.record.run_lookup import find_run
from harness.record.trial_record import is_foreign_folder
from harness.run.build import instantiate_component
from harness.training import lora
from harness.training.checkpoint import read_best_weights, read_state_dict

WRAPPER_PREFIXES = ("module.", "_orig_mod.", "model.", "transformer.")
"""Prefixes that data parallelism, torch.compile and wrapper classes add to parameter names."""


@dataclass(frozen=True)
class WeightMatch:
    """Result of matching a state dict to a model; `mismatched` entries include both shapes."""

    matched: list[str]
    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]

    @property
    def is_complete(self) -> bool:
        return not (self.missing or self.unexpected or self.mismatched)

    def summarize(self) -> str:
        """Return one line with the counts, and the first names of what did not match."""
        misfits = {kind: names for kind, names in vars(self).items() if kind != "matched" and names}
        problems = [f"{len(names)} {kind}: {', '.join(_truncate_names(names, 3))}" for kind, names in misfits.items()]
        return "; ".join([f"{len(self.matched)} tensors matched", *problems])

    def describe(self, source: str | None) -> str:
        """Return a message about the weights from `source`: a line if all match, else with the table."""
        details = f" {self.summarize()}" if self.is_complete else f"\n{self.format_table()}"
        return f"weights from {source}:{details}"

    def format_table(self) -> str:
        """Return each kind with its count and its first 20 names, wrapped."""
        rows: list[str] = []
        for kind, names in vars(self).items():
            text = f"{kind:<11}{len(names):>5}  {', '.join(_truncate_names(names, 20))}"
            rows += wrap_text(text, paragraph_width(), rest=" " * 18)
        return "\n".join(rows)


def has_pretrained_weights(cfg: DictConfig) -> bool:
    """Return whether training begins from weights of an earlier training, loaded or those of a pretrained model."""
    model_target = cfg.model._target_ if cfg.get("model") else ""
    return cfg.start.kind != "scratch" or "harness.models.pretrained." in model_target


def load_warm_start(model: nn.Module, source: str, settings: RunSettings) -> WeightMatch:
    """Load the weights that `source` names into `model`.

    A file may hold some of the weights; the folder of a run or of a Hugging Face model must hold all of them.

    Raises:
        ConfigError: If nothing is found or nothing fits.
    """
    path = find_run(source, settings.output_dir, "start.source")
    try:
        match = load_matching_weights(model, read_weights(path, model))
    except (ConfigError, ValueError, OSError, yaml.YAMLError) as error:
        raise ConfigError(f"start.source: {path}: {' '.join(str(error).split())}") from error
    if not match.matched:
        raise ConfigError(f"start.source: {path}: no tensor fits this model ({match.summarize()})")
    if match.mismatched or (path.is_dir() and not match.is_complete):
        raise ConfigError(f"start.source: {path}: the weights are of another architecture ({match.summarize()})")
    return match


def read_weights(path: Path, model: nn.Module) -> dict[str, Tensor]:
    """Return the weights in a file, a Hugging Face folder or a run's folder, with LoRA adapters merged."""
    if not path.is_dir():
        return read_state_dict(path)
    if (path / "config.yaml").is_file() and not is_foreign_folder(path):
        return _read_run_weights(path, model)
    shards = sorted(path.glob("*.safetensors")) or sorted(path.glob("pytorch_model*.bin"))
    if not shards:
        if is_foreign_folder(path):
            raise ValueError("it was run by another program, and contains no *.safetensors or pytorch_model*.bin")
        raise ValueError("it contains neither a run nor *.safetensors nor pytorch_model*.bin")
    return {name: tensor for shard in shards for name, tensor in read_state_dict(shard).items()}


def load_matching_weights(model: nn.Module, weights: dict[str, Tensor]) -> WeightMatch:
    """Copy every tensor whose name, without the prefixes of wrappers, and shape match; report the others."""
    own = model.state_dict()
    renamed = {_find_own_name(name, own): tensor for name, tensor in weights.items()}
    match = match_weights(model, renamed)
    copy_weights(model, {name: renamed[name] for name in match.matched})
    return match


def match_weights(model: nn.Module, weights: dict[str, Tensor]) -> WeightMatch:
    """Match `weights`, which have the model's own names, to `model` without copying them."""
    own = model.state_dict(keep_vars=True)
    fits = {name for name, tensor in weights.items() if name in own and own[name].shape == tensor.shape}
    clash = sorted(name for name in weights.keys() & own.keys() if name not in fits)
    filled = {identify_storage(own[name]) for name in fits}
    return WeightMatch(
        matched=sorted(fits),
        missing=sorted(name for name in own if name not in weights and identify_storage(own[name]) not in filled),
        unexpected=sorted(name for name in weights if name not in own and not _is_ignored_buffer(name, model)),
        mismatched=[f"{name} {list(weights[name].shape)} for {list(own[name].shape)}" for name in clash],
    )


def copy_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy `weights` into `model`, after untying its head if their head differs from their embedding."""
    if find_broken_tie(model, weights) and hasattr(model, "get_output_embeddings"):
        untie_head(model)
    load_model_weights(model, weights, strict=False)


def parse_base_experiment(source: str) -> str | None:
    """Return the name in `experiment=NAME`, or None for another kind of source."""
    return source.removeprefix("experiment=") if source.startswith("experiment=") else None


def load_best_weights(folder: Path, model: nn.Module) -> nn.Module:
    """Return `model` with the LoRA adapters and the best weights of the run in `folder`.

    Raises:
        ValueError: If the weights do not fit.
    """
    cfg = load_config(folder / "config.yaml")
    weights = read_best_weights(folder / "checkpoints")
    if cfg.get("lora"):
        model = instantiate_component(cfg, "lora")(model)
    match = load_matching_weights(model, weights)
    if not match.is_complete:
        raise ValueError(f"the weights do not fit this model ({match.summarize()})")
    return model


def _read_run_weights(folder: Path, model: nn.Module) -> dict[str, Tensor]:
    """Return the best weights of the run in `folder`, under the names of `model`."""
    if not load_config(folder / "config.yaml").get("lora"):
        return read_best_weights(folder / "checkpoints")
    return lora.remove_adapters(load_best_weights(folder, deepcopy(model)), merged=True).state_dict()


def _find_own_name(name: str, own: dict[str, Tensor]) -> str:
    stripped = name
    while stripped not in own:
        prefix = next((p for p in WRAPPER_PREFIXES if stripped.startswith(p)), None)
        if prefix is None:
            return next((p + name for p in WRAPPER_PREFIXES if p + name in own), name)
        stripped = stripped.removeprefix(prefix)
    return stripped


def _is_ignored_buffer(name: str, model: nn.Module) -> bool:
    """Return whether `model` is a transformers model that ignores `name`, a buffer saved by older versions."""
    return any(re.search(pattern, name) for pattern in getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ())


def _truncate_names(names: list[str], count: int) -> list[str]:
    return names if len(names) <= count else [*names[:count], f"… {len(names) - count} more"]
