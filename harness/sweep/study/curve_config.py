"""The sampler of partial curves as a choice of hydra/sweeper/sampler, beside those of hydra-optuna-sweeper."""

from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra_plugins.hydra_optuna_sweeper.config import SamplerConfig


@dataclass
class CurveSamplerConf(SamplerConfig):
    """Arguments of harness.sweep.study.curve_sampler.CurveSampler."""

    _target_: str = "harness.sweep.study.curve_sampler.CurveSampler"
    seed: int | None = None
    n_startup_trials: int = 8


ConfigStore.instance().store(
    group="hydra/sweeper/sampler", name="curve", node=CurveSamplerConf, provider="plateau-harness"
)
