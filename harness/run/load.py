"""A run that was recorded, read back: its model with the best weights, and its tokenizer."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from torch import nn

from harness.config.targets import check_target
from harness.core.errors import ConfigError
from harness.core.paths import project_dir
from harness.data.tokenizers import Tokenizer
from harness.record.run_lookup import find_run
from harness.run.build import instantiate_component
from harness.run.initial_weights import load_best_weights


@dataclass(frozen=True)
class LoadedRun:
    """`model` is in evaluation mode on the CPU, adapters in place."""

    folder: Path
    cfg: DictConfig
    model: nn.Module
    tokenizer: Tokenizer


def load_recorded_run(run: str, output_dir: Path | None = None) -> LoadedRun:
    """The run that `run` names: a folder, a run's name or an MLflow run id. ConfigError where it is none, or of no
    language model, or its weights are gone."""
    folder = find_run(run, output_dir or project_dir() / "outputs", "RUN")
    kept = folder / "checkpoints" / "tokenizer"
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"RUN: {folder} holds no run; give a run's folder, its name or its MLflow run id")
    if not kept.is_dir():
        raise ConfigError(f"RUN: {folder} keeps no tokenizer: it is no language model's, or its checkpoints are gone")
    cfg = OmegaConf.load(folder / "config.yaml")
    check_target("model", cfg.model)
    tokenizer = Tokenizer.load(kept)
    try:
        model = load_best_weights(folder, instantiate_component(cfg, "model")(vocab_size=tokenizer.vocab_size))
    except (ValueError, OSError) as error:
        raise ConfigError(f"RUN: {folder}: {error}") from error
    return LoadedRun(folder, cfg, model.eval(), tokenizer)
