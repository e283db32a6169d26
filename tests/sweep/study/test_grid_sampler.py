"""Grids: every point once, in order, for as many trials as were asked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import Trial

from harness.sweep.options import SweepOptions
from harness.sweep.request import plan_budget
from harness.sweep.study.budget import Budget
from harness.sweep.study.trial_queue import TrialQueue
from tests.sweep.study.test_spec import make_spec
from tests.sweep.tiny_sweeps import make_result, serve_trials

SPEC = make_spec("seed=1,2,3", "optimizer=adamw,sgd", sampler="grid")
POINTS = [{"seed": seed, "optimizer": optimizer} for seed in (1, 2, 3) for optimizer in ("adamw", "sgd")]


def make_queue(folder: Path, n_trials: int = 6, **options: Any) -> TrialQueue:
    study = optuna.create_study(study_name="grid", sampler=SPEC.make_sampler())
    queue = TrialQueue(study, SPEC.build_search_space(), folder, **options)
    queue.set_budget(Budget(n_trials))
    return queue


def serve_points(queue: TrialQueue) -> list[Mapping[str, Any]]:
    return [trial.params for trial in serve_trials(queue, lambda trial: 1.0)]


def test_n_trials_ends_a_grid_and_a_larger_one_continues_it(tmp_path) -> None:
    queue = make_queue(tmp_path, 2)
    assert serve_points(queue) == POINTS[:2]
    queue.set_budget(Budget(1))
    assert serve_points(queue) == []
    queue.set_budget(Budget(6))
    assert serve_points(queue) == POINTS[2:]


def test_n_trials_of_a_grid() -> None:
    def count(n_trials: int | None, spec=SPEC) -> int:
        options = SweepOptions(n_trials=n_trials, baseline=False)
        return plan_budget(options, spec, spec.build_search_space(), {}, None).n_trials

    assert [count(None), count(4), count(100)] == [6, 4, 6]
    large = make_spec("seed=range(0,40)", sampler="grid")
    assert count(None, large) == 40  # more than the default of other samplers
    assert count(None, make_spec("seed=range(0,40)")) == 24


def test_enqueued_points_come_first_and_are_not_repeated(tmp_path) -> None:
    queue = make_queue(tmp_path)
    queue.study.enqueue_trial(POINTS[3])
    assert serve_points(queue) == [POINTS[3], *POINTS[:3], *POINTS[4:]]


def test_an_interrupted_trial_is_repeated(tmp_path) -> None:
    queue = make_queue(tmp_path)
    queue.finish_trial(queue.claim_trial(), make_result("interrupted"))
    assert serve_points(queue) == POINTS


def test_every_point_runs_once_where_a_function_suggests_more(tmp_path) -> None:
    def extend(trial: Trial) -> None:
        trial.suggest_float("loop.grad_clip", 1, 2)

    points = serve_points(make_queue(tmp_path, extend=extend))
    clips = {point["loop.grad_clip"] for point in points}
    assert [{key: point[key] for key in ("seed", "optimizer")} for point in points] == POINTS
    assert len(clips) == len(POINTS)
    assert all(1 <= clip <= 2 for clip in clips)
