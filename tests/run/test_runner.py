"""Runs called as functions, several in one process, and dry runs."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from harness.config.compose import compose_config
from harness.core.checkpoint_names import checkpoint_name
from harness.core.effective_settings import EffectiveSettings
from harness.core.errors import ConfigError
from harness.core.events import EvalEnd, Event
from harness.run import provenance
from harness.run.dry_run import dry_run
from harness.run.runner import run
from tests.conftest import ROOT
from tests.run import test_run
from tests.run.test_run import read_record, read_series

SMOKE = [*test_run.SMOKE, "observers=metrics_only", "loop.max_steps=4"]
BASED = [*SMOKE[1:], "start=base", "start.source='experiment=smoke'", "lora=all_linear"]


def test_run_in_a_given_folder_with_tags(places, tmp_path) -> None:
    folder = tmp_path / "sweeps" / "study" / "7"
    overrides = ["experiment=smoke", "tracking.uri=http://me:secret@server"]
    tags = {"trial": "7", "host": "elsewhere"}
    result = run(compose_config([*SMOKE, *places]), folder=folder, tags=tags, overrides=overrides)
    start, end = read_record(folder)[0], read_record(folder)[-1]
    assert result.folder == folder
    assert start["name"] == "7"
    assert start["tags"]["trial"] == "7"
    assert start["tags"]["host"] == "elsewhere"
    assert start["overrides"] == ["experiment=smoke", "tracking.uri=http://server"]
    assert start["tags"]["command"] == "python run.py experiment=smoke tracking.uri=http://server"
    assert {"config.yaml", "command.txt", "checkpoints"} <= {path.name for path in folder.iterdir()}
    assert not (tmp_path / "outputs").exists()
    assert {name: end[name] for name in ("status", "step", "tokens", "seconds", "best_val_loss", "best_step")} == {
        name: getattr(result, name) for name in ("status", "step", "tokens", "seconds", "best_val_loss", "best_step")
    }
    assert result.effective == EffectiveSettings.from_json(start["effective"])
    assert result.effective.total_steps == 4


def test_folder_with_a_run_is_not_reused(places, tmp_path) -> None:
    folder = tmp_path / "7"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("recorded")
    with pytest.raises(ConfigError, match=r"7: already holds a run \(metrics.jsonl\); use another folder"):
        run(compose_config([*SMOKE, *places]), folder=folder)
    assert [path.read_text() for path in folder.iterdir()] == ["recorded"]


def test_sweep_keys_are_neither_validated_nor_recorded(places) -> None:
    cfg = compose_config([*SMOKE, *places, "+pruner.more=1", "++sweep.n_trials=???"])
    folder = run(cfg).folder
    names = {name.partition(".")[0] for name in read_record(folder)[0]["params"]}
    assert {"sweep", "pruner"} <= cfg.keys()
    assert not names & {"sweep", "pruner"}
    assert not OmegaConf.load(folder / "config.yaml").keys() & {"sweep", "pruner"}


def test_evaluations_report_progress(places) -> None:
    shares: list[float] = []

    def note(event: Event) -> None:
        if isinstance(event, EvalEnd):
            shares.append(event.fraction_done)

    run(compose_config([*SMOKE, *places, "loop.evals=2"]), [note])
    assert shares == [0, 0.5, 1]


def test_base_model_of_a_trial_is_a_separate_run(places_without_bases, tmp_path) -> None:
    trial = tmp_path / "sweeps" / "0"
    cfg = compose_config([*BASED, *places_without_bases])
    dry_run(cfg)
    result = run(cfg, folder=trial, tags={"trial": "0"})
    [base] = (tmp_path / "outputs").iterdir()
    assert base.name.endswith("_smoke")
    assert "trial" not in read_record(base)[0]["tags"]
    assert read_record(base)[-1]["step"] == 20
    assert read_record(trial)[0]["tags"]["trial"] == "0"
    assert result.step == 4


def test_dry_run_matches_the_run_and_writes_nothing(places, tmp_path) -> None:
    overrides = ["loop.max_steps=null", "loop.max_tokens=5000", "device.threads=2", "schedule.warmup_ratio=0.5"]
    cfg = compose_config([*SMOKE, *places, *overrides])
    before = (torch.get_rng_state(), torch.get_num_threads())
    prepared = dry_run(cfg, timed_steps=2)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == torch.get_num_threads()
    assert list(tmp_path.iterdir()) == []
    assert prepared.seconds_per_step > 0
    assert prepared.seconds_per_eval > 0
    result = run(cfg)
    assert prepared.effective == result.effective
    assert prepared.total_steps == result.effective.total_steps
    assert prepared.evals == result.effective.evals
    assert prepared.digest == read_record(result.folder)[0]["tags"]["data.digest"]
    step = prepared.tokens / prepared.total_steps
    assert 5000 <= prepared.tokens < 5000 + step


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (["schedule=wsd", "schedule.final_ratio=0.1"], "WSD lowers the LR to 10% of its peak, but ScheduleFreeAdamW "),
        (["schedule=constant"], ""),
    ],
    ids=str,
)
def test_notice_if_the_lr_of_a_schedule_free_optimizer_decays(places, schedule, message) -> None:
    notices = dry_run(compose_config([*test_run.SMOKE, *places, "optimizer=schedule_free", *schedule])).notices
    assert len(notices) == bool(message)
    assert all(notice.startswith(message) and "schedule=constant" in notice for notice in notices)


def test_dry_run_can_time_more_steps_than_the_run_has(places) -> None:
    prepared = dry_run(compose_config([*SMOKE, *places, "loop.max_steps=1", "loop.evals=1"]), timed_steps=3)
    assert prepared.total_steps == 1
    assert prepared.seconds_per_step > 0


def test_dry_run_raises_the_errors_of_the_run(places, tmp_path) -> None:
    with pytest.raises(ConfigError, match="rank=0 must be a whole number"):
        dry_run(compose_config([*SMOKE, *places, "lora=all_linear", "lora.rank=0"]))
    assert list(tmp_path.iterdir()) == []


FIRST = ["lora=all_linear", "model.dropout=0.1"]
SECOND = ["optimizer=muon", "schedule=wsd", "seed=5", "device.threads=2", "data.shuffle=false"]
FRESH = """
import sys
from harness.config.compose import compose_config
from harness.run.runner import run
run(compose_config(sys.argv[1:]))
"""


@pytest.mark.slow  # tests/sweep/test_sweeper.py compares a trial of a warm worker
def test_runs_in_one_process_match_runs_in_new_processes(places, tmp_path) -> None:
    warm = [compose_config([*SMOKE, *places, *changes]) for changes in (FIRST, SECOND, FIRST)]
    folders = [run(cfg).folder for cfg in warm]
    fresh = [
        run_in_subprocess([*SMOKE, *places, *changes], tmp_path / str(i)) for i, changes in enumerate((FIRST, SECOND))
    ]
    for folder, twin in zip(folders, (*fresh, fresh[0]), strict=True):
        for name in ("train/loss", "train/grad_norm", "val/loss"):
            assert len(read_series(folder, name)) >= 2
            assert read_series(folder, name) == read_series(twin, name)
    assert read_series(folders[0], "train/loss") != read_series(folders[1], "train/loss")


def run_in_subprocess(overrides: list[str], outputs: Path) -> Path:
    """Return the folder of a run in a new process."""
    command = [sys.executable, "-c", FRESH, *overrides, f"output_dir={outputs}"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120, capture_output=True)
    [folder] = outputs.iterdir()
    return folder


def test_composed_config_can_be_changed() -> None:
    overrides = ["experiment=smoke", "optimizer.lr=0.5"]
    compose_config(overrides).optimizer.lr = 7.0
    assert compose_config(overrides).optimizer.lr == 0.5
    assert compose_config(["experiment=smoke", "optimizer.lr=0.25"]).optimizer.lr == 0.25


def test_signal_before_the_first_step_ends_the_record_and_then_interrupts(places, tmp_path, monkeypatch) -> None:
    write = provenance.write_provenance

    def write_and_signal(*arguments: object) -> None:
        write(*arguments)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(provenance, "write_provenance", write_and_signal)
    with pytest.raises(KeyboardInterrupt):
        run(compose_config([*SMOKE, *places]))
    folder = test_run.find_only_run(tmp_path)
    end = read_record(folder)[-1]
    assert (end["status"], end["reason"], end["step"]) == ("interrupted", "stopped by a signal after step 0", 0)
    assert (folder / "checkpoints" / checkpoint_name(0)).is_dir()
