"""What a study has come to, read back from real ones."""

import math
import shlex

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import create_trial

from harness.sweep.report.boundaries import find_boundary_hit
from harness.sweep.report.importance import find_idle_params
from harness.sweep.report.summary import (
    find_baseline,
    find_best_trials,
    format_override,
    format_run_command,
    optimization_results,
    shorten_keys,
    summarize_study,
    summarize_trials,
    summary_to_json,
)
from harness.sweep.space.search_space import read_search_space
from tests.sweep.studies import (
    add_every_outcome,
    ask_conditional_trial,
    ask_trial,
    complete_outside_trial,
    complete_trial,
    diverge_trial,
    fail_trial,
    new_study,
    quadratic_loss,
)


def test_every_end_of_a_trial_is_told_apart(tmp_path) -> None:
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "study.journal")))
    found = summarize_trials(add_every_outcome(new_study(storage=storage)))
    statuses = ["completed", "completed", "pruned", "diverged", "failed", "completed", "failed", "running"]
    assert [trial.status for trial in found] == statuses
    assert [trial.number for trial in found] == list(range(8))
    assert [trial.percent_done for trial in found] == [100, 100, 50, 20, 0, 100, 0, 50]
    assert [trial.values is None for trial in found] == [False, False, False, True, True, False, True, False]
    assert [trial.reason for trial in found][4:7] == ["its worker died", "", "out of memory"]
    assert [trial.retry_of for trial in found] == [None] * 5 + [4, None, None]
    assert found[5].is_retry
    assert found[5].params == found[4].params == {"optimizer.lr": 5e-3, "lora.rank": 16, "loop.grad_clip": 2.0}
    assert found[7].values == (4.5,)
    assert found[7].seconds is None
    assert (found[1].tokens, found[1].seconds, found[1].best_step, found[1].folder) == (1000, 10.0, 90, "1")


def test_an_interrupted_and_a_queued_trial_are_told_apart_from_failures() -> None:
    study = new_study()
    fail_trial(study, ask_trial(study), "interrupted", "stopped by SIGINT")
    study.enqueue_trial({"optimizer.lr": 1e-2})
    assert [trial.status for trial in summarize_trials(study)] == ["interrupted", "queued"]


def test_a_run_that_only_its_result_calls_diverged_is_diverged() -> None:
    study = new_study()
    trial = ask_trial(study)
    trial.report(4.0, 50)
    trial.set_user_attr("result", {"status": "diverged", "reason": "the loss is nan"})
    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    assert summarize_trials(study)[0].status == "diverged"
    assert summarize_trials(study)[0].values is None


def test_the_summary_counts_adds_up_and_names_how_many_the_best_was_chosen_from() -> None:
    summary = summarize_study(add_every_outcome(new_study()), 24)
    assert {status: size for status, size in summary.counts.items() if size} == {
        "completed": 3, "pruned": 1, "diverged": 1, "failed": 2, "running": 1,
    }  # fmt: skip
    assert summary.best_trial.number == 1
    assert summary.n_measured == 5  # measured: neither the failed ones nor the running one
    assert summary.tokens == 3 * 1000 + 500 + 200 + 1000
    assert summary.baseline.number == 0
    assert summary.importances == {}
    assert summary.idle_params == ()


def test_the_best_is_what_optuna_calls_the_best_though_a_diverged_trial_broke_a_constraint() -> None:
    study = add_every_outcome(new_study())
    assert find_best_trials(summarize_trials(study))[0].number == study.best_trial.number


def test_of_equal_trials_the_earliest_is_the_best() -> None:
    study = new_study()
    for value in (3.5, 3.2, 3.2):
        complete_trial(study, ask_trial(study), value)
    assert [trial.number for trial in find_best_trials(summarize_trials(study))] == [1]


def test_a_front_is_that_of_optuna_and_never_holds_a_diverged_or_infinite_trial() -> None:
    study = new_study(("best_val_loss", "tokens"))
    for value, tokens in ((3.5, 900), (3.2, 2000), (3.2, 1000), (4.0, 100), (4.1, 100), (3.9, 900)):
        complete_trial(study, ask_trial(study), value, tokens)
    diverge_trial(study, ask_trial(study))
    fail_trial(study, ask_trial(study), "failed", "out of memory")
    ours = find_best_trials(summarize_trials(study))
    assert {trial.number for trial in ours} == {trial.number for trial in study.best_trials} == {0, 2, 3}
    assert [trial.number for trial in ours] == [2, 0, 3]
    complete_trial(study, ask_trial(study), math.inf, 1)
    assert find_best_trials(summarize_trials(study)) == ours
    summary = summarize_study(study, 10)
    assert summary.best_trial is None
    assert summary.best_command == ""


def test_the_baseline_outside_the_space_can_be_the_best() -> None:
    study = new_study()
    complete_outside_trial(study, 2.5, optimizer="adamw", **{"optimizer.lr": 1.0})
    complete_trial(study, ask_trial(study))
    summary = summarize_study(study, 2, ["loop.max_steps=120"])
    assert summary.best_trial == summary.baseline
    assert summary.best_trial.params == {"optimizer": "adamw", "optimizer.lr": 1.0}
    assert summary.boundary_hits == ()
    assert summary.best_command == "python run.py optimizer=adamw loop.max_steps=120 optimizer.lr=1.0"


def test_a_baseline_whose_worker_died_is_told_by_its_retry() -> None:
    study = new_study()
    fail_trial(study, ask_trial(study, lr=1e-3, baseline=True))
    complete_trial(study, ask_trial(study, lr=1e-3, baseline=True, retry_of=0), 3.7)
    assert find_baseline(summarize_trials(study)).number == 1


def test_results_keep_the_stock_format_and_add_the_number(tmp_path) -> None:
    study = new_study()
    for _ in range(3):
        trial = ask_conditional_trial(study)
        complete_trial(study, trial)
    best = study.best_trial
    found = optimization_results(study)
    OmegaConf.save(OmegaConf.create(found), tmp_path / "optimization_results.yaml")
    assert OmegaConf.load(tmp_path / "optimization_results.yaml") == found
    assert list(found) == ["name", "best_params", "best_value", "best_trial"]
    assert found["name"] == "optuna"
    assert set(found["best_params"]) == {"optimizer", "optimizer.lr"}
    assert (found["best_value"], found["best_trial"]) == (best.value, best.number)


def test_results_of_several_objectives_list_the_solutions_by_number() -> None:
    study = new_study(("best_val_loss", "tokens"))
    complete_trial(study, ask_trial(study, lr=1e-2, rank=8, clip=1.0), 3.1, 500.0)
    complete_trial(study, ask_trial(study), 3.0, 600.0)
    first = {"optimizer.lr": 1e-2, "lora.rank": 8, "loop.grad_clip": 1.0}
    assert optimization_results(study)["solutions"][1] == {"params": first, "values": [3.1, 500.0], "number": 0}


def test_results_of_a_study_without_a_completed_trial_name_none() -> None:
    study = new_study()
    fail_trial(study, ask_trial(study))
    assert optimization_results(study)["best_trial"] is None


def test_history_grows_at_its_end_only_and_holds_finite_numbers() -> None:
    study = add_every_outcome(new_study())
    before = summary_to_json(summarize_study(study, 24), "running")
    complete_trial(study, ask_trial(study, lr=1e-2, rank=64, clip=1.0))
    after = summary_to_json(summarize_study(study, 24), "completed", 5)
    assert [step for step, _, _ in before["history"]] == [0, 1, 2, 3, 4, 5, 6]
    assert after["history"][: len(before["history"])] == before["history"]
    best = [row["sweep/best_val_loss"] for _, row, _ in after["history"]]
    assert best == sorted(best, reverse=True)
    assert "sweep/val_loss" not in {step: row for step, row, _ in after["history"]}[3]
    assert all(math.isfinite(value) for _, row, _ in after["history"] for value in row.values())
    assert after["history"][-1][1]["sweep/val_loss"] == after["metrics"]["sweep/best_val_loss"] == 3.0
    assert before["ended_at_ms"] is None
    assert (after["status"], after["ended_at_ms"]) == ("completed", 5)


def test_the_parent_run_is_told_costs_counts_the_baseline_and_the_best() -> None:
    study = add_every_outcome(new_study())
    told = summary_to_json(summarize_study(study, 24, ["experiment=default"]), "completed", 5)
    assert told["metrics"]["sweep/baseline_val_loss"] == quadratic_loss({"optimizer.lr": 1e-3, "lora.rank": 8})
    assert told["metrics"]["sweep/trials.failed"] == 2
    assert told["metrics"]["sweep/trials.queued"] == 0
    assert told["metrics"]["sweep/tokens"] == 4700
    assert told["tags"]["best_trial"] == told["tags"]["best_folder"] == "1"
    assert told["tags"]["best.lora.rank"] == "64"
    assert told["tags"]["best.command"].startswith("python run.py experiment=default optimizer.lr=0.009")
    assert all(isinstance(tag, str) for tag in told["tags"].values())


@pytest.mark.parametrize(
    "value", ["adamw", 8, 1e-5, 0.1, True, None, "a b", "x,y", "it's", "tag(x)", "[q,k]", "it's, a \\ b", "${seed}", ""]
)
def test_a_command_gives_back_every_value_through_shell_and_hydra(value) -> None:
    words = shlex.split(format_run_command([], {"some.key": value}))[2:]
    assert words == [format_override("some.key", value)]
    parsed = OverridesParser.create().parse_override(words[0])
    assert not parsed.is_sweep_override()
    read = parsed.value()
    text = read.text if hasattr(read, "text") else read
    assert text == (["q", "k"] if value == "[q,k]" else value)


def test_choices_of_groups_come_first_in_a_command() -> None:
    params = {"optimizer.lr": 0.1, "optimizer": "muon"}
    assert format_run_command(["loop.max_steps=5", "experiment=x"], params).split()[2:] == [
        "experiment=x", "optimizer=muon", "loop.max_steps=5", "optimizer.lr=0.1",
    ]  # fmt: skip


def test_short_names_stay_apart() -> None:
    keys = ["optimizer.lr", "start.optimizer.lr", "lora.rank", "optimizer"]
    assert shorten_keys(keys) == {
        "optimizer.lr": "optimizer.lr", "start.optimizer.lr": "start.optimizer.lr",
        "lora.rank": "rank", "optimizer": "optimizer",
    }  # fmt: skip


LR, SHARE = FloatDistribution(1e-3, 1e-1, log=True), FloatDistribution(0.0, 0.3)


@pytest.mark.parametrize(
    ("value", "found", "direction", "widened"),
    [
        (0.09, LR, "up", "tag(log,interval(0.001,0.4))"),
        (0.0011, LR, "down", "tag(log,interval(0.00025,0.1))"),
        (0.05, LR, None, None),  # near the end only if one forgets the logarithm: 0.05 is 85 % of the way
        (0.01, LR, None, None),
        (0.29, SHARE, "up", "interval(0.0,0.45)"),
        (0.0, SHARE, None, None),  # nothing below
        (0.85, FloatDistribution(0.5, 0.86), "up", "interval(0.5,1.0)"),
        (64, IntDistribution(2, 64, log=True), "up", "int(tag(log,interval(2,256)))"),
        (2, IntDistribution(2, 64, log=True), "down", "int(tag(log,interval(1,64)))"),
        (62, IntDistribution(2, 64, log=True), None, None),  # a whole number has to be the last
        (1, IntDistribution(1, 8), None, None),
        (0.3, FloatDistribution(0.1, 0.3, step=0.1), "up", "range(0.1,0.5,0.1)"),
        (32, CategoricalDistribution([8, 16, 32]), "up", "8,16,32,64"),
        (8, CategoricalDistribution([8, 16, 32]), "down", "4,8,16,32"),
        ("muon", CategoricalDistribution(["adamw", "muon", "sgd"]), None, None),
        (True, CategoricalDistribution([True, False]), None, None),
    ],
)
def test_a_value_at_the_edge_of_its_range_names_a_wider_range(value, found, direction, widened) -> None:
    at = find_boundary_hit("some.key", value, found)
    assert (at.direction, at.wider_range) == (direction, widened) if widened else at is None


@pytest.mark.parametrize(("value", "found"), [(0.09, LR), (64, IntDistribution(2, 64)), (0.29, SHARE)])
def test_a_wider_range_is_one_that_a_sweep_takes(value: float, found: BaseDistribution) -> None:
    at = find_boundary_hit("optimizer.lr", value, found)
    taken = read_search_space({}, [f"optimizer.lr={at.wider_range}"], {}, {}).ranges["optimizer.lr"]
    assert type(taken) is type(found)
    assert taken.low == found.low
    assert taken.high > found.high
    assert taken.log == found.log


def test_the_edge_of_a_conditional_range_says_where_it_holds() -> None:
    at = find_boundary_hit("optimizer.lr @ optimizer=muon", 0.1, LR)
    assert (at.key, at.condition, at.bound) == ("optimizer.lr", "optimizer=muon", 0.1)


def test_the_lr_and_rank_are_found_to_matter_and_the_clip_to_be_idle() -> None:
    study = new_study()
    for _ in range(40):
        complete_trial(study, ask_trial(study))
    summary = summarize_study(study, 40)
    assert next(iter(summary.importances)) == "optimizer.lr"
    assert sum(summary.importances.values()) == pytest.approx(1)
    assert summary.idle_params == ("loop.grad_clip",)
    assert summarize_study(study, 40, with_importances=False).importances == {}


def test_a_baseline_outside_the_space_does_not_hide_what_is_idle() -> None:
    study = new_study()
    complete_outside_trial(study, 3.9, **{"optimizer.lr": 1.0})
    for _ in range(40):
        complete_trial(study, ask_trial(study))
    assert find_idle_params(study, {"optimizer.lr": 0.9, "lora.rank": 0.08, "loop.grad_clip": 0.02}) == [
        "loop.grad_clip"
    ]


def test_what_only_one_measure_finds_idle_is_not_called_so() -> None:
    study = new_study()
    for _ in range(40):
        complete_trial(study, ask_trial(study))
    assert find_idle_params(study, {"optimizer.lr": 0.01, "lora.rank": 0.97, "loop.grad_clip": 0.02}) == [
        "loop.grad_clip"
    ]


@pytest.mark.parametrize(("trials", "weighed"), [(7, False), (8, True), (11, True)])
def test_too_few_trials_call_nothing_idle(trials: int, weighed: bool) -> None:
    study = new_study()
    for _ in range(trials):
        complete_trial(study, ask_trial(study))
    summary = summarize_study(study, trials)
    assert bool(summary.importances) == weighed
    assert summary.idle_params == ()


def test_a_parameter_that_few_trials_had_is_never_called_idle() -> None:
    study = new_study()
    for _ in range(30):
        complete_trial(study, ask_conditional_trial(study))
    assert not any("@" in name for name in summarize_study(study, 30).idle_params)


def test_trials_that_are_all_alike_have_no_importances_and_no_error() -> None:
    study = new_study()
    for _ in range(12):
        study.add_trial(create_trial(value=3.0, params={"x": 1}, distributions={"x": IntDistribution(1, 1)}))
    assert summarize_study(study, 12).idle_params == ()
