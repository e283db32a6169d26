"""Apps whose trials have two devices: two processes on the CPU, which torchrun starts."""

from pathlib import Path

import pytest
from omegaconf import DictConfig
from optuna.trial import TrialState

from harness.core.errors import ConfigError
from tests.sweep.programs.hydra_app.apps import HARNESS, load_app_study, read_record, run_app, sweep_here

APP = """
import time

import hydra
import torch
import torch.distributed as dist
from hydra.core.hydra_config import HydraConfig
from pathlib import Path

from harness.sweep import report, resume_from

STEPS = 20


@hydra.main(config_path=".", config_name="settings")
def main(cfg):
    dist.init_process_group("gloo")
    folder, first = Path(HydraConfig.get().runtime.output_dir), 1
    if path := resume_from():
        first = int(Path(path).read_text()) + 1
    print("PROCESS", dist.get_rank(), "of", dist.get_world_size(), "from step", first, flush=True)
    if dist.get_rank() == cfg.failing_rank:
        raise ValueError("failing on purpose")
    for step in range(first, STEPS + 1):
        value = torch.tensor([cfg.lr + 1 / step + dist.get_rank()])
        dist.all_reduce(value)
        if step % 2 == 0:
            checkpoint = folder / f"step-{step}.txt"
            if dist.get_rank() == 0:
                checkpoint.write_text(str(step))
            report(value.item() / 2, step=step, total_steps=STEPS, checkpoint=checkpoint)
        time.sleep(cfg.seconds)
    dist.destroy_process_group()
    return value.item() / 2


if __name__ == "__main__":
    main()
"""
ON_TWO = (*HARNESS, "-m", "lr=interval(0,1)", "hydra.sweeper.devices_per_trial=2", "hydra.sweeper.sampler.seed=1")


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "settings.yaml").write_text("lr: 0.5\nseconds: 0\nfailing_rank: -1\n")
    return tmp_path / "multirun/app"


def test_a_trial_runs_in_two_processes_with_one_record(sweep: Path, tmp_path: Path) -> None:
    done = run_app(tmp_path, *ON_TWO, "hydra.sweeper.n_trials=1")
    assert done.returncode == 0, done.stdout + done.stderr
    [trial] = load_app_study(sweep).trials
    assert (trial.state, trial.value) == (TrialState.COMPLETE, pytest.approx(0.5 + 1 / 20 + 0.5))
    log = (sweep / "worker-0.log").read_text()
    assert {"PROCESS 0 of 2 from step 1", "PROCESS 1 of 2 from step 1"} <= {*log.splitlines()}
    entries = read_record(sweep / "0")
    assert [entry["step"] for entry in entries if entry["kind"] == "metrics"] == list(range(2, 21, 2))
    assert [entry["kind"] for entry in entries].count("start") == 1
    assert "1 worker with 2 devices" in done.stdout


@pytest.mark.slow
def test_a_trial_pauses_and_all_processes_continue_from_its_checkpoint(sweep: Path, tmp_path: Path) -> None:
    pruner = "{_target_:harness.sweep.study.pausing.PausingPruner,rungs:[0.3]}"
    done = run_app(tmp_path, *ON_TWO, "hydra.sweeper.runs=2", f"+hydra.sweeper.pruner={pruner}", "seconds=0.05")
    assert done.returncode == 0, done.stdout + done.stderr
    trials = load_app_study(sweep).trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2
    log = (sweep / "worker-0.log").read_text().splitlines()
    assert {f"PROCESS {rank} of 2 from step 7" for rank in "01"} <= {*log}
    entries = [entry for entry in read_record(sweep / "1") if entry["kind"] == "metrics"]
    assert [entry["step"] for entry in entries] == list(range(2, 21, 2))


@pytest.mark.slow
def test_a_process_that_fails_gives_the_reason(sweep: Path, tmp_path: Path) -> None:
    run_app(tmp_path, *ON_TWO, "hydra.sweeper.n_trials=1", "failing_rank=1")
    [trial] = load_app_study(sweep).trials
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["result"]["reason"] == "ValueError: failing on purpose"


def test_trials_in_one_process_have_one_device(tmp_path: Path) -> None:
    def task(cfg: DictConfig) -> float:
        return float(cfg.x)

    message = r"hydra.sweeper.devices_per_trial: 2: torchrun cannot start this app, whose trials run in this process \("
    with pytest.raises(ConfigError, match=message):
        sweep_here(tmp_path, task, "x: 3\n", "x=interval(1,4)", "hydra.sweeper.devices_per_trial=2")
