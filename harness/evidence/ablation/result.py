"""Result of an ablation, and the file that holds it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.evidence.ablation.effects import AblationEvaluation
from harness.evidence.ablation.plan import AblationPlan
from harness.evidence.seed_runs import average_metric, run_to_json
from harness.record import metrics_file
from harness.sweep.seed_study import SeedRun

ABLATION_FILE = "ablation.json"
SCHEMA = 1


@dataclass(frozen=True)
class AblationResult:
    """An ablation, as far as it has come.

    `study` is the sweep that the winner comes from, and `commands` those that run each configuration.
    """

    study: str
    plan: AblationPlan
    runs: Sequence[SeedRun]
    evaluation: AblationEvaluation
    status: str
    reason: str
    commands: Mapping[str, str]

    @property
    def tokens(self) -> int:
        return sum(run.tokens for run in self.runs)

    @property
    def seconds(self) -> float:
        return sum(run.seconds for run in self.runs)

    def count_diverged(self, config: str) -> tuple[int, int]:
        """Return how many runs of a configuration diverged, and how many are over."""
        ended = [run for run in self.runs if run.config == config and run.is_over]
        return sum(run.status == "diverged" for run in ended), len(ended)


def write_ablation_result(folder: Path, result: AblationResult) -> None:
    """Write ablation.json to the folder of the ablation."""
    metrics_file.write_json(folder / ABLATION_FILE, ablation_to_json(result))


def ablation_to_json(result: AblationResult) -> dict[str, Any]:
    """Return the content of ablation.json; docs/ablation.md describes it."""
    plan, found = result.plan, result.evaluation
    return {
        "schema": SCHEMA,
        "study": result.study,
        "objective": plan.objective,
        "metric": plan.metric,
        "split": plan.split,
        "direction": plan.direction,
        "n_measured": plan.n_measured,
        "seeds": list(plan.seeds),
        "confidence": plan.confidence,
        "status": result.status,
        "reason": result.reason,
        "tokens": result.tokens,
        "seconds": result.seconds,
        "changes": [asdict(change) for change in plan.changes],
        "configs": [
            {
                **asdict(config),
                "name": name,
                "command": result.commands.get(name, ""),
                "mean": average_metric(result.runs, name, plan.metric),
                "runs": [run_to_json(run) for run in result.runs if run.config == name],
            }
            for name, config in plan.configs.items()
        ],
        "gain": found.gain.to_json() if found.gain else None,
        "effects": [effect.to_json() for effect in found.effects],
        "interactions": [asdict(interaction) for interaction in found.interactions],
    }
