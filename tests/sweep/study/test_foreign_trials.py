"""Studies and trials of other programs: refused where they cannot be served, and never in the way of our workers."""

import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from omegaconf import OmegaConf
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from harness.core.errors import ConfigError
from harness.sweep.optuna_internals import get_all_trials
from harness.sweep.programs import make_trial_runner
from harness.sweep.results.figures import draw_study_figures
from harness.sweep.results.final_report import format_sweep_summary
from harness.sweep.results.result_files import optimization_results, summary_to_json
from harness.sweep.results.summary import summarize_trials
from harness.sweep.results.table import ProgressTable
from harness.sweep.study.budget import Budget
from harness.sweep.study.pruning import TrialReporter
from harness.sweep.study.sampler import find_unusable_trials
from harness.sweep.study.setup import check_existing_study, open_study
from harness.sweep.study.trial_attrs import RESULT, STUDY_SPEC, SWEEP_ID, WORKER
from harness.sweep.study.trial_queue import EndReasons
from harness.sweep.workers.worker import run_trials
from tests.sweep.studies import COMMAND_LINE, summarize
from tests.sweep.tiny_sweeps import (
    TINY,
    TINY_WITHOUT_LORA,
    make_result,
    make_worker_spec,
    read_tiny_request,
    serve_trials,
    start_study,
    study_folder,
)

BAD_VALUE, DIVERSE = -3.0, FloatDistribution(0, 1)


def loss_of(trial: optuna.Trial) -> float:
    return 1 + trial.params["optimizer.lr"]


def open_plain(folder: Path, name: str = "default") -> optuna.Study:
    """Open a study as a notebook does."""
    storage = JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    return optuna.load_study(study_name=name, storage=storage)


def write_as_a_notebook_does(study: optuna.Study) -> None:
    """Leave trials of every kind: added, queued, asked for, optimized, told, with our names for other things."""
    lr = FloatDistribution(1e-4, 1e-1, log=True)
    study.add_trial(create_trial(value=-9.0, user_attrs={"folder": 3}))
    study.add_trial(
        create_trial(
            value=-8.0, params={"lr": 0.5, "units": 3}, distributions={"lr": DIVERSE, "units": IntDistribution(1, 9)}
        )
    )
    study.add_trial(
        create_trial(
            value=-7.0,
            params={"optimizer.lr": 0.01},
            distributions={"optimizer.lr": lr},
            user_attrs={RESULT: 0.5, WORKER: "me"},
        )
    )
    study.add_trial(create_trial(state=TrialState.PRUNED, intermediate_values={1000: BAD_VALUE, 50: BAD_VALUE}))
    study.add_trial(create_trial(state=TrialState.FAIL))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1) - 10, n_trials=1)
    trial = study.ask()
    trial.report(BAD_VALUE, 12345)


@pytest.fixture
def overrides(places) -> list[str]:
    return [*TINY_WITHOUT_LORA, *places, "sweep.n_trials=4", "sweep.baseline=false"]


def make_plain_study(folder: Path, kind: str) -> None:
    folder.mkdir(parents=True)
    storage = JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    directions = {"maximize": ["maximize"], "two objectives": ["minimize", "minimize"]}.get(kind, ["minimize"])
    study = optuna.create_study(study_name="default", storage=storage, directions=directions)
    if kind == "trials":
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    if kind == "attribute":
        study.set_user_attr("note", 1)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("trials", "by plain Optuna: 2 trials"),
        ("attribute", "by plain Optuna: note"),
        ("maximize", "directions maximize, not minimize"),
        ("two objectives", "directions minimize, minimize, not minimize"),
    ],
)
def test_a_study_of_another_program_is_refused(kind, reason, overrides, tmp_path) -> None:
    folder = study_folder(tmp_path)
    make_plain_study(folder, kind)
    before = (folder / "study.journal").read_bytes()
    for check in (check_existing_study, open_study):
        with pytest.raises(ConfigError, match=r"default in its study\.journal was not made by this program") as error:
            check(read_tiny_request(*overrides))
        assert reason in str(error.value)
        assert "sweep.study=NAME" in str(error.value)
    assert [line for line in (folder / "study.journal").read_bytes().splitlines() if b"user_attr" in line] == [
        line for line in before.splitlines() if b"user_attr" in line
    ]


def test_a_study_of_the_stock_sweeper_is_refused(overrides, tmp_path) -> None:
    """hydra-optuna-sweeper creates its study like this, with the same keys as params."""
    url = f"sqlite:///{tmp_path}/shared.db"
    stock = optuna.create_study(study_name="default", storage=url, directions=["minimize"], load_if_exists=True)
    trial = stock.ask({"optimizer.lr": FloatDistribution(1e-4, 1e-1, log=True)})
    stock.tell(trial, 3.0)
    with pytest.raises(ConfigError, match="by plain Optuna: 1 trials"):
        check_existing_study(read_tiny_request(*overrides, f"sweep.storage={url}"))


@pytest.mark.parametrize("progress", ["created", "enqueued"])
def test_a_study_of_ours_whose_setup_was_cut_off_is_completed(progress, overrides, tmp_path) -> None:
    folder = study_folder(tmp_path)
    make_plain_study(folder, "empty")
    if progress == "enqueued":
        study = open_plain(folder)
        study.set_user_attr(SWEEP_ID, "id")
        study.enqueue_trial({"optimizer.lr": 0.01})
    queue = start_study(*overrides)
    assert STUDY_SPEC in queue.study.user_attrs
    assert len(serve_trials(queue, loss_of)) == 4


def test_a_new_study_does_not_start_over_the_trial_folders_of_a_lost_one(overrides, tmp_path) -> None:
    folder = study_folder(tmp_path)
    (folder / "7").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"holds trials 7 to 7, but its study\.journal has no study default"):
        check_existing_study(read_tiny_request(*overrides))
    assert [path.name for path in folder.iterdir()] == ["7"]
    (folder / "study.journal").touch()
    with pytest.raises(ConfigError, match="restore it"):
        check_existing_study(read_tiny_request(*overrides))


def test_a_damaged_database_is_named_with_its_error(overrides, tmp_path) -> None:
    database = tmp_path / "study.db"
    storage = f"sweep.storage=sqlite:///{database}"
    serve_trials(start_study(*overrides, storage), loss_of, 2)
    content = bytearray(database.read_bytes())
    content[4096:] = b"\xff" * len(content[4096:])
    database.write_bytes(content)
    with pytest.raises(ConfigError, match=r"sweep\.storage: .*study\.db.*(malformed|not a database)"):
        check_existing_study(read_tiny_request(*overrides, storage))


def test_trials_of_a_notebook_do_not_count_and_break_no_reader(overrides, tmp_path, capsys) -> None:
    queue = start_study(*overrides)
    serve_trials(queue, loss_of, 2)
    write_as_a_notebook_does(open_plain(queue.folder))
    assert queue.reap_dead_trials(is_leftover=True, is_only_sweep=True) == []
    assert not queue.has_heartbeat_trials()
    assert len(serve_trials(queue, loss_of)) == 2  # n_trials=4, whatever the notebook ran
    assert queue.find_end_reasons() == EndReasons()
    summary = summarize(queue.study, 4)
    assert (summary.counts["completed"], summary.counts["added"], summary.counts["running"]) == (4, 6, 1)
    assert summary.best_trial.number in (0, 1, 9, 10)
    assert summary.n_measured == 4
    assert [trial.reason for trial in summary.trials if trial.status == "added"] == ["by another program"] * 6
    assert optimization_results(queue.study)["best_trial"] == summary.best_trial.number
    assert {number for number, _, _ in summary_to_json(summary, "completed")["history"]} == {0, 1, 9, 10}
    assert "4 completed · 6 added · 1 running (of 4 requested)" in format_sweep_summary(summary, COMMAND_LINE, "s")
    ProgressTable(["best_val_loss"], Budget(4), 1)(summarize_trials(queue.study))
    assert "4/4 trials" in capsys.readouterr().out
    written = draw_study_figures(queue.study, tmp_path / "figures")
    assert {path.stem for path in written} == {"history", "slices", "parallel", "lr"}
    assert capsys.readouterr().err == ""


def test_the_sampler_learns_from_added_trials_of_the_same_space_only(overrides) -> None:
    queue = start_study(*overrides)
    [trial] = serve_trials(queue, loss_of, 1)
    study = open_plain(queue.folder)
    write_as_a_notebook_does(study)
    fitting = create_trial(value=0.1, params=trial.params, distributions=trial.distributions)
    study.add_trial(fitting)
    assert find_unusable_trials(get_all_trials(queue.study)) == set(range(1, 8))


def test_the_pruner_does_not_compare_with_trials_of_other_programs(places) -> None:
    queue = start_study(*TINY, *places, "sweep.n_trials=4", "pruner=median", "pruner.n_startup_trials=2")
    study = open_plain(queue.folder)
    queue.study.set_user_attr("x", 1)
    for _ in range(6):
        study.add_trial(create_trial(value=BAD_VALUE, intermediate_values={50: BAD_VALUE}))
    trial = queue.claim_trial()
    assert TrialReporter(trial, 0.0).report_share(2.0, 0.5) == "continue"
    assert trial.should_prune()  # as plain Optuna would


@pytest.mark.parametrize("value", ["abc", None, [1]])
def test_an_enqueued_value_of_the_wrong_type_fails_its_trial_only(value, overrides) -> None:
    queue = start_study(*overrides)
    open_plain(queue.folder).enqueue_trial({"optimizer.lr": value, "unknown": 3})
    assert len(serve_trials(queue, loss_of)) == 3
    first = summarize_trials(queue.study)[0]
    assert (first.status, first.number) == ("failed", 0)
    assert "its params cannot be set" in first.reason


def test_an_enqueued_value_outside_the_range_is_run_and_hidden_from_the_sampler(overrides, tmp_path) -> None:
    queue = start_study(*overrides)
    open_plain(queue.folder).enqueue_trial({"optimizer.lr": 5.0})
    assert len(serve_trials(queue, loss_of)) == 4
    assert find_unusable_trials(get_all_trials(queue.study)) == {0}
    assert draw_study_figures(queue.study, tmp_path / "figures")


def test_a_trial_that_a_notebook_ended_meanwhile_stays_as_it_is(overrides) -> None:
    queue = start_study(*overrides)
    trial = queue.claim_trial()
    open_plain(queue.folder).tell(trial.number, 0.5)
    queue.finish_trial(trial, make_result(loss=2.0))
    [summary] = summarize_trials(queue.study)
    assert (summary.status, summary.values) == ("added", (0.5,))
    assert len(serve_trials(queue, loss_of)) == 3


NOTEBOOK = """
import sys, time, pathlib, optuna
from optuna.trial import create_trial
folder = pathlib.Path(sys.argv[1])
backend = optuna.storages.journal.JournalFileBackend(str(folder / "study.journal"))
study = optuna.load_study(study_name="default", storage=optuna.storages.JournalStorage(backend))
count = 0
while not (folder / "stop").exists():
    study.add_trial(create_trial(value=-1.0, user_attrs={"n": count}))
    count += 1
    print(count, flush=True)
    time.sleep(0.02)
"""


def test_a_worker_trains_while_a_notebook_adds_trials(overrides) -> None:
    request = read_tiny_request(*overrides, "sweep.keep=1")
    queue = open_study(request)
    queue.set_budget(request.budget)
    notebook = subprocess.Popen(
        [sys.executable, "-c", NOTEBOOK, str(queue.folder)],
        stdout=subprocess.PIPE,
        text=True,
        stderr=subprocess.DEVNULL,
    )
    assert notebook.stdout.readline() == "1\n"
    run_trials(make_worker_spec(request), make_trial_runner, lambda: False)
    (queue.folder / "stop").touch()
    added = int(notebook.stdout.read().split()[-1])
    assert notebook.wait() == 0
    assert added > 2
    summary = summarize(queue.study, 4)
    assert summary.counts["completed"] == 4
    assert summary.counts["added"] == added
    kept = [trial.number for trial in summary.trials if (queue.folder / str(trial.number) / "checkpoints").exists()]
    assert kept == [summary.best_trial.number]
    assert OmegaConf.create(optimization_results(queue.study)).best_trial == summary.best_trial.number
