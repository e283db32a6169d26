"""A Lightning app in the manner of public templates: a package, folders by interpolation, accuracy to maximize."""

from pathlib import Path

CALLBACKS_DEFAULT = """
report:
  _target_: harness.integrations.lightning.ReportCallback
  monitor: val/acc
"""
HYDRA_DEFAULT = """
run:
  dir: ${paths.log_dir}/${task_name}/runs/${now:%Y-%m-%d}_${now:%H-%M-%S}
sweep:
  dir: ${paths.log_dir}/${task_name}/multiruns/${now:%Y-%m-%d}_${now:%H-%M-%S}
  subdir: ${hydra.job.num}
job_logging:
  handlers:
    file:
      filename: ${hydra.runtime.output_dir}/${task_name}.log
"""
PATHS_DEFAULT = """
root_dir: ${oc.env:DIGITS_ROOT}
log_dir: ${paths.root_dir}/logs
output_dir: ${hydra:runtime.output_dir}
"""
SEARCH_OPTUNA = """
# @package _global_
defaults:
  - override /hydra/sweeper: optuna

optimized_metric: val/acc

hydra:
  mode: MULTIRUN
  sweeper:
    _target_: hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper
    storage: null
    study_name: null
    n_jobs: 1
    direction: maximize
    n_trials: 20
    sampler:
      _target_: optuna.samplers.TPESampler
      seed: 1234
      n_startup_trials: 10
    params:
      model.lr: tag(log, interval(0.0001, 1.0))
      model.hidden: choice(4, 8, 16)
"""
TRAIN_CONFIG = """
# @package _global_
defaults:
  - _self_
  - model: mlp
  - callbacks: default
  - trainer: cpu
  - paths: default
  - hydra: default
  - search: null

task_name: train
seed: 1
data:
  _target_: digits.model.DigitsData
  batch_size: ${double:${model.hidden}}
"""
TRAINER_CPU = """
_target_: lightning.Trainer
default_root_dir: ${paths.output_dir}
max_epochs: 6
accelerator: cpu
enable_checkpointing: false
enable_progress_bar: false
enable_model_summary: false
num_sanity_val_steps: 0
"""
MODEL = """
import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class DigitsData(lightning.LightningDataModule):
    def __init__(self, batch_size: int, n_examples: int = 256) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(n_examples, 8, generator=generator)
        labels = (inputs[:, :4].sum(dim=1) > 0).long()
        self._data, self._batch_size = TensorDataset(inputs, labels), batch_size

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self._data, batch_size=self._batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self._data, batch_size=256)


class DigitsModule(lightning.LightningModule):
    def __init__(self, lr: float, hidden: int) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(8, hidden), nn.ReLU(), nn.Linear(hidden, 2))

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        inputs, labels = batch
        return nn.functional.cross_entropy(self.net(inputs), labels)

    def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
        inputs, labels = batch
        self.log("val/acc", (self.net(inputs).argmax(dim=1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"])
"""
TRAIN = """
import logging
from dataclasses import dataclass
from typing import Any

import hydra
import lightning
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

log = logging.getLogger(__name__)
OmegaConf.register_resolver("double", lambda number: 2 * number, replace=True)


@dataclass
class ModelConfig:
    lr: float = 0.1
    hidden: int = 8
    _target_: str = "digits.model.DigitsModule"


ConfigStore.instance().store(group="model", name="mlp", node=ModelConfig)


def train(cfg: DictConfig) -> dict[str, Any]:
    lightning.seed_everything(cfg.seed)
    try:
        callbacks = [hydra.utils.instantiate(one) for one in cfg.callbacks.values()]
        trainer = hydra.utils.instantiate(cfg.trainer, callbacks=callbacks, logger=False)
        trainer.fit(hydra.utils.instantiate(cfg.model), hydra.utils.instantiate(cfg.data))
        return trainer.callback_metrics
    except Exception:
        log.exception("")
        raise
    finally:
        log.info("results are in %s", cfg.paths.output_dir)


@hydra.main(config_path="configs", config_name="train.yaml")
def main(cfg: DictConfig) -> float | None:
    metrics = train(cfg)
    return metrics[cfg.optimized_metric].item() if cfg.get("optimized_metric") else None


if __name__ == "__main__":
    main()
"""
FILES = {
    "digits/configs/callbacks/default.yaml": CALLBACKS_DEFAULT,
    "digits/configs/hydra/default.yaml": HYDRA_DEFAULT,
    "digits/configs/paths/default.yaml": PATHS_DEFAULT,
    "digits/configs/search/optuna.yaml": SEARCH_OPTUNA,
    "digits/configs/train.yaml": TRAIN_CONFIG,
    "digits/configs/trainer/cpu.yaml": TRAINER_CPU,
    "digits/model.py": MODEL,
    "digits/train.py": TRAIN,
}


def write_digits_app(folder: Path) -> None:
    """Write the package `digits`; its entry point is `python -m digits.train`."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text.lstrip())
    for package in ("digits", "digits/configs"):
        (folder / package / "__init__.py").touch()
