"""No point of a finite search space is run twice; continuous spaces are sampled as before."""

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from harness.sweep.study.distinct_sampler import find_tried_points
from tests.sweep.tiny_sweeps import TINY, make_result, read_tiny_request, serve_trials, start_study

SPACE = [*TINY, "lora=none", "sweeps=none", "~observers.mlflow", "pruner=none", "sweep.n_trials=24"]
FINITE = [*SPACE, "optimizer.lr=1e-4,1e-3,1e-2", "loop.grad_clip=range(0.1,0.5,0.1)", "batch.batch_size=range(4,7)"]
CONDITIONAL = [
    *(one for one in SPACE if one != "sweeps=none"),
    "optimizer=adamw,sgd",
    "schedule.warmup_ratio=0.0,0.1",
    "sweeps=mine",
]
CONDITIONAL_SPACE = """# @package _global_
sweep:
  conditional:
    optimizer=adamw: {optimizer.lr: '1e-3,1e-2,1e-1'}
    optimizer=sgd: {optimizer.momentum: '0.0,0.9'}
"""


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    monkeypatch.setenv("HARNESS_PROJECT_DIR", str(tmp_path))


def loss_of(trial: optuna.trial.Trial) -> float:
    return sum(hash(str(value)) % 100 for value in trial.params.values()) / 100


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsgaii"])
def test_two_points_are_two_trials(sampler: str, tmp_path: Path) -> None:
    overrides = [*SPACE, "optimizer.lr=1e-4,1e-2", f"output_dir={tmp_path}", f"hydra/sweeper/sampler={sampler}"]
    assert read_tiny_request(*overrides).budget.n_trials == 2
    trials = serve_trials(start_study(*overrides), loss_of)
    assert sorted(trial.params["optimizer.lr"] for trial in trials) == [0.0001, 0.01]


@pytest.mark.parametrize(("overrides", "n_points"), [(FINITE, 36), (CONDITIONAL, 10)])
def test_every_point_is_run_once(overrides: list[str], n_points: int, tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mine.yaml").write_text(CONDITIONAL_SPACE)
    folder = f"hydra.searchpath=['file://{tmp_path}']"
    overrides = [*overrides, "sweep.n_trials=99", f"output_dir={tmp_path}", "sweep.baseline=false", folder]
    request = read_tiny_request(*overrides)
    assert (request.n_points, request.budget.n_trials) == (n_points, n_points)
    queue = start_study(*overrides)
    trials = serve_trials(queue, lambda trial: 1.0)
    points = {tuple(sorted(request.space.to_trial_params(queue_values(trial)).items())) for trial in trials}
    assert len(trials) == len(points) == n_points
    assert len(find_tried_points(queue.study.trials)) == n_points


def queue_values(trial: optuna.trial.Trial) -> dict:
    return {name.partition(" @ ")[0]: value for name, value in trial.params.items()}


def test_baseline_outside_the_space_is_one_more_trial(tmp_path: Path) -> None:
    overrides = [*SPACE, "optimizer.lr=5e-3,1e-2", f"output_dir={tmp_path}"]
    assert read_tiny_request(*overrides).budget.n_trials == 3
    trials = serve_trials(start_study(*overrides), loss_of)
    assert trials[0].params == {}
    assert len(trials) == 3


def test_interrupted_and_failed_points(tmp_path: Path) -> None:
    """An interrupted point is run again as its own retry; a failed one is not."""
    overrides = [*SPACE, "optimizer.lr=1e-4,1e-2,1e-1", f"output_dir={tmp_path}"]
    queue = start_study(*overrides)
    first, second = queue.claim_trial(), queue.claim_trial()
    queue.finish_trial(first, make_result("interrupted"))
    queue.finish_trial(second, make_result("failed"))
    trials = serve_trials(queue, loss_of)
    assert trials[0].params == first.params
    assert second.params not in [trial.params for trial in trials]
    assert len(trials) == 2
    assert sum(trial.state == TrialState.COMPLETE for trial in queue.study.trials) == 2


def test_replacements_are_reproducible(tmp_path: Path) -> None:
    """A study that is resumed by another process proposes what an uninterrupted one would."""
    straight = serve_trials(start_study(*FINITE, f"output_dir={tmp_path / 'a'}"), lambda trial: 1.0)
    resumed = [*FINITE, f"output_dir={tmp_path / 'b'}"]
    halves = [trial for _ in range(4) for trial in serve_trials(start_study(*resumed), lambda trial: 1.0, count=6)]
    assert [trial.params for trial in halves] == [trial.params for trial in straight]


def test_continuous_space_is_sampled_without_the_wrapper(tmp_path: Path) -> None:
    request = read_tiny_request(*SPACE, "optimizer.lr=interval(0.1,0.2)", f"output_dir={tmp_path}")
    assert request.n_points is None
    assert request.budget.n_trials == 24
    assert type(request.spec.make_sampler()).__name__ == "ReproducibleSampler"
