"""Confirmations of a sweep over an app: its own command starts the workers again, with other seeds."""

import json
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from harness import cli
from harness.core.errors import ConfigError
from harness.sweep.programs.hydra_app.rerun import prepare_app_rerun
from harness.sweep.rerun import Rerun, RerunOptions
from harness.sweep.space.search_space import SearchSpace
from harness.sweep.study.trial_attrs import FIXED_VALUES
from harness.sweep.swept_study import SweptStudy, load_swept_study
from tests.sweep.programs.hydra_app.apps import (
    HARNESS,
    load_app_study,
    read_record,
    read_results,
    run_app,
)
from tests.sweep.programs.hydra_app.test_workers import start_app, wait_until

APP = """
import random, time
import hydra

@hydra.main(config_path=".", config_name="settings")
def main(cfg):
    time.sleep(cfg.seconds)
    loss = 3 + (cfg.x - 0.5) ** 2 + random.Random(cfg.seed + int(100 * cfg.x)).gauss(0, 0.001)
    return {"val_loss": loss, "test_loss": loss + 0.1}

if __name__ == "__main__":
    main()
"""
SETTINGS = "x: 0\nseed: 0\nseconds: 0\n"
SWEEP = (*HARNESS, "-m", "hydra.sweeper.objectives=[val_loss]", "x=0.4,0.9", "hydra/sweeper/sampler=grid", "seed=3")


def write_app(folder: Path) -> Path:
    (folder / "app.py").write_text(APP)
    (folder / "settings.yaml").write_text(SETTINGS)
    return folder


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an app with a sweep, of which the command line fixes the seed."""
    folder = write_app(tmp_path_factory.mktemp("swept"))
    done = run_app(folder, *SWEEP)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "confirm it on fresh seeds\n  plateau confirm app\n" in done.stdout
    return folder


@pytest.fixture
def study(swept: Path, monkeypatch: pytest.MonkeyPatch) -> SweptStudy:
    monkeypatch.chdir(swept)
    return load_swept_study("multirun/app", Path("outputs"))


def prepare(study: SweptStudy, **options: Any) -> Rerun:
    return prepare_app_rerun(study, RerunOptions(**options))


def confirm(*arguments: str) -> int:
    return cli.main(["confirm", "multirun/app", *arguments])


def read_confirmation(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "multirun/app/confirm/confirm.json").read_text())


@pytest.mark.usefixtures("study")
def test_an_app_is_confirmed_on_test_data(swept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its trials are jobs of Hydra in the folder of the confirmation, with the seed that the command line has fixed."""
    assert confirm("--top", "1", "--test-metric", "test_loss") == 0
    output = capsys.readouterr().out
    found = read_confirmation(swept)
    assert f"Runs in {swept}\nCommand of baseline:\n  python app.py seed={found['seeds'][0]}\n" in output
    assert "trial 0 is better than the baseline: test loss -0.2" in output
    assert (found["split"], found["metric"], found["objective"]) == ("test", "test_loss", "val_loss")
    for config in found["configs"]:
        for run in config["runs"]:
            assert run["values"]["test_loss"] == pytest.approx(run["values"]["val_loss"] + 0.1)
            folder = swept / "multirun/app/confirm" / run["folder"]
            overrides = (folder / ".hydra/overrides.yaml").read_text().split("\n- ")
            assert f"seed={run['seed']}" in "\n".join(overrides)
            assert "seed=3\n" not in "\n".join([*overrides, ""])
            assert read_record(folder)[0]["tags"]["command"].endswith(f" seed={run['seed']}")


@pytest.mark.parametrize(
    ("config", "searched", "kept", "flag", "key", "seed"),
    [
        ({"seed": "3"}, {}, ["seed=3"], None, "seed", 3),
        ({"seed": "3"}, {}, ["+seed=3"], None, "+seed", 3),
        ({"seed": "3"}, {}, ["++seed=3"], "seed=", "++seed", 3),
        ({"seed": "None"}, {}, [], None, "seed", None),
        ({"trainer.seed": "3"}, {}, [], "trainer.seed", "trainer.seed", 3),
        ({}, {"seed": [1, 2]}, [], None, "seed", None),
        ({}, {"+seed": [1, 2]}, [], "seed", "+seed", None),
        ({}, {"model": ["small", "large"]}, [], "model.seed", "model.seed", None),  # of an option that is searched
    ],
)  # fmt: skip
def test_the_seed_is_a_key_of_the_app(
    study: SweptStudy,
    config: Mapping[str, str],
    searched: Mapping[str, list[Any]],
    kept: list[str],
    flag: str | None,
    key: str,
    seed: int | None,
) -> None:
    rerun = prepare(change_study(study, config, searched, kept), seed_flag=flag)
    assert (rerun.seed_key, rerun.seed) == (key, seed)


def change_study(
    study: SweptStudy, config: Mapping[str, str], searched: Mapping[str, list[Any]], kept: list[str]
) -> SweptStudy:
    space = SearchSpace({key: CategoricalDistribution(values) for key, values in searched.items()}, {}, {})
    settings = study.program.settings
    line = {**settings["command_line"], "kept": kept}
    return replace(
        study,
        spec=replace(study.spec, config=config, space=space.to_json()),
        program=replace(study.program, settings={**settings, "command_line": line}),
    )


@pytest.mark.parametrize(
    ("config", "flag", "problem"),
    [
        ({"x": "1"}, None, "--seed-flag: the configuration has no key seed; name its key, as in --seed-flag trainer.s"),
        ({"net.random_seed": "1", "data.seeds": "2"}, None,
         "no key seed; it has net.random_seed, data.seeds; name its key, as in --seed-flag net.random_seed"),
        ({"seed": "1"}, "sed", "--seed-flag sed: the configuration has no such key; did you mean 'seed'?"),
        ({"seed": "1"}, "--seed", "--seed-flag --seed: the configuration has no such key; did you mean 'seed'?"),
    ],
)  # fmt: skip
def test_unknown_seeds_are_refused(
    study: SweptStudy, config: Mapping[str, str], flag: str | None, problem: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        prepare(change_study(study, config, {}, []), seed_flag=flag)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"settings": {"missing_command": "app.ipynb was started by another program"}},
         r"its trials ran in the process that started the sweep \(app.ipynb was started by another program\), which"),
        ({"settings": {"unset": ["x"]}}, "has no baseline, since the configuration has no value for x; give it one"),
        ({"command": ["python", "app.py", "db.password=***"], "hidden": ["command.2"]},
         "its command has a secret, which is not recorded: db.password=.*; write it as .{oc.env:NAME}"),
        ({"cwd": "/no/such"}, "the folder /no/such, in which the app ran, does not exist; restore it"),
        ({"command": ["/no/python", "app.py"]}, "/no/python: the interpreter of the app does not exist; restore it"),
    ],
)  # fmt: skip
def test_apps_that_cannot_be_started_again_are_refused(
    study: SweptStudy, changes: Mapping[str, Any], problem: str
) -> None:
    settings = {**study.program.settings, **changes.get("settings", {})}
    changed = replace(study, program=replace(study.program, **{**changes, "settings": settings}))
    with pytest.raises(ConfigError, match=problem):
        prepare(changed)


def test_other_machines_are_not_used(study: SweptStudy) -> None:
    changed = replace(study, program=replace(study.program, launcher="submitit_slurm", n_jobs=50))
    rerun = prepare(changed)
    assert rerun.notices == ("the sweep ran by hydra/launcher=submitit_slurm; these runs are made on this machine",)
    assert rerun.workers.n_jobs < 50
    assert prepare(study).notices == ()


@pytest.mark.slow
def test_changed_settings_of_the_app_are_refused(tmp_path: Path) -> None:
    write_app(tmp_path)
    assert run_app(tmp_path, *SWEEP).returncode == 0
    (tmp_path / "settings.yaml").write_text(SETTINGS.replace("seconds: 0", "seconds: 0.01\nnew: 1"))
    done = run_app(tmp_path, "confirm", "multirun/app", program=("-m", "harness"))
    assert done.returncode == 1
    assert "new, seconds: changed since the sweep was started; change them back" in done.stderr
    (tmp_path / "settings.yaml").write_text(SETTINGS)
    assert run_app(tmp_path, "confirm", "multirun/app", program=("-m", "harness")).returncode == 0


@pytest.mark.slow
def test_an_app_without_the_result_on_test_data_is_corrected_and_resumed(tmp_path: Path) -> None:
    write_app(tmp_path)
    assert run_app(tmp_path, *SWEEP).returncode == 0
    (tmp_path / "app.py").write_text(APP.replace('"test_loss"', '"other"'))
    arguments = ("confirm", "multirun/app", "--test-metric", "test_loss", "--top", "1")
    done = run_app(tmp_path, *arguments, program=("-m", "harness"))
    assert done.returncode == 1
    assert "it has no 'test_loss'; return it by this name" in done.stderr
    assert len(read_results(load_app_study(tmp_path / "multirun/app/confirm"))) == 1
    (tmp_path / "app.py").write_text(APP)
    assert run_app(tmp_path, *arguments, program=("-m", "harness")).returncode == 0
    assert read_confirmation(tmp_path)["status"] == "decided"


@pytest.mark.slow
def test_a_killed_confirmation_resumes_to_the_exact_number_of_runs(tmp_path: Path) -> None:
    write_app(tmp_path)
    (tmp_path / "app.py").write_text(APP.replace("(cfg.x - 0.5) ** 2", "0"))
    assert run_app(tmp_path, *SWEEP, "seconds=0.3").returncode == 0
    arguments = ("confirm", "multirun/app", "--top", "1")
    folder = tmp_path / "multirun/app/confirm"

    def count_completed() -> int:
        with suppress(ValueError):  # it has no study yet
            if (folder / "study.journal").exists():
                return len(load_app_study(folder).get_trials(states=[TrialState.COMPLETE]))
        return 0

    for number, status in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)):
        before = count_completed()
        process = start_app(tmp_path, *arguments, program=("-m", "harness"))
        wait_until(lambda before=before: count_completed() >= before + 2)  # type: ignore[misc]
        process.send_signal(number)
        assert process.wait(timeout=60) == status
    assert 4 <= count_completed() < 10
    done = run_app(tmp_path, *arguments, program=("-m", "harness"))
    assert done.returncode == 0, done.stdout + done.stderr
    trials = load_app_study(folder).get_trials(states=[TrialState.COMPLETE])
    runs = {json.dumps(trial.user_attrs[FIXED_VALUES]) for trial in trials}
    assert len(runs) == len(trials) == 10
