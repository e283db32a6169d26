"""Commands of sweeps and runs as users type them."""

import shlex
from pathlib import Path

import pytest

from harness.sweep.programs.hydra_app.app_command import AppCommand
from harness.sweep.programs.hydra_app.command_line import AppCommandLine, read_app_command_line
from tests.sweep.programs.hydra_app.apps import open_multirun


def make_command_line(
    folder: Path,
    *given: str,
    program: tuple[str, ...] = ("/w/app.py",),
    app: str = "lr: 0.1\n",
    composed: tuple[str, ...] = (),
) -> AppCommandLine:
    """Return the command line of an app that was started with the arguments `given`, of which some are `composed`."""
    with open_multirun(folder, app, *composed) as (context, cfg):
        ranges = [one for one in given if one.startswith("lr=")]
        return read_app_command_line(cfg, context.config_loader, AppCommand(program, given), ranges)


@pytest.fixture(autouse=True)
def in_folder(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir("/")


@pytest.mark.parametrize(
    ("given", "values", "command"),
    [
        (["-m", "lr=log(1e-4,1e-1)", "hydra/sweeper=harness"], {"lr": 0.01}, "python w/app.py lr=0.01"),
        (["--multirun", "hydra.sweeper.n_trials=9", "hydra/sweeper/sampler=random", "data=mnist"], {"lr": 0.01},
         "python w/app.py data=mnist lr=0.01"),
        (["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=x", "hydra.job.chdir=true"], {},
         "python w/app.py hydra.job.chdir=true"),
        (["-m", "--config-dir=conf", "-cn", "other", "~z"], {"+new": 1},
         "python w/app.py --config-dir=conf -cn other '~z' +new=1"),
        (["hydra.mode=MULTIRUN", "lr=1,2"], {"lr": 1}, "python w/app.py lr=1"),
        (["-m", "seed=1", "++lr=5"], {"lr": None}, "python w/app.py seed=1 lr=null"),
        (["-m"], {"name": "a,b", "sizes": [1, 2], "amp": True, "net": "[64,64]"},
         "python w/app.py 'name='\"'\"'a,b'\"'\"'' 'sizes=[1,2]' amp=true 'net=[64,64]'"),
        (["-m", "db=postgresql://me:secret@host/x"], {}, "python w/app.py db=postgresql://host/x"),
    ],
)  # fmt: skip
def test_the_command_of_a_run_has_its_values_and_nothing_of_the_sweep(tmp_path, given, values, command) -> None:
    assert make_command_line(tmp_path, *given).format_command(values) == command


def test_the_command_of_a_run_has_what_all_trials_share(tmp_path) -> None:
    given = ("-m", "drop=${missing.key}", "size=choice(3)", "lr=1,2")
    with open_multirun(tmp_path, "lr: 0.1\ndrop: 1\nsize: 2\nn: 1\n", *given[1:]) as (context, cfg):
        command = AppCommand(("/w/app.py",), given)
        line = read_app_command_line(cfg, context.config_loader, command, ["lr=1,2"], ["n=5", given[1], "size=3"])
    assert line.format_command({"lr": 1}) == "python w/app.py 'drop=${missing.key}' n=5 size=3 lr=1"


def test_a_file_that_always_sweeps_needs_another_mode_for_one_run(tmp_path) -> None:
    (tmp_path / "search").mkdir()
    (tmp_path / "search/optuna.yaml").write_text("# @package _global_\nhydra: {mode: MULTIRUN}\n")
    app = "defaults: [{search: null}]\nlr: 0.1\n"
    line = make_command_line(tmp_path, "-m", "search=optuna", app=app, composed=("search=optuna",))
    assert line.format_command({"lr": 0.01}) == "python w/app.py search=optuna hydra.mode=RUN lr=0.01"


def test_the_command_of_the_sweep_is_that_of_the_user(tmp_path) -> None:
    given = ["-m", "lr=log(1e-4,1e-1)", "hydra.sweeper.storage=postgresql://me:secret@host/x"]
    line = make_command_line(tmp_path, *given, program=("-m", "pkg.app"))
    assert shlex.split(line.command) == [
        "python",
        "-m",
        "pkg.app",
        *given[:2],
        "hydra.sweeper.storage=postgresql://host/x",
    ]


def test_the_key_of_the_seed_is_named_where_it_is_not_seed(tmp_path) -> None:
    for app, options in {
        "lr: 0.1\nseed: 1\n": "",
        "lr: 0.1\ntrainer: {random_seed: 1}\n": "--seed-flag trainer.random_seed",
        "lr: 0.1\n": "--seed-flag KEY",
    }.items():
        assert make_command_line(tmp_path, "-m", app=app).confirm_options == options
    with open_multirun(tmp_path, "seed: 1\n") as (context, cfg):
        assert read_app_command_line(cfg, context.config_loader, None, []).confirm_options is None


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("choose another name with sweep.study=NAME", "choose another name with hydra.sweeper.study_name=NAME"),
        ("sweep.n_trials: 0 must be at least 1", "hydra.sweeper.n_trials: 0 must be at least 1"),
        ("hydra.sweeper.n_jobs: x; see hydra.sweep.dir", "hydra.sweeper.n_jobs: x; see hydra.sweep.dir"),
        ("sweep.conditional.optimizer=muon: no range", "hydra.sweeper.conditional.optimizer=muon: no range"),
        ("or hydra/sweeper/sampler=random", "or hydra/sweeper/sampler=random"),
        ("sweep.yaml, /data/sweep.yaml: damaged", "sweep.yaml, /data/sweep.yaml: damaged"),
        ("sweep.py: no sweep.steps, pruner=l1", "sweep.py: no sweep.steps, pruner=l1"),
    ],
)
def test_options_have_the_names_of_the_user(tmp_path, ours, theirs) -> None:
    assert make_command_line(tmp_path, "-m").rename_options(ours) == theirs
