"""Result of a confirmation, and the file that holds it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.evidence.confirm.plan import ConfirmedConfig, ConfirmPlan, Evaluation
from harness.evidence.seed_runs import average_metric, run_to_json
from harness.record import metrics_file
from harness.sweep.seed_study import SeedRun

CONFIRM_FILE = "confirm.json"
SCHEMA = 1


@dataclass(frozen=True)
class SelectionGap:
    """The winner's curse: by how much the value that a configuration was chosen by is better than fresh seeds show.

    `selected` is that value, `validation` and `test` are means over fresh seeds; None where there is none.
    """

    name: str
    selected: float | None
    validation: float | None
    test: float | None

    @property
    def validation_gap(self) -> float | None:
        """Mean validation value of fresh seeds minus the selected value."""
        return None if self.selected is None or self.validation is None else self.validation - self.selected

    @property
    def test_gap(self) -> float | None:
        """Mean value on the test split minus that on the validation split."""
        return None if self.test is None or self.validation is None else self.test - self.validation


@dataclass(frozen=True)
class ConfirmResult:
    """A confirmation, as far as it has come.

    `study` is the sweep that the candidates come from, `command` that which runs the confirmation, and `commands` those
    that run each configuration.
    """

    study: str
    command: str
    plan: ConfirmPlan
    runs: Sequence[SeedRun]
    evaluation: Evaluation
    status: str
    reason: str
    commands: dict[str, str]

    @property
    def is_decided(self) -> bool:
        """True if every candidate has a verdict."""
        return all(one.name in self.evaluation.verdicts for one in self.plan.candidates)

    @property
    def tokens(self) -> int:
        return sum(run.tokens for run in self.runs)

    @property
    def seconds(self) -> float:
        return sum(run.seconds for run in self.runs)

    def list_gaps(self) -> list[SelectionGap]:
        return [self._measure_gap(config) for config in self.plan.configs.values()]

    def compute_mean(self, config: str, metric: str) -> float | None:
        """Return the mean of a metric over the completed runs of a configuration, None if there is none."""
        return average_metric(self.runs, config, metric)

    def _measure_gap(self, config: ConfirmedConfig) -> SelectionGap:
        validation = self.compute_mean(config.name, self.plan.objective)
        test = self.compute_mean(config.name, self.plan.metric) if self.plan.split == "test" else None
        return SelectionGap(config.name, config.selected_value, validation, test)


def write_confirm_result(folder: Path, result: ConfirmResult) -> None:
    """Write confirm.json to the folder of the confirmation."""
    metrics_file.write_json(folder / CONFIRM_FILE, result_to_json(result))


def result_to_json(result: ConfirmResult) -> dict[str, Any]:
    """Return the content of confirm.json; docs/confirming.md describes it."""
    plan = result.plan
    return {
        "schema": SCHEMA,
        "study": result.study,
        "command": result.command,
        "objective": plan.objective,
        "metric": plan.metric,
        "split": plan.split,
        "direction": plan.direction,
        "n_measured": plan.n_measured,
        "seeds": list(plan.seeds),
        "looks": list(plan.looks),
        "margin": plan.margin,
        "confidence": plan.confidence,
        "status": result.status,
        "reason": result.reason,
        "tokens": result.tokens,
        "seconds": result.seconds,
        "configs": [_config_to_json(result, config) for config in plan.configs.values()],
        "verdicts": [verdict.to_json() for verdict in result.evaluation.verdicts.values()],
        "gaps": [
            {**asdict(gap), "validation_gap": gap.validation_gap, "test_gap": gap.test_gap}
            for gap in result.list_gaps()
        ],
    }


def _config_to_json(result: ConfirmResult, config: ConfirmedConfig) -> dict[str, Any]:
    return {
        **asdict(config),
        "command": result.commands.get(config.name, ""),
        "runs": [run_to_json(run) for run in result.runs if run.config == config.name],
    }
