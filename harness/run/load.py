"""Load the model and tokenizer of a recorded run."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig
from torch import nn

from harness.config.compose import load_run_config
from harness.core.errors import ConfigError
from harness.data.tokenizers import Tokenizer
from harness.record.run_lookup import default_output_dir, find_run
from harness.record.trial_record import check_own_run
from harness.run.build import instantiate_component
from harness.run.initial_weights import load_best_weights
from harness.training.checkpoint import WEIGHTS_FILE


@dataclass(frozen=True)
class LoadedRun:
    """A recorded run; `model` is on the CPU in evaluation mode, with LoRA adapters not merged."""

    folder: Path
    cfg: DictConfig
    model: nn.Module
    tokenizer: Tokenizer


def load_recorded_run(run: str, output_dir: Path | None = None) -> LoadedRun:
    """Load a run, with its best weights, by what `find_run` takes.

    Raises:
        ConfigError: If there is no such run, it is not a run of a language model, or its weights are gone.
    """
    folder = find_run(run, output_dir or default_output_dir(), "RUN")
    check_own_run(folder, "RUN")
    kept = folder / "checkpoints" / "tokenizer"
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"RUN: {folder} is not the folder of a run; see `plateau list`")
    if not kept.is_dir():
        weights = kept.parent / "best" / WEIGHTS_FILE
        where = f"its weights are in {weights}" if weights.is_file() else "its checkpoints were deleted"
        raise ConfigError(
            f"RUN: {folder} has no tokenizer, so it is not a run of a language model, or lost it; {where}"
        )
    cfg = load_run_config(folder)
    try:
        tokenizer = Tokenizer.load(kept)
    except (ValueError, OSError) as error:
        raise ConfigError(
            f"RUN: {folder}: {error}; copy checkpoints/tokenizer from a run on the same data, or train again"
        ) from error
    try:
        model = load_best_weights(folder, instantiate_component(cfg, "model")(vocab_size=tokenizer.vocab_size))
    except (ValueError, OSError) as error:
        raise ConfigError(f"RUN: {folder}: {error}") from error
    return LoadedRun(folder, cfg, model.eval(), tokenizer)
