"""Decide an ablation again from the values of its runs, and compare with the effects that were recorded."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from harness.core.errors import ConfigError
from harness.evidence.ablation.changes import Change
from harness.evidence.ablation.effects import AblationEvaluation, evaluate_ablation
from harness.evidence.ablation.plan import BASELINE, WINNER, AblationPlan
from harness.evidence.confirm.plan import ConfirmedConfig
from harness.evidence.report.verdict_check import is_same_entry, read_seed_runs

REMEDY = "move its folder away and take the sweep apart again"
COMPARED = (
    "first", "second", "share", "share_formula", "status", "difference", "low", "high", "p", "n", "confidence",
    "diverged_baseline", "diverged_candidate", "is_shown", "is_synergy", "reason",
)  # fmt: skip
"""Keys of an effect or an interaction that are compared, as far as it has them."""


def check_effects(content: Mapping[str, Any]) -> AblationPlan:
    """Check the effects and interactions of an ablation.json against its runs, and return its plan.

    Raises:
        ConfigError: If one of them is not what its runs give, or the file is not one of an ablation.
    """
    try:
        plan = _read_plan(content)
        decided = _list_found(evaluate_ablation(plan, read_seed_runs(content)))
        recorded = _list_recorded(content)
        values = {str(config["name"]): config["values"] for config in content["configs"]}
        statuses = {bool(content["effects"]) and not any(effect["reason"] for effect in content["effects"])}
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ConfigError(f"ablation.json: not that of an ablation ({error}); {REMEDY}") from error
    if values != {name: dict(config.values) for name, config in plan.configs.items()}:
        raise ConfigError(f"ablation.json: configs: their values are not those that its changes make; {REMEDY}")
    if statuses != {content["status"] == "complete"}:
        raise ConfigError(f"ablation.json: status: {content['status']} is not what its effects say; {REMEDY}")
    for name in dict.fromkeys([*recorded, *decided]):
        if name not in recorded or name not in decided:
            raise ConfigError(f"ablation.json: {name}: is not what its runs give; {REMEDY}")
        for key in COMPARED:
            left, right = recorded[name].get(key), decided[name].get(key)
            if not is_same_entry(left, right):
                raise ConfigError(f"ablation.json: {name}: has {key} {left}, its runs give {right}; {REMEDY}")
    return plan


def _read_plan(content: Mapping[str, Any]) -> AblationPlan:
    configs = {
        str(config["name"]): ConfirmedConfig(str(config["name"]), dict(config["values"]), config["trial"])
        for config in content["configs"]
    }
    changes = [Change(str(one["name"]), dict(one["before"]), dict(one["after"])) for one in content["changes"]]
    if len(changes) < 2:
        raise ValueError(f"{len(changes)} changes")
    return AblationPlan(
        baseline=configs[BASELINE],
        winner=configs[WINNER],
        changes=tuple(changes),
        seeds=tuple(content["seeds"]),
        metric=content["metric"],
        split=content["split"],
        objective=content["objective"],
        direction=content["direction"],
        n_measured=content["n_measured"],
        confidence=float(content["confidence"]),
    )


def _list_found(found: AblationEvaluation) -> dict[str, Mapping[str, Any]]:
    effects = [*([found.gain] if found.gain else []), *found.effects]
    return dict(_name_entries([*(one.to_json() for one in effects), *map(asdict, found.interactions)]))


def _list_recorded(content: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    effects = [*([content["gain"]] if content["gain"] else []), *content["effects"]]
    return dict(_name_entries([*effects, *content["interactions"]]))


def _name_entries(entries: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for entry in entries:
        yield f"{entry.get('kind', 'interaction')} {entry['change']}".strip(), entry
