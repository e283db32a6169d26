"""What makes the trials of a study comparable, kept in the study itself, so that any process can join it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from hydra.utils import instantiate
from omegaconf import OmegaConf
from optuna.pruners import BasePruner
from optuna.samplers import GridSampler, QMCSampler, RandomSampler

from harness.config.errors import ConfigError
from harness.config.targets import check_arguments
from harness.sweep.space.search_space import SearchSpace, read_search_space
from harness.sweep.study.sampler import ReproducibleSampler

TRUSTED_TARGETS = ("optuna.samplers.*", "optuna.pruners.*", "hydra_plugins.hydra_optuna_sweeper.*")


@dataclass(frozen=True)
class StudySpec:
    """Plain data. `params` and `conditional` are ranges in Hydra's sweep syntax, `arguments` the command line,
    `choices` the option of every group, `config` what every trial has, by dotted key."""

    params: Mapping[str, Any]
    arguments: Sequence[str]
    conditional: Mapping[str, Mapping[str, Any]]
    custom_search_space: str | None
    choices: Mapping[str, str]
    objectives: Sequence[str]
    sampler: Mapping[str, Any]
    pruner: Mapping[str, Any]
    seed: int
    warmup_share: float
    keep: int
    config: Mapping[str, str]

    def build_search_space(self) -> SearchSpace:
        return read_search_space(self.params, self.arguments, self.conditional, self.choices)

    @property
    def is_grid(self) -> bool:
        return str(self.sampler.get("_target_")).endswith(GridSampler.__name__)

    def make_sampler(self) -> ReproducibleSampler:
        """The sampler, made anew for every trial; ConfigError for options that it does not take."""
        seed = self.seed if self.sampler.get("seed") is None else self.sampler["seed"]
        if self.is_grid:  # all is enqueued, nothing is sampled
            return ReproducibleSampler(RandomSampler, seed)
        options = {key: value for key, value in self.sampler.items() if key != "seed" and value is not None}
        if self.build_search_space().is_conditional and "group" in self.sampler:
            options |= {"group": True, "multivariate": True}
        make = _resolve_factory("hydra.sweeper.sampler", options)
        takes_seed = "seed" in self.sampler
        is_fixed = make.func is QMCSampler  # its sequence is kept in the study, and is one only under one seed
        try:
            return ReproducibleSampler(
                lambda anew: make(seed=seed if is_fixed else anew) if takes_seed else make(), seed
            )
        except (TypeError, ValueError) as error:
            raise ConfigError(f"hydra.sweeper.sampler: {error}") from error

    def make_pruner(self) -> BasePruner:
        try:
            return _resolve_factory("pruner", self.pruner)()
        except (TypeError, ValueError) as error:
            raise ConfigError(f"pruner: {error}") from error

    def describe_changes(self, other: "StudySpec") -> list[str]:
        """A line for each thing in which this plan's trials cannot be compared with those of `other`, an older one."""
        lines = _format_changes(
            "space", other.build_search_space().format_ranges(), self.build_search_space().format_ranges()
        )
        lines += _format_changes("sweep", *({"objectives": ", ".join(plan.objectives)} for plan in (other, self)))
        return lines + _format_changes("config", other.config, self.config)


def _resolve_factory(key: str, options: Mapping[str, Any]) -> partial:
    """What makes a sampler or pruner; ConfigError for options that it does not take."""
    node = OmegaConf.create({**options, "_partial_": True})
    try:
        make = instantiate(node, _execution_whitelist_=TRUSTED_TARGETS)
    except Exception as error:
        raise ConfigError(f"{key}: {str(error.__cause__ or error).partition(chr(10))[0]}") from error
    check_arguments(key, node, make.func)
    return make


def _format_changes(what: str, before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return [f"  {what} {key}: {before.get(key, 'nothing')} -> {now.get(key, 'nothing')}" for key in sorted(keys)]
