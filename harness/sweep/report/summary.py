"""What a study has come to: its trials as plain facts, and what may be said of them."""

import math
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from harness.sweep.report.boundaries import BoundaryHit, find_boundary_hit
from harness.sweep.report.importance import compute_importances, find_idle_params
from harness.sweep.space.search_space import trial_values
from harness.sweep.study.trial_attrs import BASELINE, OUT_OF_SPACE_VALUES, RESULT, RETRY_OF, STUDY_SPEC
from harness.tracking.store_uri import hide_credentials

Status = Literal["queued", "running", "completed", "pruned", "diverged", "failed", "interrupted"]
STATUSES: tuple[Status, ...] = ("completed", "pruned", "diverged", "failed", "interrupted", "running", "queued")
MEASURED = ("completed", "pruned", "diverged")
"""How trials end that were measured: the ones among which the best is the best."""


@dataclass(frozen=True)
class TrialSummary:
    """One trial. `values` are the objectives', or of one that runs or was pruned, the last that was reported; `share`
    of the run is in percent, instants are in seconds since the epoch."""

    number: int
    status: Status
    values: tuple[float, ...] | None
    params: Mapping[str, Any]
    percent_done: int
    seconds: float | None
    tokens: int
    reason: str
    retry_of: int | None
    is_baseline: bool
    best_step: int | None
    folder: str
    started_at: float | None
    ended_at: float | None

    @property
    def is_retry(self) -> bool:
        return self.retry_of is not None

    @property
    def is_over(self) -> bool:
        return self.status not in ("queued", "running")


@dataclass(frozen=True)
class SweepSummary:
    """What a sweep has come to. `importances` are by Optuna's names, those of conditional parameters included, and
    were read from `completed` trials, as was `idle`: the parameters that hardly matter as far as these show."""

    study: str
    objectives: tuple[str, ...]
    n_trials: int
    trials: tuple[TrialSummary, ...]
    best_trials: tuple[TrialSummary, ...]
    importances: Mapping[str, float]
    idle_params: tuple[str, ...]
    boundary_hits: tuple[BoundaryHit, ...]
    fixed: tuple[str, ...]

    @property
    def counts(self) -> dict[Status, int]:
        return count_statuses(self.trials)

    @property
    def best_trial(self) -> TrialSummary | None:
        """The best trial of one objective; of several there is only a front."""
        return self.best_trials[0] if self.best_trials and len(self.objectives) == 1 else None

    @property
    def baseline(self) -> TrialSummary | None:
        return find_baseline(self.trials)

    @property
    def n_measured(self) -> int:
        """How many trials were measured, the best among them."""
        return sum(self.counts[status] for status in MEASURED)

    @property
    def n_completed(self) -> int:
        return self.counts["completed"]

    @property
    def tokens(self) -> int:
        return sum(trial.tokens for trial in self.trials)

    @property
    def seconds(self) -> float:
        return sum(trial.seconds or 0.0 for trial in self.trials)

    @property
    def best_command(self) -> str:
        """The best trial, ready to paste; empty where there is none."""
        return format_run_command(self.fixed, self.best_trial.params) if self.best_trial else ""


def summarize_trials(study: Study) -> list[TrialSummary]:
    """Every trial of the study, by number."""
    return [_summarize_trial(trial) for trial in study.get_trials(deepcopy=False)]


def summarize_study(
    study: Study, n_trials: int, fixed: Iterable[str] = (), *, with_importances: bool = True
) -> SweepSummary:
    """The study so far, of `n_trials` asked; `fixed` are the overrides that every trial had.

    Without `weigh` no importances: they take a second or two where there are hundreds of trials.
    """
    trials, objectives = tuple(summarize_trials(study)), tuple(read_objectives(study))
    best = tuple(find_best_trials(trials))
    leader = study.get_trials(deepcopy=False)[best[0].number] if best and len(objectives) == 1 else None
    found = (
        [find_boundary_hit(name, leader.params[name], leader.distributions[name]) for name in leader.params]
        if leader
        else []
    )
    weights = compute_importances(study) if with_importances else {}
    return SweepSummary(
        study=study.study_name,
        objectives=objectives,
        n_trials=n_trials,
        trials=trials,
        best_trials=best,
        importances=weights,
        idle_params=tuple(find_idle_params(study, weights)),
        boundary_hits=tuple(one for one in found if one),
        fixed=tuple(fixed),
    )


def optimization_results(study: Study) -> dict[str, Any]:
    """The content of optimization_results.yaml: the stock sweeper's, and the trials' numbers."""
    best = find_best_trials(summarize_trials(study))
    if len(study.directions) > 1:
        solutions = [{"params": dict(one.params), "values": list(one.values), "number": one.number} for one in best]
        return {"name": "optuna", "solutions": solutions}
    if not best:
        return {"name": "optuna", "best_params": {}, "best_value": None, "best_trial": None}
    found = best[0]
    value = found.values[0]
    return {"name": "optuna", "best_params": dict(found.params), "best_value": value, "best_trial": found.number}


def summary_to_json(summary: SweepSummary, status: str, ended_at_ms: int | None = None) -> dict[str, Any]:
    """The content of summary.json. History has an entry a measured trial, in the order in which they ended, so that
    what was written once stays as it was; of several objectives it follows the first."""
    whole = summary.baseline if summary.baseline and summary.baseline.status == "completed" else None
    metrics = {
        **_loss_metric("sweep/best_val_loss", _lowest_loss_trial(summary.best_trials)),
        **_loss_metric("sweep/baseline_val_loss", whole),
        "sweep/tokens": summary.tokens,
        "sweep/seconds": summary.seconds,
        **{f"sweep/trials.{name}": number for name, number in summary.counts.items()},
    }
    history, best = [], None
    for trial in sorted((trial for trial in summary.trials if trial.is_over), key=lambda trial: trial.ended_at):
        best = _lowest_loss_trial([found for found in (best, trial) if found and found.status == "completed"])
        row = _loss_metric("sweep/val_loss", trial) | _loss_metric("sweep/best_val_loss", best)
        if row:
            history.append([trial.number, row, round(1000 * trial.ended_at)])
    tags = {"study": summary.study, "status": status, **_best_tags(summary)}
    return {"status": status, "ended_at_ms": ended_at_ms, "metrics": metrics, "tags": tags, "history": history}


def read_objectives(study: Study) -> list[str]:
    """What the study minimises, as its plan says."""
    return list(study.user_attrs.get(STUDY_SPEC, {}).get("objectives", ["best_val_loss"]))


def find_best_trials(trials: Iterable[TrialSummary]) -> list[TrialSummary]:
    """The completed trials of which none other is as good in every objective and better in one; the first is the best
    in the first objective. Of one objective, only the best, the earliest where several are."""
    found: list[TrialSummary] = []
    finite = [trial for trial in trials if trial.status == "completed" and all(map(math.isfinite, trial.values))]
    for trial in sorted(finite, key=lambda trial: (trial.values, trial.number)):
        if not any(_is_dominated(trial.values, other.values) for other in found):
            found.append(trial)
    return found[:1] if found and len(found[0].values) == 1 else found


def find_baseline(trials: Iterable[TrialSummary]) -> TrialSummary | None:
    """The trial of the present configuration; where it was retried, the one that was measured."""
    found = [trial for trial in trials if trial.is_baseline]
    return next((trial for trial in found if trial.status == "completed"), found[-1] if found else None)


def count_statuses(trials: Iterable[TrialSummary]) -> dict[Status, int]:
    """Trials by status, every status named."""
    return dict.fromkeys(STATUSES, 0) | Counter(trial.status for trial in trials)


def format_run_command(fixed: Iterable[str], params: Mapping[str, Any]) -> str:
    """`python run.py` with these overrides, quoted for Hydra and for the shell, choices of groups first."""
    words = [*map(hide_credentials, fixed), *(format_override(key, value) for key, value in params.items())]
    words.sort(key=lambda word: "." in word.partition("=")[0])
    return shlex.join(["python", "run.py", *words])


def format_override(key: str, value: Any) -> str:
    """The override that gives `key` this value; a text that Hydra would read as something else is quoted."""
    text = "null" if value is None else str(value)
    if isinstance(value, str):
        try:
            is_plain = not OverridesParser.create().parse_override(f"{key}={value}").is_sweep_override()
        except HydraException:
            is_plain = False
        text = value if is_plain else QuotedString(value, Quote.single).with_quotes()
    return f"{key}={text}"


def objective_label(objective: str) -> str:
    """The objective as a column is headed."""
    return objective.removeprefix("best_").replace("_", " ")


def shorten_keys(keys: Iterable[str]) -> dict[str, str]:
    """The last parts of dotted keys, as few as tell them apart."""
    parts = {key: key.split(".") for key in keys}

    def shortest(key: str) -> str:
        for size in range(1, len(parts[key])):
            if sum(other[-size:] == parts[key][-size:] for other in parts.values()) == 1:
                return ".".join(parts[key][-size:])
        return key

    return {key: shortest(key) for key in parts}


def _summarize_trial(trial: FrozenTrial) -> TrialSummary:
    attrs = trial.user_attrs
    result = attrs.get(RESULT, {})
    status = _trial_status(trial, result.get("status"))
    last = trial.last_step
    values = trial.values if last is None or trial.values else [trial.intermediate_values[last]]
    return TrialSummary(
        number=trial.number,
        status=status,
        values=tuple(values) if values and status in ("completed", "pruned", "running") else None,
        params=trial_values(trial),
        percent_done=100 if status == "completed" else last or 0,
        seconds=result.get("seconds"),
        tokens=result.get("tokens", 0),
        reason=result.get("reason", "its worker died" if status == "failed" else ""),
        retry_of=attrs.get(RETRY_OF),
        is_baseline=BASELINE in attrs or OUT_OF_SPACE_VALUES in attrs,
        best_step=result.get("best_step"),
        folder=result.get("folder", ""),
        started_at=trial.datetime_start.timestamp() if trial.datetime_start else None,
        ended_at=trial.datetime_complete.timestamp() if trial.datetime_complete else None,
    )


def _trial_status(trial: FrozenTrial, told: str | None) -> Status:
    match trial.state:
        case TrialState.PRUNED:
            return "diverged" if told == "diverged" or trial.constraints.get("diverged", 0) > 0 else "pruned"
        case TrialState.FAIL:
            return "interrupted" if told == "interrupted" else "failed"
        case state:
            return {TrialState.COMPLETE: "completed", TrialState.RUNNING: "running"}.get(state, "queued")


def _is_dominated(values: Sequence[float], others: Sequence[float]) -> bool:
    return others != values and all(other <= value for value, other in zip(values, others, strict=True))


def _lowest_loss_trial(trials: Iterable[TrialSummary]) -> TrialSummary | None:
    return min(trials, key=lambda trial: trial.values[0], default=None)


def _loss_metric(name: str, trial: TrialSummary | None) -> dict[str, float]:
    return {name: trial.values[0]} if trial and trial.values and math.isfinite(trial.values[0]) else {}


def _best_tags(summary: SweepSummary) -> dict[str, str]:
    if summary.best_trial is None:
        return (
            {"best_trials": ",".join(str(trial.number) for trial in summary.best_trials)} if summary.best_trials else {}
        )
    best = {f"best.{key}": str(value) for key, value in summary.best_trial.params.items()}
    found = {"best_trial": str(summary.best_trial.number), "best_folder": summary.best_trial.folder, **best}
    return found | {"chosen_from": str(summary.n_measured), "best.command": summary.best_command}
