"""`start=resume start.run=RUN` takes the run's own choices, unless the command overrides them."""

from pathlib import Path
from typing import Any

import pytest

from harness.config.compose import compose_config, without_sweep_keys
from harness.config.locks import check_locked
from harness.core.errors import ConfigError
from harness.run.resumed_settings import take_over_settings
from tests.conftest import run_main
from tests.run.test_reproduce import training_settings, write_record
from tests.run.test_run import read_record


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """A folder with a run that chose an experiment, an optimizer, a length, a device and folders."""
    overrides = ["experiment=operator", "name=mine", "optimizer=sgd", "optimizer.lr=0.5", "loop.epochs=3", "device=cpu",
                 "output_dir=/nowhere", "tracking.experiment=old", "cache_dir=/nowhere"]  # fmt: skip
    return record_run(tmp_path / "outputs", overrides).parent


def record_run(outputs: Path, overrides: list[str]) -> Path:
    folder = outputs / "2026-01-02_03-04-05_mine"
    folder.mkdir(parents=True)
    return write_record(folder, without_sweep_keys(compose_config(overrides)), overrides)


def resume(outputs: Path, *overrides: str, is_sweep: bool = False) -> list[str]:
    return take_over_settings([f"output_dir={outputs}", "start=resume", "start.run=mine", *overrides], is_sweep)


def compose_resumed(outputs: Path, *overrides: str) -> dict[str, Any]:
    return training_settings(without_sweep_keys(compose_config(resume(outputs, *overrides))))


def test_settings_of_the_run_are_taken(outputs) -> None:
    recorded = training_settings(
        compose_config(["experiment=operator", "optimizer=sgd", "optimizer.lr=0.5", "loop.epochs=3"])
    )
    found = compose_resumed(outputs)
    ignored = ("start", "device", "sweep", "pruner", "preflight")
    assert {key: found[key] for key in found if key not in ignored} == {
        key: value for key, value in recorded.items() if key not in ignored
    }
    cfg = compose_config(resume(outputs))
    assert (cfg.name, cfg.start.kind, cfg.start.run) == ("mine", "resume", "mine")


def test_settings_of_the_machine_are_not_taken(outputs) -> None:
    cfg = compose_config(resume(outputs))
    assert (cfg.device.kind, cfg.tracking.experiment, cfg.cache_dir) == ("auto", "default", ".cache")
    assert cfg.output_dir == str(outputs)


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        (["optimizer.lr=0.1"], "optimizer.lr", 0.1),
        (["optimizer=lion"], "optimizer.lr", 1e-4),
        (["optimizer=sgd"], "optimizer.lr", 0.5),  # the run's own option keeps its values
        (["optimizer=sgd", "optimizer.momentum=0.8"], "optimizer.lr", 0.5),
        (["loop.max_steps=7"], "loop.epochs", None),
        (["experiment=operator", "optimizer.lr=0.1"], "optimizer._target_", "torch.optim.SGD"),
        (["name=other"], "name", "other"),
        (["experiment=smoke"], "optimizer._target_", "torch.optim.AdamW"),
    ],
)
def test_overrides_win(overrides, key, value, outputs) -> None:
    node: Any = compose_config(resume(outputs, *overrides))
    for part in key.split("."):
        node = node[part]
    assert node == pytest.approx(value)


def test_sweep_searches_the_ranges_of_its_file(outputs) -> None:
    given = resume(outputs, "sweeps=operator", is_sweep=True)
    assert "optimizer.lr=0.5" not in given
    assert "sweep.baseline_values=['optimizer.lr=0.5']" in given
    assert "loop.epochs=3" in given
    own = ["sweeps=operator", "sweep.baseline_values=[optimizer.lr=0.1]"]
    assert [one for one in resume(outputs, *own, is_sweep=True) if one.startswith("sweep.base")] == [own[1]]


def test_option_of_the_run_is_known_by_what_it_composes(tmp_path) -> None:
    run = record_run(tmp_path / "outputs", ["optimizer.lr=0.5"])  # the default option, which no override names
    assert compose_resumed(run.parent, "optimizer=adamw")["optimizer"]["lr"] == 0.5
    sgd = without_sweep_keys(compose_config(["optimizer=sgd", "optimizer.lr=0.5"]))
    write_record(run, sgd, ["experiment=absent"])
    other = compose_resumed(run.parent, "optimizer=adamw")["optimizer"]  # reproduced by its `_target_`
    assert (other["_target_"], other["lr"]) == ("torch.optim.AdamW", 1e-4)


@pytest.mark.parametrize(
    "overrides",
    [
        ["start=resume"],
        ["start=warm", "start.source=mine"],
        ["start=resume", "start.run=a,b"],
        ["start=(", "start.run=x"],
        ["lora=none"],
    ],
)
def test_other_commands_are_left_as_they_are(overrides) -> None:
    assert take_over_settings(overrides) == overrides


def test_run_that_is_not_found_is_refused(outputs) -> None:
    with pytest.raises(ConfigError, match=r"start\.run: 'mien' is not .*; did you mean 'mine'"):
        take_over_settings([f"output_dir={outputs}", "start=resume", "start.run=mien"])


def test_locks_of_the_experiment_hold(tmp_path) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    text = "# @package _global_\nlocked: [optimizer, lora.rank]\n"
    (tmp_path / "conf" / "experiment" / "strict.yaml").write_text(text)
    search = f"hydra.searchpath=[file://{tmp_path}/conf]"
    unlocked = [search, "experiment=strict", "unlock=[lora]", "lora.rank=4"]
    outputs = record_run(tmp_path / "outputs", unlocked).parent
    given = resume(outputs, search)
    assert {"experiment=strict", "unlock=[lora]", "lora.rank=4"} <= set(given)
    check_locked(compose_config(given), given)
    given = resume(outputs, search, "optimizer.lr=0.5")
    with pytest.raises(ConfigError, match=r"optimizer\.lr=0\.5: experiment strict locks optimizer"):
        check_locked(compose_config(given), given)
    given = resume(outputs, search, "optimizer.lr=0.5", "unlock=[optimizer]")
    check_locked(compose_config(given), given)


def test_run_of_somebody_else_chooses_no_store_and_no_files(tmp_path) -> None:
    (tmp_path / "evil" / "experiment").mkdir(parents=True)
    text = "# @package _global_\ntracking: {uri: 'http://evil'}\nlora: {rank: 3}\n"
    (tmp_path / "evil" / "experiment" / "evil.yaml").write_text(text)
    recorded = [f"hydra.searchpath=[file://{tmp_path}/evil]", "experiment=evil", "observers.mlflow.uri=http://evil"]
    cfg = compose_config(resume(record_run(tmp_path / "outputs", recorded).parent))
    assert (cfg.tracking.uri, cfg.observers.mlflow.uri) == (None, None)
    assert cfg.lora.rank == 3


def test_resumed_run_is_recorded_with_its_settings(places, tmp_path, monkeypatch, capsys) -> None:
    tiny = ["experiment=smoke", "device=cpu", "model.layers=1", "model.width=16", "loop.max_steps=3", "loop.evals=1",
            "observers=metrics_only", "data.val_fraction=0.01", "batch.batch_size=8"]  # fmt: skip
    assert run_main(monkeypatch, *tiny, *places, "name=mine", "optimizer.lr=2e-3") == 0
    [first] = (tmp_path / "outputs").iterdir()
    monkeypatch.chdir(tmp_path)
    assert (
        run_main(monkeypatch, "start=resume", "start.run=last", *places, "loop.max_steps=4", "optimizer.lr=1e-3") == 0
    )
    [second] = [folder for folder in (tmp_path / "outputs").iterdir() if folder != first]
    changed = [line.split()[0] for line in (second / "start.txt").read_text().splitlines()[1:]]
    assert {key for key in changed if not key.startswith("used.")} == {"optimizer.lr", "loop.max_steps"}
    start = read_record(second)[0]
    assert {"experiment=smoke", "model.layers=1", f"start.run={first}", "optimizer.lr=1e-3"} <= set(start["overrides"])
    assert "optimizer.lr=2e-3" not in start["overrides"]
    assert f"start.run={first}" in (second / "command.txt").read_text()
    assert run_main(monkeypatch, "start=resume", "start.run=mine", *places) == 2  # no step is left
    errors = capsys.readouterr().err
    assert f"start.run: 'mine' is the newest of 2 runs with this name, {second.name}" in errors
    assert "the checkpoint is at step 4 and the run ends at step 4" in errors
