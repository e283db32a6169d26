"""Read what a rescue of our own training is asked to do."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from harness.config.alternatives import read_given_settings
from harness.config.compose import NON_TRAINING_KEYS, compose_config, contains_key, has_key
from harness.config.locks import check_locked
from harness.config.overrides import SWEEP_ONLY_KEYS, check_no_credentials, list_swept_keys, read_override_key
from harness.config.user_paths import make_overrides_absolute, make_paths_absolute
from harness.config.validation import check_writable, validate_config
from harness.core.credentials import hide_credentials
from harness.core.errors import ConfigError
from harness.run.notices import describe_choices
from harness.run.reproduce import SEARCH_PATH_KEY, reproduce_named_overrides
from harness.run.unseen_test import check_test_unseen
from harness.sweep.programs.training.followup_sweep import check_diagnosable
from harness.sweep.programs.training.request import check_preflight_mode
from harness.sweep.request import check_not_torchrun
from harness.sweep.study.storage import absolute_storage_url

RESCUES_FOLDER = "rescues"
SWEEP_OPTIONS = ("n_jobs", "max_seconds", "patience", "max_failures", "keep", "storage")
"""Options of a sweep that a user may set; a rescue sets the others itself."""
SWEEPER_KEYS = ("hydra/sweeper/sampler", "hydra.sweeper.sampler")
FREE_WITH_RUN = (*(key for key in NON_TRAINING_KEYS if key not in ("name", "locked")), "device")
"""Settings that do not change the training, so that they may differ from those of a recorded run."""
OF_THIS_COMMAND = ("device", "tracking", "output_dir", "cache_dir", "observers")
"""Settings that a recorded run does not decide: somebody else may have recorded it, on another machine."""
RESTART_KEY = "start.restart_schedule"
TEST_SHARE, TEST_KEYS = "data.test_share=0.1", ("data.test_share", "data.test")


@dataclass(frozen=True)
class TrainingRescue:
    """A rescue of our own training.

    `overrides` are those of the baseline, which is the configuration as it is, and `sweep_overrides` what only a sweep
    reads. `run` is the folder of the recorded run to diagnose; without one, the baseline is run. The best `top` trials
    are confirmed on `seeds` fresh seeds. `notices` are for the user.
    """

    overrides: tuple[str, ...]
    sweep_overrides: tuple[str, ...]
    run: Path | None
    budget_runs: int
    top: int
    seeds: int
    folder: Path
    notices: tuple[str, ...]

    @property
    def inputs(self) -> dict[str, Any]:
        """Inputs that may not change while a rescue goes on."""
        return {
            "overrides": [hide_credentials(override) for override in self.overrides],
            "run": str(self.run) if self.run else None,
            "budget_runs": self.budget_runs,
            "top": self.top,
            "seeds": self.seeds,
        }

    @property
    def public_overrides(self) -> list[str]:
        """The overrides for commands that are printed or recorded."""
        return [hide_credentials(override) for override in self.overrides]

    def read_tracking_store(self) -> str | None:
        """Return the address of the MLflow store in the configuration, None for the default one."""
        return self.compose_config().tracking.uri

    def read_storage(self) -> str | None:
        """Return the address of the study's database, None for a journal."""
        storage = read_given_settings(self.sweep_overrides).get("sweep.storage")
        return None if storage is None else absolute_storage_url(str(storage))

    def compose_config(self) -> DictConfig:
        """Compose the baseline, with what only a sweep reads."""
        return compose_config([*self.overrides, *(one for one in self.sweep_overrides if not one.startswith("hydra"))])


def read_training_rescue(
    given: Sequence[str], run: Path | None, folder: Path | None, *, budget_runs: int, top: int, seeds: int
) -> TrainingRescue:
    """Return the rescue of the configuration that the overrides `given` compose, or of the recorded `run`.

    Raises:
        ConfigError: If it cannot be run; nothing is written then.
    """
    check_not_torchrun("plateau rescue")
    if budget_runs < 1:
        raise ConfigError(f"--budget-runs: {budget_runs} must be at least 1")
    if swept := list_swept_keys(given):
        raise ConfigError(
            f"{swept[0]}: has several values, and rescue chooses what is searched; give one value, or search your own "
            "ranges with -m"
        )
    training = [one for one in given if _find_root(one) not in (*SWEEP_ONLY_KEYS, "hydra") or _is_search_path(one)]
    sweep_overrides = [one for one in given if one not in training]
    _check_sweep_options(sweep_overrides)
    check_preflight_mode(str(read_given_settings(sweep_overrides).get("preflight", "stop")))
    if run is not None:
        check_diagnosable(run, "RUN")
        _check_unchanged_training(training)
        search_path = [one for one in training if _is_search_path(one)]
        recorded = reproduce_named_overrides(run, search_path)
        training = [*_without_keys(recorded, [*OF_THIS_COMMAND, *map(read_override_key, training)]), *training]
    overrides, notices = _complete_overrides(training)
    cfg = compose_config(overrides)
    output_dir = validate_config(cfg).output_dir
    folder = folder or output_dir / RESCUES_FOLDER / _default_name(cfg, overrides, run)
    return TrainingRescue(
        overrides=tuple(overrides),
        sweep_overrides=tuple(sweep_overrides),
        run=run.absolute() if run else None,
        budget_runs=budget_runs,
        top=top,
        seeds=seeds,
        folder=check_writable("--to", folder.absolute()),
        notices=(*notices, *describe_choices(cfg, overrides)),
    )


def _complete_overrides(training: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return overrides with absolute paths and what a rescue needs, and notes on what was added."""
    cfg = compose_config(training)
    overrides = make_overrides_absolute(training, *make_paths_absolute(cfg))
    for override in overrides:
        check_no_credentials(override, "the rescue")
    check_locked(cfg, overrides)
    validate_config(cfg)
    given, (overrides, notes) = read_given_settings(overrides), _hold_out_test(cfg, overrides)
    if cfg.start.kind == "resume" and not cfg.start.get("restart_schedule", False):
        if RESTART_KEY in given:
            raise ConfigError(
                f"{RESTART_KEY}: {given[RESTART_KEY]}: every trial would inherit the best loss of the resumed run; "
                f"use {RESTART_KEY}=true"
            )
        overrides.append(f"{RESTART_KEY}=true")
        notes.append(f"{RESTART_KEY}=true is set, because otherwise every trial would inherit the best loss")
    return overrides, notes


def _hold_out_test(cfg: DictConfig, overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return overrides with a test split, if that is possible, and a note on it: the claim needs unseen data."""
    if any(OmegaConf.select(cfg, key) is not None for key in TEST_KEYS):
        return [*overrides], []
    unseen = "the claim will be about the validation data, on which the sweep chooses"
    if not has_key(cfg, TEST_KEYS[0]) or TEST_KEYS[0] in read_given_settings(overrides):
        return [*overrides], [f"the data has no test split, so {unseen}"]
    changed = [*overrides, TEST_SHARE]
    try:
        composed = compose_config(changed)
        check_locked(composed, [TEST_SHARE])
        check_test_unseen(composed, validate_config(composed))
    except ConfigError as error:
        return [*overrides], [f"no test split is set aside, so {unseen} ({error})"]
    return changed, [f"{TEST_SHARE} sets a tenth of the data aside, since the claim needs data that no trial sees"]


def _check_sweep_options(overrides: Sequence[str]) -> None:
    """Check that a rescue leaves these options of a sweep to the user."""
    for key in read_given_settings(overrides):
        root, _, name = key.partition(".")
        is_free = root in ("preflight", "pruner") or (root == "sweep" and name in SWEEP_OPTIONS)
        if not (is_free or any(contains_key(free, key) for free in SWEEPER_KEYS)):
            raise ConfigError(
                f"{key}: rescue sets it itself; of a sweep's options it takes preflight, pruner, "
                f"hydra/sweeper/sampler and sweep.{', sweep.'.join(SWEEP_OPTIONS)}"
            )


def _check_unchanged_training(overrides: Sequence[str]) -> None:
    """Check that overrides beside a RUN do not change its training."""
    for override in overrides:
        key = read_override_key(override)
        if key.partition(".")[0].partition("/")[0] not in FREE_WITH_RUN and not _is_search_path(override):
            raise ConfigError(
                f"{override}: RUN has its own settings; leave it out, or rescue the changed configuration: "
                "plateau rescue OVERRIDES"
            )


def _without_keys(overrides: Iterable[str], keys: Iterable[str]) -> list[str]:
    replaced = [*keys]
    return [one for one in overrides if not any(contains_key(key, read_override_key(one)) for key in replaced)]


def _find_root(override: str) -> str:
    return re.split("[/.]", read_override_key(override))[0]


def _is_search_path(override: str) -> bool:
    return read_override_key(override) == SEARCH_PATH_KEY


def _default_name(cfg: DictConfig, overrides: Sequence[str], run: Path | None) -> str:
    """Return the name of the run, or that of the configuration with a digest of the overrides."""
    if run is not None:
        return run.name if not run.name.isdecimal() else f"{run.parent.name}_{run.name}"
    name = str(cfg.name) if has_key(cfg, "name") and cfg.name else "default"
    plain = re.sub(r"[^\w.+-]", "_", name)
    own = [hide_credentials(one) for one in overrides if one not in (f"experiment={name}", TEST_SHARE)]
    return f"{plain}-{hashlib.sha256(chr(10).join(own).encode()).hexdigest()[:6]}" if own else plain
