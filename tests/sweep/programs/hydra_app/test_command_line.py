"""Commands of sweeps and runs as users type them."""

import shlex

import pytest
from omegaconf import OmegaConf

from harness.sweep.programs.hydra_app.app_command import AppCommand
from harness.sweep.programs.hydra_app.command_line import AppCommandLine


def make_command_line(*given: str, program: tuple[str, ...] = ("/w/app.py",), app: str = "lr: 0.1\n"):
    config = OmegaConf.merge(
        OmegaConf.create(app), {"hydra": {"job": {"name": "app"}, "overrides": {"hydra": [], "task": []}}}
    )
    ranges = [one for one in given if one.startswith("lr=")]
    return AppCommandLine(config, AppCommand(program, given), ranges)


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
        (["search=optuna", "hydra/sweeper=harness"], {"lr": 0.01},
         "python w/app.py search=optuna hydra.mode=RUN lr=0.01"),
        (["hydra.mode=MULTIRUN", "lr=1,2"], {"lr": 1}, "python w/app.py lr=1"),
        (["-m", "seed=1", "++lr=5"], {"lr": None}, "python w/app.py seed=1 lr=null"),
        (["-m"], {"name": "a,b", "sizes": [1, 2], "amp": True, "net": "[64,64]"},
         "python w/app.py 'name='\"'\"'a,b'\"'\"'' 'sizes=[1,2]' amp=true 'net=[64,64]'"),
        (["-m", "db=postgresql://me:secret@host/x"], {}, "python w/app.py db=postgresql://host/x"),
    ],
)  # fmt: skip
def test_the_command_of_a_run_has_its_values_and_nothing_of_the_sweep(given, values, command) -> None:
    assert make_command_line(*given).format_command(values) == command


def test_the_command_of_the_sweep_is_that_of_the_user() -> None:
    given = ["-m", "lr=log(1e-4,1e-1)", "hydra.sweeper.storage=postgresql://me:secret@host/x"]
    line = make_command_line(*given, program=("-m", "pkg.app"))
    assert shlex.split(line.command) == [
        "python",
        "-m",
        "pkg.app",
        *given[:2],
        "hydra.sweeper.storage=postgresql://host/x",
    ]


def test_a_seed_of_the_app_can_be_repeated() -> None:
    assert make_command_line("-m").confirm_advice == ""
    advice = make_command_line("-m", app="seed: 1\n").confirm_advice
    assert advice == "-m hydra/sweeper=harness hydra/sweeper/sampler=grid seed=11,12,13 hydra.sweeper.study_name=NAME"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("choose another name with sweep.study=NAME", "choose another name with hydra.sweeper.study_name=NAME"),
        ("sweep.n_trials: 0 must be at least 1", "hydra.sweeper.n_trials: 0 must be at least 1"),
        ("hydra.sweeper.n_jobs: x; see hydra.sweep.dir", "hydra.sweeper.n_jobs: x; see hydra.sweep.dir"),
        ("/data/sweep.yaml: damaged", "/data/sweep.yaml: damaged"),
        ("use pruner=none", "use hydra.sweeper.pruner=none"),
    ],
)
def test_options_have_the_names_of_the_user(ours, theirs) -> None:
    assert make_command_line("-m").rename_options(ours) == theirs
