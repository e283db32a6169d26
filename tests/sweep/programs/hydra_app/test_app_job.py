"""One job of an app: what its task function finds, and what it leaves behind."""

import logging
import os
import sys
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from harness.sweep.programs.hydra_app.app_job import run_app_job
from tests.sweep.programs.hydra_app.apps import open_multirun

CONFIG = "lr: 0.1\noutput_dir: ${hydra:runtime.output_dir}\nname: trial-${hydra:job.num}\n"
heard: list[str] = []


class RecordingCallback(Callback):
    def on_job_start(self, config: DictConfig, **kwargs: object) -> None:
        heard.append(f"start {config.hydra.job.num}")

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: object) -> None:
        heard.append(f"end {job_return.status.name}")


def run_job_of(folder: Path, task, *overrides: str, config: str = CONFIG, options: tuple[str, ...] = ()) -> JobReturn:
    with open_multirun(folder, config, *options) as (context, cfg):
        return run_app_job(context, task, cfg, overrides, 7, str(folder / "sweep"))


def test_the_task_runs_as_the_job_with_the_trials_number(tmp_path) -> None:
    def task(cfg: DictConfig) -> float:
        assert (HydraConfig.get().job.num, HydraConfig.get().job.id) == (7, "7")
        assert HydraConfig.get().overrides.task == ["lr=0.5"]
        assert (cfg.name, cfg.output_dir) == ("trial-7", str(tmp_path / "sweep" / "7"))
        return cfg.lr * 2

    job = run_job_of(tmp_path, task, "lr=0.5")
    assert job.return_value == 1.0
    assert OmegaConf.load(tmp_path / "sweep/7/.hydra/config.yaml").lr == 0.5
    assert list(OmegaConf.load(tmp_path / "sweep/7/.hydra/overrides.yaml")) == ["lr=0.5"]


def test_overrides_of_hydra_hold_for_the_job(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GREETING", raising=False)
    options = (
        "hydra.job.chdir=true", "hydra.sweep.subdir=${hydra.job.override_dirname}", "+hydra.job.env_set.GREETING=hello",
        "hydra.job.name=mine",
    )  # fmt: skip

    def task(cfg: DictConfig) -> str:
        return f"{os.environ['GREETING']} {Path.cwd().name} {HydraConfig.get().job.name}"

    assert run_job_of(tmp_path, task, "lr=0.5", options=options).return_value == "hello lr=0.5 mine"
    assert Path.cwd() == tmp_path
    assert "GREETING" not in os.environ


def test_the_log_of_the_job_is_in_its_folder_and_hydras_own_logging_comes_back(tmp_path) -> None:
    def task(cfg: DictConfig) -> None:
        logging.getLogger("app").info("from the task")

    run_job_of(tmp_path, task)
    log = tmp_path / "sweep/7/app.log"
    logging.getLogger("app").warning("from the worker")
    assert "from the task" in log.read_text()
    assert "from the worker" not in log.read_text()


def test_a_choice_of_a_group_is_composed(tmp_path) -> None:
    (tmp_path / "optimizer").mkdir()
    for name, lr in (("adam", 0.001), ("sgd", 0.1)):
        (tmp_path / "optimizer" / f"{name}.yaml").write_text(f"lr: {lr}\n")
    config = "defaults: [{optimizer: adam}, _self_]\n"
    job = run_job_of(tmp_path, lambda cfg: cfg.optimizer.lr, "optimizer=sgd", "+optimizer.momentum=0.9", config=config)
    assert job.return_value == 0.1
    assert job.cfg.optimizer.momentum == 0.9


def test_callbacks_of_the_user_hear_of_the_job(tmp_path) -> None:
    heard.clear()
    config = f"hydra: {{callbacks: {{mine: {{_target_: {__name__}.RecordingCallback}}}}}}\n"
    run_job_of(tmp_path, lambda cfg: heard.append("task"), config=config)
    assert heard == ["start 7", "task", "end COMPLETED"]


def test_an_exception_of_the_task_is_kept_and_logged(tmp_path) -> None:
    def task(cfg: DictConfig) -> None:
        raise ValueError("too large")

    job = run_job_of(tmp_path, task)
    assert job.status == JobStatus.FAILED
    with pytest.raises(ValueError, match="too large"):
        _ = job.return_value
    assert "too large" in (tmp_path / "sweep/7/app.log").read_text()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_what_ends_a_process_goes_through(tmp_path, monkeypatch, error) -> None:
    monkeypatch.chdir(tmp_path)

    def task(cfg: DictConfig) -> None:
        raise error

    with pytest.raises(type(error)):
        run_job_of(tmp_path, task, options=("hydra.job.chdir=true",))
    assert Path.cwd() == tmp_path
    assert not [one for one in logging.getLogger().handlers if isinstance(one, logging.FileHandler)]


def test_an_unknown_key_is_an_error_before_the_folder_exists(tmp_path) -> None:
    with pytest.raises(HydraException, match="lrr"):
        run_job_of(tmp_path, lambda cfg: sys.exit("not reached"), "lrr=1")
    assert not (tmp_path / "sweep").exists()


def test_jobs_follow_each_other_in_one_process(tmp_path) -> None:
    with open_multirun(tmp_path, CONFIG) as (context, cfg):
        jobs = [run_app_job(context, lambda cfg: cfg.lr, cfg, [f"lr={lr}"], lr, str(tmp_path)) for lr in range(3)]
    assert [job.return_value for job in jobs] == [0, 1, 2]
    assert [path.name for path in sorted(tmp_path.glob("[0-9]"))] == ["0", "1", "2"]
