"""Weights to start from: found, read as data, and matched to the model name by name."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from harness import lora
from harness.build import build_task, make
from harness.checkpoint import load_weights, read_state_dict
from harness.config import ConfigError, Settings
from harness.models import untie_head
from harness.processes import World

PREFIXES = ("module.", "_orig_mod.", "model.", "transformer.")
"""What data parallelism, torch.compile and wrapper classes put in front of a name."""


@dataclass(frozen=True)
class Match:
    """How a state dict fits a model; `mismatched` names come with both shapes."""

    matched: list[str]
    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]

    def table(self) -> str:
        rows = [f"{len(self.matched)} tensors matched"]
        for title in ("missing", "unexpected", "mismatched"):
            names = getattr(self, title)
            if names:
                more = f", … {len(names) - 8} more" if len(names) > 8 else ""
                rows.append(f"{len(names)} {title}: {', '.join(names[:8])}{more}")
        return "; ".join(rows)


def load_into(model: nn.Module, weights: dict[str, Tensor]) -> Match:
    """Copy every tensor whose name, after wrappers' prefixes, and shape fit; the rest is told, never guessed."""
    own = model.state_dict()
    renamed = {_own_name(name, own): tensor for name, tensor in weights.items()}
    fits = {name: t for name, t in renamed.items() if name in own and own[name].shape == t.shape}
    clash = sorted(name for name in renamed.keys() & own.keys() if name not in fits)
    if _ties_break(own, fits):
        untie_head(model)
    model.load_state_dict(fits, strict=False)
    filled = {own[name].data_ptr() for name in fits}
    return Match(
        matched=sorted(fits),
        missing=sorted(name for name in own if name not in renamed and own[name].data_ptr() not in filled),
        unexpected=sorted(renamed.keys() - own.keys()),
        mismatched=[f"{name} {list(renamed[name].shape)} for {list(own[name].shape)}" for name in clash],
    )


def start_warm(model: nn.Module, source: str, settings: Settings, world: World) -> Match:
    """Load the weights `source` names into `model`; ConfigError where nothing is found or nothing fits."""
    match = load_into(model, read_weights(source, settings, world))
    if not match.matched:
        raise ConfigError(f"start.source: nothing in {source} fits this model ({match.table()})")
    if match.mismatched:
        raise ConfigError(f"start.source: {source} is of another architecture ({match.table()})")
    return match


def read_weights(source: str, settings: Settings, world: World) -> dict[str, Tensor]:
    """The weights of a file, a Hugging Face folder, or a run by id, folder or name, with LoRA adapters merged."""
    path = _find(source, settings)
    try:
        if path.is_file():
            return read_state_dict(path)
        if (path / "config.yaml").is_file():
            return run_weights(path, settings, world)
        shards = sorted(path.glob("*.safetensors")) or sorted(path.glob("pytorch_model*.bin"))
        if not shards:
            raise ValueError("it holds neither a run nor *.safetensors nor pytorch_model*.bin")
        return {name: tensor for shard in shards for name, tensor in read_state_dict(shard).items()}
    except (ValueError, OSError) as error:
        raise ConfigError(f"start.source: {path}: {error}") from error


def run_weights(folder: Path, settings: Settings, world: World) -> dict[str, Tensor]:
    """The best weights of the run in `folder`, under the names of its unadapted model."""
    weights = load_weights(folder / "checkpoints" / "best" / "model.safetensors")
    cfg = OmegaConf.load(folder / "config.yaml")
    if not cfg.lora:
        return weights
    model = build_task(cfg, settings, world).model
    make(cfg, "lora")(model)
    model.load_state_dict(weights)
    return lora.merged_state_dict(model)


def base_name(source: str) -> str | None:
    """The experiment that `source` says to train first, if it says so."""
    return source.removeprefix("experiment=") if source.startswith("experiment=") else None


def _ties_break(own: dict[str, Tensor], fits: dict[str, Tensor]) -> bool:
    """Whether the model has one tensor where the weights have two, as after a run that adapted a tied head."""
    seen: dict[int, Tensor] = {}
    pairs = [(seen.setdefault(own[name].data_ptr(), tensor), tensor) for name, tensor in fits.items()]
    return any(first is not tensor and not torch.equal(first, tensor) for first, tensor in pairs)


def _own_name(name: str, own: dict[str, Tensor]) -> str:
    stripped = name
    while stripped not in own:
        prefix = next((p for p in PREFIXES if stripped.startswith(p)), None)
        if prefix is None:
            return next((p + name for p in PREFIXES if p + name in own), name)
        stripped = stripped.removeprefix(prefix)
    return stripped


def _find(source: str, settings: Settings) -> Path:
    """A path as the user gave it, or a run's folder by its name or MLflow run id."""
    for path in (Path(source).expanduser(), settings.output_dir / source):
        if path.exists():
            return path
    for record in settings.output_dir.glob("*/mlflow.json"):
        if json.loads(record.read_text()).get("run_id") == source:
            return record.parent
    raise ConfigError(f"start.source: {source!r} is no file, no folder, and no run in {settings.output_dir}")
