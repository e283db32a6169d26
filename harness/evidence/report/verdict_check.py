"""Decide a confirmation again from the values of its runs, and compare with the verdicts that were recorded."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.core.errors import ConfigError
from harness.evidence.confirm.plan import ConfirmedConfig, ConfirmPlan, evaluate_runs
from harness.sweep.seed_study import SeedRun

TOLERANCE = 1e-9
"""Relative difference for the order of additions."""
COMPARED = ("status", "difference", "low", "high", "p", "n")


def read_float(value: object) -> float | None:
    """Return a number that JSON may hold as text, such as "Infinity"; None where there is none."""
    try:
        return float(value)  # type: ignore[arg-type]  # TypeError for what is not a number
    except (TypeError, ValueError):
        return None


def check_verdicts(content: Mapping[str, Any]) -> None:
    """Check the verdicts of a confirm.json against its runs.

    Raises:
        ConfigError: If one of them is not what its runs give, or the file is not one of a confirmation.
    """
    try:
        decided = evaluate_runs(_read_plan(content), read_seed_runs(content)).verdicts
        recorded = {str(verdict["candidate"]): verdict for verdict in content["verdicts"]}
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ConfigError(f"confirm.json: not that of a confirmation ({error}); confirm the study again") from error
    for name in dict.fromkeys([*recorded, *decided]):
        if name not in recorded or name not in decided:
            raise ConfigError(f"confirm.json: {name}: its verdict and its runs do not match; confirm the study again")
        for key in COMPARED:
            left, right = recorded[name].get(key), getattr(decided[name], key)
            if not is_same_entry(left, right):
                problem = f"its verdict has {key} {left}, its runs give {right}"
                raise ConfigError(f"confirm.json: {name}: {problem}; confirm the study again")


def _read_plan(content: Mapping[str, Any]) -> ConfirmPlan:
    configs = [ConfirmedConfig(str(config["name"]), config["values"], config["trial"]) for config in content["configs"]]
    return ConfirmPlan(
        baseline=configs[0],
        candidates=tuple(configs[1:]),
        seeds=tuple(content["seeds"]),
        looks=tuple(content["looks"]),
        margin=content["margin"],
        metric=content["metric"],
        split=content["split"],
        objective=content["objective"],
        direction=content["direction"],
        n_measured=content["n_measured"],
        confidence=content["confidence"],
    )


def read_seed_runs(content: Mapping[str, Any]) -> list[SeedRun]:
    """Return the runs in the content of a confirm.json or an ablation.json."""
    return [
        SeedRun(
            config=str(config["name"]),
            seed=run["seed"],
            trial=run["trial"],
            status=run["status"],
            reason=str(run.get("reason", "")),
            values={metric: float(value) for metric, value in run["values"].items()},
            tokens=run["tokens"],
            seconds=run["seconds"],
            folder=Path(run["folder"]),
        )
        for config in content["configs"]
        for run in config["runs"]
    ]


def is_same_entry(left: object, right: object) -> bool:
    """Return whether two values are equal, numbers up to the order of additions."""
    numbers = read_float(left), read_float(right)
    if None in numbers:
        return left == right
    first, second = (number for number in numbers if number is not None)
    both_nan = math.isnan(first) and math.isnan(second)
    return both_nan or first == second or math.isclose(first, second, rel_tol=TOLERANCE, abs_tol=TOLERANCE * 1e-3)
