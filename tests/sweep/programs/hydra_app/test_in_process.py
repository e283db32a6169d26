"""Sweeps in a process that runs more than the app: trials run in it one after another."""

import asyncio
import json
import math
import signal
import sys
from copy import deepcopy
from types import FunctionType, SimpleNamespace

import optuna
import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from harness.core.errors import ConfigError, RunFailedError
from harness.sweep import Pruned, report
from harness.sweep.programs.hydra_app.rerun import prepare_app_rerun
from harness.sweep.programs.hydra_app.sweep import name_library_job
from harness.sweep.reporting import Interrupted
from harness.sweep.rerun import RerunOptions
from harness.sweep.swept_study import load_swept_study
from tests.sweep.programs.hydra_app.apps import load_app_study, read_record, read_results, sweep_here

SPHERE = """
x: 3
y: 1
hydra: {sweeper: {sampler: {seed: 1}, params: {x: 'range(-5.5, 5.5, step=0.5)', y: 'choice(-5, 0, 5)'}}}
"""


def sphere(cfg: DictConfig) -> float:
    return cfg.x**2 + cfg.y**2


def test_a_space_in_the_configuration_is_minimized(tmp_path, capsys) -> None:
    jobs = sweep_here(tmp_path, sphere, SPHERE, "hydra.sweeper.n_trials=5", "y=0")
    study = load_app_study(tmp_path / "sweep")
    assert [job.return_value for job in jobs] == [trial.value for trial in study.trials]
    assert study.trials[0].params == {"x": 3.0}  # the configuration as it is
    assert jobs[1].overrides == [f"x={study.trials[1].params['x']}", "y=0"]
    results = OmegaConf.load(tmp_path / "sweep/optimization_results.yaml")
    assert (results.name, results.best_value) == ("optuna", study.best_value)
    assert f"python app.py y=0 x={study.best_params['x']}" in capsys.readouterr().out
    start, end = read_record(tmp_path / "sweep/1")[0], read_record(tmp_path / "sweep/1")[-1]
    assert start["params"] == {"x": str(study.trials[1].params["x"]), "y": "0"}
    assert end["values"] == {"value": study.trials[1].value}


@pytest.mark.parametrize(
    ("objectives", "direction"), [("[val_acc]", "maximize"), ("[val_acc,loss]", "[maximize,minimize]")]
)
def test_a_direction_that_a_name_contradicts_is_noted(tmp_path, capsys, objectives: str, direction: str) -> None:
    options = ["x=interval(1,4)", f"hydra.sweeper.objectives={objectives}", "hydra.sweeper.dry_run=true"]
    sweep_here(tmp_path, sphere, "x: 3\ny: 1\n", *options)
    remedy = f"set hydra.sweeper.direction={direction}"
    assert f"note: the sweep is to minimize val_acc: if more is better, {remedy}\n" in capsys.readouterr().out
    sweep_here(tmp_path, sphere, "x: 3\ny: 1\n", *options, remedy.removeprefix("set "))
    assert "if more is better" not in capsys.readouterr().out


def test_one_value_is_a_setting_and_workers_that_cannot_start_are_noted(tmp_path, capsys) -> None:
    options = ["hydra.sweeper.n_trials=1", "hydra.sweeper.n_jobs=2", "y=${x}"]
    sweep_here(tmp_path, sphere, "x: 3\ny: 1\n", "x=interval(2,2)", *options)
    shown = capsys.readouterr().out
    assert "\n  python app.py 'y=${x}' x=2\n" in shown
    with pytest.raises(ConfigError, match="its trials ran in the process that started the sweep"):
        prepare_app_rerun(load_swept_study("sweep", tmp_path), RerunOptions())
    assert shown.count("note: hydra.sweeper.n_jobs=2: the trials run in this process one after another (") == 1
    with pytest.raises(ConfigError, match=r"config x: 2 -> 3"):
        sweep_here(tmp_path, sphere, "x: 3\ny: 1\n", *options)


def test_the_job_of_a_librarys_wrapper_is_named_after_the_script(monkeypatch, tmp_path) -> None:
    task = FunctionType(sphere.__code__, globals())
    task.__module__ = "zen._wrapper"
    monkeypatch.setitem(sys.modules, "zen._wrapper", SimpleNamespace(__file__="/env/site-packages/zen/_wrapper.py"))
    for main, job_name, expected in (
        ("/w/train.py", "_wrapper", "train"),
        ("/w/tool/__main__.py", "_wrapper", "tool"),
        ("/w/train.py", "mine", "mine"),
        (None, "_wrapper", "_wrapper"),
    ):
        monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__file__=main))
        named = name_library_job(OmegaConf.create({"hydra": {"job": {"name": job_name}}}), task)
        assert named.hydra.job.name == expected


def test_a_finished_sweep_prints_its_results_again_and_writes_nothing(tmp_path, capsys) -> None:
    def read_results_files() -> dict[str, tuple[int, bytes]]:
        files = [tmp_path / "sweep/summary.json", *(tmp_path / "sweep/figures").iterdir()]
        return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    sweep_here(tmp_path, sphere, SPHERE, "hydra.sweeper.n_trials=2", "y=0")
    first, before = capsys.readouterr().out, read_results_files()
    assert len(before) > 1
    sweep_here(tmp_path, sphere, SPHERE, "hydra.sweeper.n_trials=2", "y=0")
    assert read_results_files() == before
    *again, last = capsys.readouterr().out.splitlines()
    assert again[-4:] == first.splitlines()[-4:]
    assert last == "No more trials: all 2 were run before; raise hydra.sweeper.n_trials to run more."
    sweep_here(tmp_path, sphere, SPHERE, "hydra.sweeper.n_trials=3", "y=0")
    after = read_results_files()
    assert all(after[name][0] > before[name][0] for name in before)


def test_an_interrupted_sweep_draws_its_figures_when_it_is_resumed(tmp_path) -> None:
    def interrupt_third(cfg: DictConfig) -> float:
        if HydraConfig.get().job.num == 2:
            signal.raise_signal(signal.SIGINT)
        return float(cfg.x)

    command = ("x: 0\n", "x=range(0,9)", "hydra.sweeper.n_trials=3")
    with pytest.raises((RunFailedError, KeyboardInterrupt)):
        sweep_here(tmp_path, interrupt_third, *command)
    assert json.loads((tmp_path / "sweep/summary.json").read_text())["status"] == "interrupted"
    assert not (tmp_path / "sweep/figures").exists()
    sweep_here(tmp_path, interrupt_third, *command)
    assert (tmp_path / "sweep/figures/history.png").is_file()


@pytest.mark.slow
def test_several_objectives_have_a_front(tmp_path) -> None:
    def binh_and_korn(cfg: DictConfig) -> tuple[float, float]:
        return 4 * cfg.x**2 + 4 * cfg.y**2, (cfg.x - 5) ** 2 + (cfg.y - 5) ** 2

    space = ["x=range(0,5,step=0.5)", "y=range(0,3,step=0.5)", "hydra/sweeper/sampler=nsgaii"]
    directions = "hydra.sweeper.direction=[minimize,maximize]"
    sweep_here(tmp_path, binh_and_korn, "x: 1\ny: 1\n", *space, directions, "hydra.sweeper.n_trials=4")
    study = load_app_study(tmp_path / "sweep")
    assert [direction.name for direction in study.directions] == ["MINIMIZE", "MAXIMIZE"]
    solutions = OmegaConf.load(tmp_path / "sweep/optimization_results.yaml").solutions
    assert [list(one["values"]) for one in solutions] == [trial.values for trial in study.best_trials]


def end_somehow(cfg: DictConfig) -> object:
    match cfg.how:
        case "raise":
            raise ValueError("too large")
        case "memory":
            raise MemoryError
        case "keyboard":
            raise KeyboardInterrupt
        case "stop":
            raise Interrupted("by myself")
        case "prune":
            raise Pruned("no use")
        case "cancel":
            raise asyncio.CancelledError
        case "long":
            raise RuntimeError(f"\n\x1b[31mfirst\x1b[0m {'x' * 500} last\nsecond")
        case "exit":
            sys.exit(3)
        case "text":
            return "done"
        case "diverge":
            return math.nan
        case "nothing":
            return None
    return 0.5


FIRST_LINE = end_somehow.__code__.co_firstlineno


def test_every_way_to_end_is_told(tmp_path) -> None:
    ways = "raise,memory,keyboard,stop,prune,cancel,long,exit,text,diverge,nothing,well"
    options = ["hydra/sweeper/sampler=grid", "hydra.sweeper.max_failure_rate=1.0"]
    sweep_here(tmp_path, end_somehow, "how: well\n", f"how={ways}", *options)
    study = load_app_study(tmp_path / "sweep")
    assert {trial.params["how"]: result for trial, result in zip(study.trials, read_results(study), strict=True)} == {
        "raise": ("failed", "ValueError: too large"),
        "memory": ("failed", f"MemoryError at test_in_process.py:{FIRST_LINE + 5}"),
        "keyboard": ("failed", f"KeyboardInterrupt at test_in_process.py:{FIRST_LINE + 7}"),
        "stop": ("failed", "Interrupted: by myself"),
        "prune": ("pruned", "no use"),
        "cancel": ("failed", f"CancelledError at test_in_process.py:{FIRST_LINE + 13}"),
        "long": ("failed", f"RuntimeError: first {'x' * 127} … {'x' * 45} last"),
        "exit": ("failed", "the task function called sys.exit(3) and returned no value"),
        "text": ("failed", "the task function returned 'done' (str); return the value to optimize as a float"),
        "diverge": ("diverged", "the task function returned nan"),
        "nothing": ("failed", "the task function returned None; return the value to optimize as a float"),
        "well": ("completed", ""),
    }
    assert "too large" in (tmp_path / "sweep/0/traceback.txt").read_text()
    assert "KeyboardInterrupt" in (tmp_path / "sweep/2/traceback.txt").read_text()
    assert "last\nsecond" in (tmp_path / "sweep/6/traceback.txt").read_text()
    assert read_record(tmp_path / "sweep/2")[-1]["status"] == "failed"


def test_reports_prune_and_are_recorded(tmp_path) -> None:
    def train(cfg: DictConfig) -> float:
        for step in range(1, 9):
            report(cfg.x / step, step=step, total_steps=8)
        return cfg.x / 8

    options = ["hydra/sweeper/sampler=grid", "hydra.sweeper.pruner={_target_:optuna.pruners.ThresholdPruner,upper:50}"]
    sweep_here(tmp_path, train, "x: 1\n", "x=1,2,300,3", *options)
    statuses = [status for status, _ in read_results(load_app_study(tmp_path / "sweep"))]
    assert statuses == ["completed", "completed", "pruned", "completed"]
    curve = [entry["metrics"] for entry in read_record(tmp_path / "sweep/1") if entry["kind"] == "metrics"]
    assert curve == [{"value": 2 / step} for step in range(1, 9)]
    assert read_record(tmp_path / "sweep/2")[-1]["status"] == "pruned"


@pytest.mark.slow
def test_the_same_sweep_resumes_and_another_is_refused(tmp_path) -> None:
    options = ["hydra/sweeper/sampler=random", "x=interval(-5,5)", "hydra.sweeper.study_name=mine"]
    sweep_here(tmp_path, sphere, "x: 3\ny: 1\n", *options, "hydra.sweeper.n_trials=2")
    sweep_here(tmp_path, sphere, "x: 3\ny: 1\n", *options, "hydra.sweeper.n_trials=3")
    assert len(load_app_study(tmp_path / "sweep").trials) == 3
    with pytest.raises(ConfigError, match=r"config y: 1 -> 2\nstart a new study with hydra\.sweeper\.study_name=NAME"):
        sweep_here(tmp_path, sphere, "x: 3\ny: 2\n", *options, "hydra.sweeper.n_trials=4")
    assert len(load_app_study(tmp_path / "sweep").trials) == 3


@pytest.mark.slow
def test_required_values_and_new_keys_can_be_searched(tmp_path, capsys) -> None:
    def task(cfg: DictConfig) -> float:
        assert HydraConfig.get().job.num == int(HydraConfig.get().job.id)
        return cfg.required + cfg.new

    sweep_here(tmp_path, task, "required: ???\n", "required=1,2", "+new=10,20", "hydra/sweeper/sampler=grid")
    assert [trial.value for trial in load_app_study(tmp_path / "sweep").trials] == [11, 21, 12, 22]


@pytest.mark.slow
def test_without_a_configuration_and_ranges_the_app_runs_once(tmp_path) -> None:
    [job] = sweep_here(tmp_path, lambda cfg: cfg.x, None, "+x=2", name=None)
    assert job.overrides == ["+x=2"]
    assert load_app_study(tmp_path / "sweep").best_value == 2


def extend_space(cfg: DictConfig, trial) -> None:
    trial.suggest_float("z", trial.params["x"] - cfg.width, trial.params["x"] + cfg.width)
    trial.suggest_float("+w", 0.0, 1.0)


@pytest.mark.slow
def test_a_function_of_the_user_extends_the_space(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HARNESS_TRUST", f"{__name__}.extend_space")
    config = "x: 1\nz: 1\nwidth: 0.5\n"
    custom = f"hydra.sweeper.custom_search_space={__name__}.extend_space"
    sweep_here(tmp_path, lambda cfg: cfg.z + cfg.w, config, "x=range(-5,5)", custom, "hydra.sweeper.n_trials=3")
    for trial in load_app_study(tmp_path / "sweep").trials:
        assert abs(trial.params["x"] - trial.params["z"]) <= 0.5
        assert 0 <= trial.params["+w"] <= 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("hydra.sweeper.direction=upwards", "hydra.sweeper.direction: upwards: must be minimize or maximize"),
        ("hydra.sweeper.n_trials=0", "hydra.sweeper.n_trials: 0 must be at least 1"),
        ("hydra.sweeper.n_trials=many", "hydra.sweeper.n_trials: 'many' is not a whole number"),
        ("hydra.sweeper.max_failure_rate=2", "hydra.sweeper.max_failure_rate: 2 must be a share from 0 to 1"),
        ("hydra.sweeper.study_name=' '", "hydra.sweeper.study_name: ' ' must be a name in one line"),
        ("hydra.sweeper.mlflow_uri=./runs", "hydra.sweeper.mlflow_uri: './runs' is not a tracking store"),
        ("hydra.sweeper.pruner=foo", "hydra.sweeper.pruner: foo: must be one of halving"),
        ("hydra.sweeper.storage=nonsense", "hydra.sweeper.storage: 'nonsense' is not a database URL"),
        ("hydra.sweeper.custom_search_space=os.remove", "hydra.sweeper.custom_search_space: os.remove is not trusted"),
        ("hydra.sweeper.enqueue=[{zz:1}]", "hydra.sweeper.enqueue: zz: not searched by this sweep"),
        ("lrr=1,2", "lrr=1: Could not override 'lrr'"),
        ("x=interval(2,1)", "x=interval(2,1): the lower bound is above the upper bound"),
    ],
)
def test_invalid_input_is_refused_before_anything_is_written(tmp_path, override, message) -> None:
    with pytest.raises(ConfigError) as error:
        sweep_here(tmp_path, sphere, "x: 3\ny: 1\n", "y=1,2", override)
    assert str(error.value).startswith(message)
    assert not (tmp_path / "sweep").exists()


def test_a_wrong_variable_of_mlflow_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    with pytest.raises(ConfigError, match=r"^MLFLOW_TRACKING_URI: './mlruns' is not a tracking store"):
        sweep_here(tmp_path, sphere, SPHERE)


def test_a_dry_run_says_what_would_run_and_writes_nothing(tmp_path, capsys) -> None:
    sweep_here(tmp_path, sphere, SPHERE, "hydra.sweeper.dry_run=true", "hydra.sweeper.n_trials=7")
    shown = capsys.readouterr().out
    assert "7 trials by 1 worker" in shown
    assert "y: -5,0,5" in shown
    assert not (tmp_path / "sweep").exists()


def test_a_sweep_that_fails_raises_what_the_task_raised(tmp_path) -> None:
    def task(cfg: DictConfig) -> float:
        try:
            raise KeyError("cause")
        except KeyError as error:
            raise ValueError("too large") from error

    with pytest.raises(ValueError, match="too large") as error:
        sweep_here(tmp_path, task, "x: 1\n", "x=1,2", "hydra.sweeper.max_failure_rate=0.0")
    assert isinstance(error.value.__cause__, KeyError)
    assert error.traceback[-1].name == "task"


def test_no_file_of_the_sweep_holds_a_password_that_is_hard_to_take_out(tmp_path) -> None:
    """An address within an interpolation, which is damaged without it, and one in an exception."""

    def fail(cfg: DictConfig) -> float:
        raise ValueError("no answer from http://me:secretpw@host")

    config = 'x: 1\nurl: "${oc.env:HOST,http://me:secretpw}@host"\n'
    with pytest.raises(ValueError, match="no answer"):
        sweep_here(tmp_path, fail, config, "x=1,2", "hydra.sweeper.max_failures=1", "hydra.sweeper.n_trials=1")
    written = [*(tmp_path / "sweep").glob("*/traceback.txt"), tmp_path / "sweep/multirun.yaml"]
    assert len(written) > 1
    assert [path.name for path in written if "secretpw" in path.read_text()] == []
    assert "secretpw" not in str(read_results(load_app_study(tmp_path / "sweep")))


class EdgeSampler(optuna.samplers.RandomSampler):
    """A user's own sampler, which proposes the upper end of every range."""

    def sample_independent(self, study, trial, name, dist):
        return dist.high


class FirstReportPruner(optuna.pruners.BasePruner):
    """A user's own pruner, which stops a trial at its first report."""

    def prune(self, study, trial) -> bool:
        return True


def test_samplers_and_pruners_of_the_user_need_trust(tmp_path, monkeypatch) -> None:
    def task(cfg: DictConfig) -> float:
        report(cfg.x, step=1, total_steps=2)
        return float(cfg.x)

    node = {"_target_": f"{__name__}.EdgeSampler"}
    monkeypatch.setattr(ConfigStore.instance(), "repo", deepcopy(ConfigStore.instance().repo))
    ConfigStore.instance().store(group="hydra/sweeper/sampler", name="edge", node=node)
    own = ["hydra/sweeper/sampler=edge", f"hydra.sweeper.pruner={{_target_:{__name__}.FirstReportPruner}}"]
    command = ("x: 3\n", "x=interval(1,4)", "hydra.sweeper.n_trials=2", *own)
    with pytest.raises(ConfigError, match=r"EdgeSampler is not trusted.*HARNESS_TRUST"):
        sweep_here(tmp_path, task, *command)
    monkeypatch.setenv("HARNESS_TRUST", f"{__name__}.EdgeSampler,{__name__}.FirstReportPruner")
    sweep_here(tmp_path, task, *command)
    trials = load_app_study(tmp_path / "sweep").trials
    assert [(trial.params, trial.state.name) for trial in trials] == [({"x": 3}, "COMPLETE"), ({"x": 4}, "PRUNED")]
