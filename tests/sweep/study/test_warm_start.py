"""A new study that begins with the best trials of an earlier one, or with the band of a range test."""

import math
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, Trial, TrialState

from harness.core.errors import ConfigError
from harness.diagnosis.lr_band import LRBand
from harness.record.lr_range_file import write_range_test
from harness.sweep.optuna_internals import get_enqueued_params
from harness.sweep.program_file import write_program
from harness.sweep.study import setup
from harness.sweep.study.prior import enqueue_pairs
from harness.sweep.study.setup import check_existing_study, open_study
from harness.sweep.study.trial_attrs import (
    BASELINE,
    FIXED_VALUES,
    PRIOR,
    RETRY_OF,
    SEED_RUN,
    STUDY_SPEC,
    WARM_START,
    WORKER,
    trial_values,
)
from harness.sweep.study.trial_queue import TrialQueue
from tests.sweep.study.test_trial_queue import bowl_loss, dead_process, trial_params
from tests.sweep.tiny_sweeps import TINY, make_result, read_tiny_request, serve_trials, start_study, study_folder

WARM = "sweep.warm_start=earlier"


@pytest.fixture
def overrides(places: list[str]) -> list[str]:
    return [*TINY, *places, "sweep.n_trials=24", "sweep.study=later"]


def run_earlier(
    overrides: list[str], *more: str, n_trials: int = 12, loss: Callable[[Trial], float] = bowl_loss
) -> TrialQueue:
    """Run a study called earlier, and write what a sweep leaves in its folder."""
    arguments = [*overrides, f"sweep.n_trials={n_trials}", "sweep.study=earlier", *more]
    queue = start_study(*arguments)
    serve_trials(queue, loss)
    write_program(read_tiny_request(*arguments))
    return queue


def list_best(queue: TrialQueue, count: int) -> list[dict]:
    trials = queue.study.get_trials(states=(TrialState.COMPLETE,))
    return [trial_values(trial) for trial in sorted(trials, key=lambda trial: trial.value)][:count]


def list_prior_numbers(trials: list[FrozenTrial]) -> list[int]:
    return [trial.number for trial in trials if trial.user_attrs.get(PRIOR)]


def check_refused(message: str, *overrides: str) -> None:
    """Check that a sweep is refused before anything of it is written."""
    request = read_tiny_request(*overrides)
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_existing_study(request)
    assert not request.folder.exists()


def test_half_of_the_first_proposals_are_the_best_earlier_trials(overrides, capsys) -> None:
    earlier = run_earlier(overrides)
    queue = start_study(*overrides, WARM)
    printed = capsys.readouterr().out
    numbers = [trial.number for trial in sorted(earlier.study.trials, key=lambda trial: trial.value)][:4]
    listed = ", ".join(map(str, numbers))
    keys = "optimizer.lr, lora.rank, loop.grad_clip, schedule.warmup_ratio"
    assert f"warm start: trials 1, 3, 5, 7 take {keys} from the best trials of earlier ({listed})\n" in printed
    trials = serve_trials(queue, bowl_loss)
    assert len(trials) == 24
    assert [trial.user_attrs.get(BASELINE) for trial in trials[:2]] == [True, None]
    assert list_prior_numbers(queue.study.trials) == [1, 3, 5, 7]
    assert [trial.params for trial in trials[1:9:2]] == list_best(earlier, 4)
    assert [queue.study.trials[number].user_attrs[PRIOR] for number in (1, 2)] == [
        {"source": "earlier", "trial": numbers[0]}, {}
    ]  # fmt: skip
    assert queue.study.user_attrs[WARM_START] == {"given": "earlier", "source": "earlier"}
    assert len({str(params) for params in trial_params(trials)}) == 24


def test_without_the_option_nothing_changes(overrides) -> None:
    run_earlier(overrides)
    queue = start_study(*overrides)
    assert [trial.user_attrs.get(BASELINE) for trial in queue.study.trials] == [True]
    assert WARM_START not in queue.study.user_attrs


def test_values_out_of_range_and_other_keys_are_left_to_the_sampler(overrides, capsys) -> None:
    """The earlier sweep has another LR range and no rank; this one no clipping."""
    old = ["optimizer.lr=tag(log,interval(1e-3,1.0))", "lora.rank=8"]
    earlier = run_earlier(
        overrides, *old, loss=lambda trial: abs(math.log10(trial.params.get("optimizer.lr", 1)) + 1.3)
    )
    capsys.readouterr()
    queue = start_study(*overrides, "loop.grad_clip=1.0", WARM)
    assert "; the sampler proposes lora.rank\n" in capsys.readouterr().out
    trials = serve_trials(queue, bowl_loss)
    best = list_best(earlier, 12)
    for trial, values in zip(trials[1:9:2], best, strict=False):
        assert trial.params["schedule.warmup_ratio"] == values["schedule.warmup_ratio"]
        assert (trial.params["optimizer.lr"] == values["optimizer.lr"]) == (values["optimizer.lr"] <= 0.1)
        assert trial.params["lora.rank"] in (2, 4, 8, 16, 32)
        assert "loop.grad_clip" not in trial.params


def test_near_copies_and_trials_that_run_anyway_are_left_out(overrides) -> None:
    """The best earlier trial is the current configuration, and two others differ by 1% of a range."""
    points = "[{optimizer.lr: 0.01, lora.rank: 8, loop.grad_clip: 1.0, schedule.warmup_ratio: 0.1}, {optimizer.lr: "
    points += "0.0103, lora.rank: 8, loop.grad_clip: 1.01, schedule.warmup_ratio: 0.101}, {optimizer.lr: 0.02, "
    points += "lora.rank: 8, loop.grad_clip: 1.0, schedule.warmup_ratio: 0.1}]"
    losses = {1e-4: 0.0, 0.01: 1.0, 0.0103: 1.1, 0.02: 1.2}
    run_earlier(
        overrides, f"sweep.enqueue={points}", n_trials=4, loss=lambda trial: losses[trial.params["optimizer.lr"]]
    )
    queue = start_study(*overrides, WARM)
    assert [trial.user_attrs.get(PRIOR) for trial in queue.study.trials] == [
        None, {"source": "earlier", "trial": 1}, {}, {"source": "earlier", "trial": 3}, {}
    ]  # fmt: skip


@pytest.mark.parametrize("sampler", ["curve", "tpe", "random"])
def test_the_sampler_does_not_repeat_the_earlier_proposals(sampler, overrides) -> None:
    """Both sweeps have the same seed and space."""
    arguments = [*overrides, f"hydra/sweeper/sampler={sampler}"]
    known = trial_params(run_earlier(arguments, n_trials=16).study.trials)
    trials = serve_trials(start_study(*arguments, WARM, "sweep.n_trials=16"), bowl_loss)
    assert not [trial for trial in trials if not trial.user_attrs.get(PRIOR) and trial.number and trial.params in known]


@pytest.mark.parametrize(("n_trials", "expected"), [(4, [1]), (5, [1, 3]), (6, [1, 3]), (9, [1, 3, 5, 7])])
def test_a_short_sweep_keeps_half_for_the_sampler(n_trials, expected, overrides) -> None:
    run_earlier(overrides)
    queue = start_study(*overrides, WARM, f"sweep.n_trials={n_trials}")
    assert len(serve_trials(queue, bowl_loss)) == n_trials == len(queue.study.trials)
    assert list_prior_numbers(queue.study.trials) == expected


def test_the_sampler_says_how_many_trials_are_first(overrides) -> None:
    run_earlier(overrides)
    arguments = [*overrides, WARM, "hydra/sweeper/sampler=tpe", "hydra.sweeper.sampler.n_startup_trials=12"]
    assert list_prior_numbers(start_study(*arguments).study.trials) == [1, 3, 5, 7, 9, 11]


def test_workers_in_parallel_run_both_kinds(overrides) -> None:
    run_earlier(overrides)
    queue = start_study(*overrides, WARM)
    claimed: list[Trial] = []

    def work() -> None:
        own = start_study(*overrides, WARM)
        while (trial := own.claim_trial()) is not None:
            claimed.append(trial)
            own.finish_trial(trial, make_result(loss=bowl_loss(trial)))

    first = [queue.claim_trial() for _ in range(4)]
    assert [bool(trial.user_attrs.get(PRIOR)) for trial in first if trial] == [False, True, False, True]
    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(claimed) == 20
    assert len(queue.study.trials) == 24
    assert list_prior_numbers(queue.study.trials) == [1, 3, 5, 7]


def test_a_resumed_sweep_does_not_need_the_earlier_study(overrides) -> None:
    run_earlier(overrides)
    serve_trials(start_study(*overrides, WARM), bowl_loss, 3)
    n_trials = len(start_study(*overrides, WARM).study.trials)
    shutil.rmtree(study_folder(Path(overrides[-3].removeprefix("output_dir=")).parent, "earlier"), ignore_errors=True)
    assert check_existing_study(read_tiny_request(*overrides, WARM))
    queue = start_study(*overrides)
    assert len(queue.study.trials) == n_trials == 9
    assert len(serve_trials(queue, bowl_loss)) == 21


def test_a_study_that_exists_cannot_get_another_warm_start(overrides) -> None:
    run_earlier(overrides)
    start_study(*overrides, WARM)
    message = "sweep.warm_start: other: study later began with sweep.warm_start=earlier; leave it out"
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_existing_study(read_tiny_request(*overrides, "sweep.warm_start=other"))
    start_study(*overrides, "sweep.study=cold")
    with pytest.raises(ConfigError, match="study cold began without it"):
        start_study(*overrides, "sweep.study=cold", WARM)


def test_a_setup_that_was_killed_is_completed(overrides, monkeypatch) -> None:
    run_earlier(overrides)

    class Killed(BaseException):
        pass

    def enqueue_some(study, space, points, source) -> None:
        enqueue_pairs(study, space, points[:1], source)
        raise Killed

    monkeypatch.setattr(setup, "enqueue_pairs", enqueue_some)
    with pytest.raises(Killed):
        start_study(*overrides, WARM)
    monkeypatch.undo()
    request = read_tiny_request(*overrides, WARM)
    assert check_existing_study(request)
    study = open_study(request).study
    assert STUDY_SPEC in study.user_attrs
    assert len(study.trials) == 9
    assert list_prior_numbers(study.trials) == [1, 3, 5, 7]


def test_interrupted_sweeps_propose_what_an_uninterrupted_one_does(overrides) -> None:
    run_earlier(overrides)
    expected = trial_params(serve_trials(start_study(*overrides, WARM, "sweep.study=whole"), bowl_loss))
    for _ in range(5):
        queue = start_study(*overrides, WARM, "sweep.study=parts")
        queue.reap_dead_trials(is_leftover=True)
        serve_trials(queue, bowl_loss, 3)
        dying = queue.claim_trial()
        assert dying is not None
        dying.set_user_attr(WORKER, dead_process())
    queue.reap_dead_trials(is_leftover=True)
    serve_trials(queue, bowl_loss)
    complete = queue.study.get_trials(states=(TrialState.COMPLETE,))
    in_order = sorted(complete, key=lambda trial: trial.user_attrs.get(RETRY_OF, trial.number))
    assert [trial.params for trial in in_order] == expected


def test_a_retry_keeps_the_values_and_where_they_are_from(overrides) -> None:
    earlier = run_earlier(overrides)
    queue = start_study(*overrides, WARM)
    _, prior = queue.claim_trial(), queue.claim_trial()
    queue.finish_trial(prior, make_result("interrupted"))
    retry = queue.claim_trial()
    assert retry.user_attrs[RETRY_OF] == 1
    assert retry.user_attrs[PRIOR] == prior.user_attrs[PRIOR]
    assert retry.params == prior.params == list_best(earlier, 1)[0]


def test_pruned_and_diverged_trials_are_not_taken(overrides) -> None:
    queue = start_study(*overrides, "sweep.study=earlier", "sweep.n_trials=6")
    statuses = ["completed", "pruned", "diverged", "failed", "completed", "pruned"]
    for number, status in enumerate(statuses):
        queue.finish_trial(queue.claim_trial(), make_result(status, loss=float(number)))
    write_program(read_tiny_request(*overrides, "sweep.study=earlier"))
    later = start_study(*overrides, WARM)
    assert [trial.user_attrs[PRIOR] for trial in later.study.trials[1:]] == [{"source": "earlier", "trial": 4}, {}]


@pytest.mark.parametrize("status", ["pruned", "failed"])
def test_an_earlier_study_without_results_is_refused(status, overrides) -> None:
    queue = start_study(*overrides, "sweep.study=earlier")
    queue.finish_trial(queue.claim_trial(), make_result(status))
    write_program(read_tiny_request(*overrides, "sweep.study=earlier"))
    check_refused("sweep.warm_start: earlier: none of its trials has completed with a finite value; leave it out",
                  *overrides, WARM)  # fmt: skip


def test_an_earlier_study_of_no_use_is_refused(overrides) -> None:
    run_earlier(overrides, n_trials=1)
    check_refused(
        "sweep.warm_start: earlier: its only usable trial is one that this sweep runs anyway", *overrides, WARM
    )
    other = ["sweeps=none", "optimizer.weight_decay=interval(0,0.1)"]
    message = "it searched loop.grad_clip, lora.rank, optimizer.lr, schedule.warmup_ratio, this sweep optimizer.weight_"
    check_refused(message, *overrides, WARM, *other)
    high = ["sweeps=none", "optimizer.lr=tag(log,interval(1.0,2.0))"]
    check_refused("earlier: no completed trial has a value of optimizer.lr that this sweep may take", *overrides, WARM,
                  *high)  # fmt: skip


def test_what_cannot_have_a_warm_start_is_refused(overrides) -> None:
    earlier = run_earlier(overrides)
    check_refused("sweep.warm_start: earlyer: 'earlyer' is not".replace("earlyer: ", ""), *overrides,
                  "sweep.warm_start=earlyer")  # fmt: skip
    check_refused("2 trials leave no two of them; raise sweep.n_trials to 3 or more", *overrides, WARM,
                  "sweep.n_trials=2")  # fmt: skip
    grid = ["sweeps=grid", "optimizer.lr=1e-4,1e-3"]
    check_refused("sweep.warm_start: earlier: a grid runs its own points only", *overrides, WARM, *grid)
    earlier.study.enqueue_trial({}, user_attrs={FIXED_VALUES: {}, SEED_RUN: {"config": "best", "seed": 1}})
    check_refused("runs of configurations over seeds, not a sweep; name the sweep they are of", *overrides, WARM)


CONDITIONAL_SPACE = """# @package _global_
sweep:
  conditional:
    optimizer=adamw: {optimizer.lr: "tag(log,interval(1e-4,1e-1))"}
    optimizer=sgd: {optimizer.lr: "tag(log,interval(1e-3,10))"}
    optimizer=muon: {optimizer.lr: "tag(log,interval(1e-3,1e-1))"}
"""


def test_an_lr_is_taken_only_for_its_optimizer(overrides, tmp_path) -> None:
    """Both sweep optimizers, with a range of LRs for each; of the options today, SGD is not one."""
    (tmp_path / "own" / "sweeps").mkdir(parents=True)
    (tmp_path / "own" / "sweeps" / "mine.yaml").write_text(CONDITIONAL_SPACE)
    (tmp_path / "own" / "sweeps" / "narrower.yaml").write_text(re.sub(".*optimizer=sgd.*\n", "", CONDITIONAL_SPACE))
    warmup = "schedule.warmup_ratio=interval(0.0,0.2)"
    searched = ["optimizer=adamw,sgd,muon", warmup, f"hydra.searchpath=['file://{tmp_path}/own']"]
    rank = {"sgd": 0.0, "muon": 1.0, "adamw": 2.0}
    sampler = "hydra/sweeper/sampler=random"
    earlier = run_earlier(
        overrides,
        *searched,
        "sweeps=mine",
        sampler,
        loss=lambda trial: rank[trial.params["optimizer"]] + trial.number / 100,
    )
    best = {values["optimizer"]: values for values in reversed(list_best(earlier, 12))}
    assert set(best) == {"adamw", "sgd", "muon"}
    queue = start_study(*overrides, *searched, "optimizer=adamw,muon", "sweeps=narrower", WARM)
    enqueued = [get_enqueued_params(trial) for trial in queue.study.trials if trial.user_attrs.get(PRIOR)]
    assert enqueued[0] == {
        "optimizer": "muon",
        "optimizer.lr @ optimizer=muon": best["muon"]["optimizer.lr"],
        "schedule.warmup_ratio": best["muon"]["schedule.warmup_ratio"],
    }
    trials = serve_trials(queue, lambda trial: 1.0)
    assert {trial.params["optimizer"] for trial in trials} == {"adamw", "muon"}


def test_the_optimizer_of_an_earlier_study_is_known_from_its_configuration(overrides) -> None:
    """The earlier sweep searched LRs of AdamW only."""
    earlier = run_earlier(overrides)
    best = list_best(earlier, 1)[0]
    queue = start_study(*overrides, WARM, "sweeps=optimizers", "sweep.study=optimizers")
    assert get_enqueued_params(queue.study.trials[1]) == {
        "optimizer": "adamw",
        "optimizer.lr @ optimizer=adamw": best["optimizer.lr"],
        "schedule.warmup_ratio": best["schedule.warmup_ratio"],
    }
    sgd = start_study(*overrides, WARM, "optimizer=sgd", "sweep.study=sgd")
    assert get_enqueued_params(sgd.study.trials[1]) == {
        key: value for key, value in best.items() if key != "optimizer.lr"
    }


def test_every_point_of_a_finite_space_runs_once(overrides) -> None:
    """The earlier sweep sets one of two keys, so the sampler could repeat a point."""
    run_earlier(overrides, "sweeps=none", "optimizer.lr=1e-4,1e-3,1e-2", n_trials=3)
    arguments = [*overrides, "sweeps=none", "optimizer.lr=1e-4,1e-3,1e-2", "lora.rank=4,8", WARM]
    queue = start_study(*arguments)
    trials = serve_trials(queue, lambda trial: 1.0)
    assert len(trials) == 6 == len({str(sorted(trial.params.items())) for trial in trials})
    assert list_prior_numbers(queue.study.trials) == [1, 3]


def make_plain_study(url: str, name: str, direction: str = "minimize") -> None:
    """Run a study with plain Optuna, whose best LR is the largest one if it maximizes."""
    study = optuna.create_study(study_name=name, storage=url, direction=direction)
    for lr in (1e-3, 1e-2, 5e-2):
        study.enqueue_trial({"optimizer.lr": lr})
    study.optimize(lambda trial: trial.suggest_float("optimizer.lr", 1e-4, 1e-1, log=True), n_trials=3)


def test_studies_in_a_database_are_found_by_name_or_address(overrides, tmp_path) -> None:
    """Also those of plain Optuna, and the best of a study that maximizes is the largest."""
    one, several = f"sqlite:///{tmp_path}/one.db", f"sqlite:///{tmp_path}/several.db"
    make_plain_study(one, "accuracy", "maximize")
    queue = start_study(*overrides, f"sweep.warm_start={one}", "sweep.study=by_address")
    lrs = [get_enqueued_params(trial)["optimizer.lr"] for trial in queue.study.trials[1::2]]
    assert lrs == [5e-2, 1e-2, 1e-3]
    assert queue.study.user_attrs[WARM_START]["source"] == "accuracy"
    for name in ("first", "second"):
        make_plain_study(several, name)
    queue = start_study(*overrides, f"sweep.storage={several}", "sweep.warm_start=second")
    assert get_enqueued_params(queue.study.trials[1]) == {"optimizer.lr": 1e-3}
    check_refused("has 3 studies (first, second, later); set sweep.storage=", *overrides, f"sweep.warm_start={several}",
                  "sweep.study=new")  # fmt: skip


def test_a_folder_or_its_journal_names_the_study(overrides, tmp_path) -> None:
    run_earlier(overrides)
    folder = study_folder(tmp_path, "earlier")
    for number, source in enumerate((folder, folder / "study.journal")):
        queue = start_study(*overrides, f"sweep.warm_start={source}", f"sweep.study=later{number}")
        assert queue.study.user_attrs[WARM_START]["source"] == "earlier"


def write_band(folder: Path, low: float, high: float) -> Path:
    folder.mkdir()
    lrs = [10 ** (-5 + index / 6) for index in range(30)]
    write_range_test(folder, {}, lrs, [1.0] * 30, LRBand(low, high, math.sqrt(low * high), "fell", "strong"))
    return folder / "lr_range.json"


def test_a_range_test_sets_the_lr_of_half_of_the_first_proposals(overrides, tmp_path) -> None:
    file = write_band(tmp_path / "test", 1e-3, 1e-2)
    queue = start_study(*overrides, f"sweep.warm_start={file}")
    enqueued = [get_enqueued_params(trial) for trial in queue.study.trials[1::2]]
    assert all(params.keys() == {"optimizer.lr"} for params in enqueued)
    quarters = sorted(math.floor(4 * (math.log10(params["optimizer.lr"]) + 3)) for params in enqueued)
    assert quarters == [0, 1, 2, 3]
    assert queue.study.trials[1].user_attrs[PRIOR] == {"source": str(file), "lr_band": [1e-3, 1e-2]}
    repeated = start_study(*overrides, f"sweep.warm_start={tmp_path}/test", "sweep.study=again")
    assert [get_enqueued_params(trial) for trial in repeated.study.trials[1::2]] == enqueued
    assert len(serve_trials(queue, bowl_loss)) == 24


def test_the_band_holds_for_the_current_optimizer_and_within_the_range(overrides, tmp_path) -> None:
    file = write_band(tmp_path / "test", 1e-3, 1.0)
    queue = start_study(*overrides, f"sweep.warm_start={file}", "sweeps=optimizers")
    enqueued = [get_enqueued_params(trial) for trial in queue.study.trials[1::2]]
    assert all(params["optimizer"] == "adamw" for params in enqueued)
    assert all(1e-3 <= params["optimizer.lr @ optimizer=adamw"] <= 1e-1 for params in enqueued)
    listed = start_study(*overrides, f"sweep.warm_start={file}", "optimizer.lr=1e-4,1e-2,1e-1", "sweep.study=list")
    drawn = [get_enqueued_params(trial)["optimizer.lr"] for trial in listed.study.trials[1::2]]
    assert sorted(drawn) == [1e-2, 1e-1]


def test_a_range_test_of_no_use_is_refused(overrides, tmp_path) -> None:
    file = write_band(tmp_path / "test", 0.2, 1.0)
    given = f"sweep.warm_start={file}"
    check_refused("its band from 0.2 to 1 is outside optimizer.lr=", *overrides, given)
    check_refused("no LR is searched", *overrides, given, "optimizer.lr=1e-3")
    check_refused("sweep.warm_start: lr_range: there is no range test of this configuration", *overrides,
                  "sweep.warm_start=lr_range")  # fmt: skip
    write_range_test(file.parent, {}, [1e-3] * 30, [1.0] * 30, "the model learns at no LR")
    check_refused("the range test has no band: the model learns at no LR", *overrides, given)
    file.write_text("{")
    check_refused("lr_range.json: cannot be read", *overrides, given)
