"""The settings that make the trials of a study comparable, stored in the study so that any process can join it."""

import itertools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, cast

from optuna.pruners import BasePruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, GridSampler, QMCSampler, RandomSampler

from harness.config.targets import build_component
from harness.core.errors import ConfigError
from harness.sweep.space.search_space import SearchSpace
from harness.sweep.study.distinct_sampler import DistinctSampler
from harness.sweep.study.grid_sampler import GridOrderSampler
from harness.sweep.study.pausing import PausingPruner
from harness.sweep.study.rungs import FULL_RUN
from harness.sweep.study.sampler import ReproducibleSampler

Direction = Literal["minimize", "maximize"]
METRIC_SETTING = "metric"
"""Key in the config of programs whose objective is read from what they write: which metric, and where."""


@dataclass(frozen=True)
class StudySpec:
    """Plain data, stored as JSON.

    `program` is the kind of program that the trials run. Its settings go to the workers and are
    not stored: whoever can write to the storage must not choose what they run.
    `space` is a SearchSpace. `objectives` are names, and `directions` say for each whether it is minimized or
    maximized.
    `sampler` and `pruner` are `_target_` nodes. Nothing is pruned before `warmup_share` of a run, and rungs
    at which trials pause follow `rung_start`. `config` holds the settings that all trials share, by dotted key. `keep`
    is the number of best trials whose checkpoints are kept, None for all. Those of paused trials take at most
    `max_disk` bytes, None for half of the free space. Numbers are suggested with so many `digits`, None for all.
    """

    program: str
    space: Mapping[str, Any]
    custom_search_space: str | None
    objectives: Sequence[str]
    directions: Sequence[Direction]
    sampler: Mapping[str, Any]
    pruner: Mapping[str, Any]
    seed: int
    warmup_share: float
    keep: int | None
    config: Mapping[str, str]
    digits: int | None = None
    max_disk: int | None = None
    rung_start: float = 0.0

    def build_search_space(self) -> SearchSpace:
        return SearchSpace.from_json(self.space)

    @property
    def is_grid(self) -> bool:
        return str(self.sampler.get("_target_")).endswith(GridSampler.__name__)

    def make_sampler(self) -> BaseSampler:
        """Build the sampler.

        Raises:
            ConfigError: If the sampler does not take its options.
        """
        if str(self.sampler.get("_target_")).endswith("raise_motpe_removed"):
            raise ConfigError("hydra/sweeper/sampler=motpe: Optuna has removed it; use hydra/sweeper/sampler=tpe")
        study_seed = self.seed if self.sampler.get("seed") is None else self.sampler["seed"]
        space = self.build_search_space()
        if self.is_grid:
            return GridOrderSampler(ReproducibleSampler(RandomSampler, study_seed), space)
        options = {key: value for key, value in self.sampler.items() if key != "seed" and value is not None}
        if space.is_conditional and "group" in self.sampler:
            options |= {"group": True, "multivariate": True}
        factory = _resolve_factory("hydra.sweeper.sampler", options)
        make_sampler = partial(_make_trial_sampler, factory, study_seed, "seed" in self.sampler)
        try:
            sampler = ReproducibleSampler(make_sampler, study_seed, self.digits)
            is_finite = self.custom_search_space is None and space.count_points()
            return DistinctSampler(sampler, space, study_seed) if is_finite else sampler
        except (TypeError, ValueError) as error:
            raise ConfigError(f"hydra.sweeper.sampler: {error}") from error

    def make_pruner(self) -> BasePruner:
        """Build the pruner.

        Raises:
            ConfigError: If the pruner does not take its options.
        """
        options = {"start": self.rung_start, **self.pruner} if self.is_pausing else self.pruner
        try:
            return _resolve_factory("pruner", options)()
        except (TypeError, ValueError) as error:
            raise ConfigError(f"pruner: {error}") from error

    def list_rungs(self) -> tuple[float, ...]:
        """Return the shares of a run at which the pruner wants a value; empty if it has no rungs."""
        if self.is_pausing:
            return cast(PausingPruner, self.make_pruner()).shares
        is_halving = str(self.pruner.get("_target_")).endswith(SuccessiveHalvingPruner.__name__)
        if not is_halving or not isinstance(self.pruner.get("min_resource"), int):
            return ()
        steps = itertools.accumulate(itertools.repeat(self.pruner.get("reduction_factor", 4)), operator.mul,
                                     initial=self.pruner["min_resource"])  # fmt: skip
        return tuple(step / FULL_RUN for step in itertools.takewhile(lambda step: step < FULL_RUN, steps))

    @property
    def is_pausing(self) -> bool:
        return str(self.pruner.get("_target_")).endswith(PausingPruner.__name__)

    def describe_changes(self, old: "StudySpec") -> list[str]:
        """Return a line for each difference that makes trials of the two specs incomparable."""
        ranges, old_ranges = self.build_search_space().format_ranges(), old.build_search_space().format_ranges()
        objectives, old_objectives = ({"objectives": spec._describe_objectives()} for spec in (self, old))
        return [
            *_format_changes("space", old_ranges, ranges),
            *_format_changes("sweep", {"program": old.program}, {"program": self.program}),
            *_format_changes("sweep", old_objectives, objectives),
            *_format_changes("config", old.config, self.config),
        ]

    def differs_in_metric_only(self, old: "StudySpec") -> bool:
        """Return whether the two specs differ at most in the names of the objectives and where they are read."""
        known = {key: self.config[key] for key in (METRIC_SETTING,) if key in self.config}
        renamed = replace(old, objectives=self.objectives, config={**old.config, **known})
        return list(self.directions) == list(old.directions) and not self.describe_changes(renamed)

    def _describe_objectives(self) -> str:
        pairs = zip(self.objectives, self.directions, strict=True)
        return ", ".join(f"{name} ({direction}d)" if direction == "maximize" else name for name, direction in pairs)


def _make_trial_sampler(factory: partial[Any], study_seed: int, is_seeded: bool, trial_seed: int) -> BaseSampler:
    if not is_seeded:
        return factory()
    # The study stores the position in the quasi-random sequence, which only one seed continues.
    return factory(seed=study_seed if factory.func is QMCSampler else trial_seed)


def _resolve_factory(key: str, options: Mapping[str, Any]) -> partial[Any]:
    """Return the factory of a sampler or pruner with its options bound."""
    try:
        return cast(partial[Any], build_component({**options, "_partial_": True}, tuple(key.split("."))))
    except (TypeError, ValueError) as error:  # raised by a component among the options
        raise ConfigError(f"{key}: {error}") from error


def _format_changes(section: str, old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return [f"  {section} {key}: {old.get(key, 'nothing')} -> {new.get(key, 'nothing')}" for key in sorted(keys)]
