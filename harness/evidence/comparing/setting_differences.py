"""Settings, code and environment in which runs differ."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.core.component_keys import CLASS
from harness.core.effective_settings import PREFIX
from harness.core.formatting import format_lr
from harness.diagnosis.history import History
from harness.importers.metric_aliases import normalize_name

Kind = Literal["setting", "seed", "in effect", "code", "environment"]
CODE_KEYS = ("git.commit", "git.is_dirty")
ENVIRONMENT_SECTIONS = ("device", "parallel")
"""Sections of our configuration that choose the machine."""
OWN_BOOKKEEPING = (
    "name", "output_dir", "cache_dir", "tracking", "observers", "expect", "locked", "unlock", "preflight", "sweep",
    "sweeps", "pruner", "thresholds", "hydra", "experiment", "record_examples", "score_test", "loop.log_every",
    "loop.save_every", "loop.keep_checkpoints", "data.eval_batch_size", "data.digest", "data.validation_digest",
    "task.blimp",
)  # fmt: skip
"""Keys and sections of our configuration that say how a run is named, recorded and searched."""
FOREIGN_BOOKKEEPING = (
    "output_dir", "out_dir", "save_dir", "log_dir", "logging_dir", "logdir", "checkpoint_dir", "work_dir", "run_name",
    "name", "exp_name", "project", "wandb_project", "wandb_run_name", "report_to", "overwrite_output_dir",
    "disable_tqdm", "log_level", "log_level_replica", "push_to_hub", "save_steps", "save_strategy", "save_total_limit",
    "logging_steps", "logging_strategy", "logging_first_step", "log_interval", "log_every", "log_every_n_steps",
    "verbose", "hub_model_id", "hub_token", "hub_strategy",
)  # fmt: skip
"""The same of other programs, by the last part of their names."""
SEED_NAMES = ("seed", "random_seed", "manual_seed", "data_seed", "torch_seed", "random_state")
SHARED_FACTS = ("optimizer", "peak_lr", "schedule", "warmup_steps", "weight_decay", "grad_clip", "batch_size",
                "lora_rank", "total_steps")  # fmt: skip
"""Fields of `RunFacts` by which runs of different programs are compared."""
MIN_SHARED_KEYS = 0.5  # of the smaller set of settings; below it, two programs name their settings differently


@dataclass(frozen=True)
class SettingDifference:
    """A setting with its value in each run; None where a run does not have or record it."""

    key: str
    values: tuple[str | None, ...]
    kind: Kind


@dataclass(frozen=True)
class SettingComparison:
    """Differences between runs.

    Args:
        differences: Of all kinds.
        left_out: Keys that differ and say only how a run is named or recorded.
        unknown: Indices of the runs whose settings are not recorded.
        by_facts: Whether the runs name their settings differently, so that only known facts were compared.
    """

    differences: tuple[SettingDifference, ...]
    left_out: tuple[str, ...]
    unknown: tuple[int, ...]
    by_facts: bool

    def of_kind(self, *kinds: Kind) -> list[SettingDifference]:
        return [one for one in self.differences if one.kind in kinds]

    def list_changes(self, first: int, second: int) -> list[str]:
        """Return the settings that differ between two of the runs, without their seeds.

        The settings of a component count as one change together with its class: one who chooses another optimizer
        makes one choice.
        """
        keys = [one.key for one in self.of_kind("setting") if one.values[first] != one.values[second]]
        components = {key.removesuffix(f".{CLASS}") for key in keys if key.endswith(f".{CLASS}")}
        owners = (next((name for name in components if key.startswith(f"{name}.")), key) for key in keys)
        return list(dict.fromkeys(owners))

    def list_known_changes(self, first: int, second: int) -> list[str]:
        """Return the settings that are known of two of the runs, and differ."""
        found = ((one.key, one.values[first], one.values[second]) for one in self.of_kind("setting"))
        return [key for key, left, right in found if None not in (left, right) and left != right]

    def differ(self, first: int, second: int, kind: Kind) -> bool:
        """Return whether anything of a kind differs between two of the runs."""
        return any(one.values[first] != one.values[second] for one in self.of_kind(kind))


def is_seed_key(key: str) -> bool:
    """Return whether a setting, an option or a column of a table is a seed, by the last part of its name."""
    return normalize_name(re.split(r"[./]", key)[-1]) in SEED_NAMES


def compare_settings(histories: Sequence[History]) -> SettingComparison:
    """Compare the recorded settings of the runs by their keys, or known facts where programs name them differently."""
    recorded = [history.facts.settings for history in histories]
    by_facts = not _share_keys(recorded)
    settings = [_read_facts(history) if by_facts else values or {}
                for history, values in zip(histories, recorded, strict=True)]  # fmt: skip
    unknown = tuple(index for index, values in enumerate(settings) if by_facts and not values)
    differences, left_out = [], []
    for key, values in _find_differences(settings, unknown):
        if by_facts and len({*values} - {None}) < 2:
            continue
        kind = _find_kind(key)
        if kind is None:
            left_out.append(key)
        else:
            differences.append(SettingDifference(key, values, kind))
    provenance = [history.facts.provenance or {} for history in histories]
    without = tuple(index for index, values in enumerate(provenance) if not values)
    for key, values in _find_differences(provenance, without):
        differences.append(SettingDifference(key, values, "code" if key in CODE_KEYS else "environment"))
    return SettingComparison(tuple(differences), tuple(left_out), unknown, by_facts)


def _share_keys(settings: Sequence[Mapping[str, str] | None]) -> bool:
    """Return whether the settings of every run are recorded, under names that the first one has too.

    A trial without any ran its program as it stands.
    """
    known = [values.keys() for values in settings if values is not None]
    if len(known) < len(settings):
        return False
    first = known[0]
    return all(len(first & keys) >= MIN_SHARED_KEYS * min(len(first), len(keys)) for keys in known)


def _read_facts(history: History) -> dict[str, str]:
    facts = history.facts
    known = {name: getattr(facts, name) for name in SHARED_FACTS}
    lrs = history["train/lr"].values
    if known["peak_lr"] is None and len(lrs):
        known["peak_lr"] = float(lrs.max())
    texts = {name: format_lr(value) if name == "peak_lr" else f"{value}" for name, value in known.items() if value}
    return texts


def _find_differences(
    settings: Sequence[Mapping[str, str]], unknown: Sequence[int]
) -> Iterator[tuple[str, tuple[str | None, ...]]]:
    """Yield the keys whose values differ among the runs with known settings."""
    for key in dict.fromkeys(key for values in settings for key in values):
        found = tuple(values.get(key) for values in settings)
        if len({value for index, value in enumerate(found) if index not in unknown}) > 1:
            yield key, found


def _find_kind(key: str) -> Kind | None:
    """Return what a key decides; None if it says only how a run is named or recorded."""
    section, _, name = key.rpartition(".")
    if key.startswith(PREFIX):
        return "in effect"
    if is_seed_key(key):
        return "seed"
    if key.partition(".")[0] in ENVIRONMENT_SECTIONS:
        return "environment"
    if any(f"{key}.".startswith(f"{one}.") for one in OWN_BOOKKEEPING):
        return None
    return None if not section and name in FOREIGN_BOOKKEEPING else "setting"
