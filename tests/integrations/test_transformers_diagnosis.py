"""`DiagnosisCallback` with Trainers of transformers."""

import atexit
import logging
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2ForSequenceClassification, Trainer, TrainerState

from harness.diagnosis import live
from harness.integrations.transformers import DiagnosisCallback
from harness.integrations.transformers_diagnosis import find_saving_flags, find_uniform_loss
from tests.integrations.trainers import make_gpt2, make_rows, make_trainer

ROOT = Path(__file__).parents[2]


def train(folder: Path, callback: DiagnosisCallback | None = None, **more: Any) -> Trainer:
    trainer = make_trainer(folder, callbacks=[] if callback is None else [callback], **more)
    trainer.train()
    return trainer


def kinds(callback: DiagnosisCallback) -> list[str]:
    return [one.kind for one in callback.diagnoses]


def logged_kinds(trainer: Trainer) -> list[str]:
    prefix = "diagnosis/"
    return [name.removeprefix(prefix) for entry in trainer.state.log_history for name in entry if prefix in name]


def test_a_far_too_high_lr_is_found_and_ends_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    callback = DiagnosisCallback(stop_on={"divergence"})
    trainer = train(tmp_path, callback, learning_rate=10.0, max_steps=80, eval_strategy="no")
    assert trainer.state.global_step < 40
    assert "divergence" in kinds(callback)
    assert logged_kinds(trainer) == kinds(callback)
    out = capsys.readouterr().out
    assert out.count(" · divergence: ") == 1
    assert f"diagnosis: training stopped at step {trainer.state.global_step}: divergence (stop_on)" in out
    suggested = re.search(r"--learning_rate (\S+)", out)
    assert suggested
    assert 0 < float(suggested[1]) <= 3.4  # a third of the LR that the warm-up had reached


def test_overfitting_is_found_while_it_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    callback = DiagnosisCallback()
    settings = {"learning_rate": 1e-2, "lr_scheduler_type": "constant", "train_dataset": make_rows(8, 1)}
    trainer = train(tmp_path, callback, model=make_gpt2(), max_steps=60, eval_steps=10, logging_steps=5, **settings)
    assert "overfitting" in kinds(callback)
    entry = next(entry for entry in trainer.state.log_history if "diagnosis/overfitting" in entry)
    assert entry["step"] < 60
    out = capsys.readouterr().out
    assert "--load_best_model_at_end True --save_strategy steps --save_steps 10" in out
    assert "EarlyStoppingCallback(early_stopping_patience=" in out


def test_training_is_bit_identical_with_the_callback(tmp_path: Path) -> None:
    settings = {"gradient_accumulation_steps": 2, "max_steps": 12, "eval_steps": 4}
    bare, watched = (train(tmp_path, each, **settings) for each in (None, DiagnosisCallback(quiet=True)))
    for before, after in zip(bare.model.parameters(), watched.model.parameters(), strict=True):
        assert torch.equal(before, after)
    losses = [[entry["loss"] for entry in each.state.log_history if "loss" in entry] for each in (bare, watched)]
    assert losses[0] == losses[1]


def test_facts_come_from_the_arguments(tmp_path: Path) -> None:
    callback = DiagnosisCallback(quiet=True)
    settings = {"warmup_steps": 0.2, "weight_decay": 0.05, "max_grad_norm": 0.5, "lr_scheduler_type": "cosine"}
    train(tmp_path, callback, max_steps=10, gradient_accumulation_steps=2, eval_strategy="no", **settings)
    assert callback._loop is not None
    facts = callback._loop.history.facts
    assert (facts.total_steps, facts.requested_warmup, facts.batch_size) == (10, 2.0, 16)
    assert (facts.peak_lr, facts.weight_decay, facts.grad_clip) == (3e-3, 0.05, 0.5)
    assert (facts.optimizer, facts.schedule, facts.status) == ("AdamW", "Cosine", "completed")


class OwnLoss(Trainer):
    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        return super().compute_loss(*args, **kwargs)


def test_the_loss_of_a_guess_is_known_of_plain_language_models(tmp_path: Path) -> None:
    model = make_gpt2()
    assert find_uniform_loss(make_trainer(tmp_path, model=model)) == pytest.approx(math.log(model.config.vocab_size))
    assert find_uniform_loss(make_trainer(tmp_path, model=model, kind=OwnLoss)) is None
    assert find_uniform_loss(make_trainer(tmp_path, model=model, label_smoothing_factor=0.1)) is None
    assert find_uniform_loss(make_trainer(tmp_path, model=GPT2ForSequenceClassification(model.config))) is None


@pytest.mark.parametrize(
    ("settings", "flags"),
    [
        ({}, ["--save_strategy steps", "--save_steps 20"]),
        ({"save_strategy": "steps", "save_steps": 40}, []),
        ({"save_strategy": "steps", "save_steps": 30}, ["--save_strategy steps", "--save_steps 20"]),
        ({"save_strategy": "epoch", "eval_strategy": "epoch"}, []),
        ({"save_strategy": "steps", "eval_strategy": "epoch"}, ["--save_strategy epoch"]),
    ],
)
def test_the_best_model_needs_checkpoints_at_evaluations(
    settings: dict[str, Any], flags: list[str], tmp_path: Path
) -> None:
    trainer = make_trainer(tmp_path, model=make_gpt2(), **settings)
    state = TrainerState(eval_steps=trainer.args.eval_steps or 0, save_steps=trainer.args.save_steps)
    assert find_saving_flags(trainer.args, state) == flags


class Interrupted(Trainer):
    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 15:
            raise KeyboardInterrupt
        return super().training_step(*args, **kwargs)


def test_an_interrupted_run_is_summarized_when_the_process_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_exit: list[Any] = []
    monkeypatch.setattr(atexit, "register", at_exit.append)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, DiagnosisCallback(), kind=Interrupted)
    capsys.readouterr()
    at_exit[-1]()
    assert "slope of train/loss" in capsys.readouterr().out


class BreaksAfterTenSteps(Trainer):
    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss(*args, **kwargs)
        return loss * math.nan if self.state.global_step > 10 else loss


@pytest.mark.parametrize("is_filtered", [True, False])
def test_a_nan_that_transformers_logs_as_0_is_divergence(tmp_path: Path, is_filtered: bool) -> None:
    callback = DiagnosisCallback(stop_on="divergence", quiet=True)
    settings = {"logging_nan_inf_filter": is_filtered, "logging_steps": 2, "eval_strategy": "no"}
    trainer = train(tmp_path, callback, kind=BreaksAfterTenSteps, max_steps=60, **settings)
    assert trainer.state.global_step <= 18
    assert kinds(callback) == ["divergence"]


def test_a_resumed_run_continues_its_curves_and_repeats_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"learning_rate": 1e-2, "lr_scheduler_type": "constant", "train_dataset": make_rows(8, 1)}
    settings |= {"logging_steps": 5, "eval_steps": 5, "save_strategy": "steps", "save_steps": 40}
    first = DiagnosisCallback()
    train(tmp_path, first, model=make_gpt2(), max_steps=40, **settings)
    assert "overfitting" in kinds(first)
    capsys.readouterr()
    callback = DiagnosisCallback()
    trainer = make_trainer(tmp_path, model=make_gpt2(), max_steps=60, callbacks=[callback], **settings)
    trainer.train(resume_from_checkpoint=True)
    assert callback._loop is not None
    assert callback._loop.history["train/loss"].steps.tolist() == list(range(5, 61, 5))
    out = capsys.readouterr().out
    assert " · overfitting: " not in out
    assert "found: overfitting (step" in out


def test_logging_that_is_too_sparse_is_said_at_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path, DiagnosisCallback(), max_steps=50, logging_steps=500, eval_strategy="no")
    first, second = capsys.readouterr().out.splitlines()[:2]
    assert first.startswith("diagnosis: 0 rows and 0 evaluations in 50 steps are too few to say much; set ")
    assert first.endswith('logging_strategy="steps", logging_steps=1')
    assert second.startswith("diagnosis: too few points to say anything")


def test_logs_per_epoch_are_read(tmp_path: Path) -> None:
    callback = DiagnosisCallback(quiet=True)
    settings = {"logging_strategy": "epoch", "eval_strategy": "epoch", "train_dataset": make_rows(8, 1)}
    train(tmp_path, callback, max_steps=-1, num_train_epochs=5, **settings)
    assert callback._loop is not None
    for name in ("train/loss", "val/loss", "train/lr", "train/grad_norm"):
        assert callback._loop.history[name].steps.tolist() == [1, 2, 3, 4, 5], name


def test_of_several_evaluation_sets_the_one_that_selects_the_best_model_counts(tmp_path: Path) -> None:
    callback = DiagnosisCallback(quiet=True)
    sets = {"easy": make_rows(8, 2), "hard": make_rows(8, 3)}
    trainer = train(tmp_path, callback, eval_dataset=sets, metric_for_best_model="hard_loss", max_steps=20)
    entry = next(entry for entry in trainer.state.log_history if "eval_hard_loss" in entry)
    assert callback._loop is not None
    assert callback._loop.history["val/loss"].values.tolist() == [entry["eval_hard_loss"]]


def test_an_error_in_the_diagnosis_never_ends_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(live, "diagnose", fail)
    trainer = train(tmp_path, DiagnosisCallback(stop_on="divergence"), max_steps=20)
    assert trainer.state.global_step == 20
    assert capsys.readouterr().err.count("warning: diagnosis is disabled after ZeroDivisionError: planted") == 1


def test_wrong_names_are_refused() -> None:
    with pytest.raises(ValueError, match="stop_on: 'loss' is not a diagnosis; choose from divergence, "):
        DiagnosisCallback(stop_on=["loss"])


@pytest.mark.slow
def test_a_run_of_mlflow_gets_metrics_and_tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    logging.getLogger("alembic").setLevel(logging.ERROR)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    callback = DiagnosisCallback(stop_on={"divergence"}, quiet=True)
    train(tmp_path, callback, learning_rate=10.0, max_steps=80, eval_strategy="no", report_to=["mlflow"])
    (run,) = mlflow.MlflowClient().search_runs(["0"])
    assert run.data.metrics["diagnosis/divergence"] == 0.95
    assert "train/loss was" in run.data.tags["diagnosis.divergence"]


SCRIPT = """
import os, sys
from pathlib import Path
from harness.integrations.transformers import DiagnosisCallback
from tests.integrations.trainers import make_trainer
settings = {"learning_rate": 10.0, "max_steps": 80, "logging_steps": 2, "eval_strategy": "no", "ddp_backend": "gloo"}
trainer = make_trainer(Path(sys.argv[1]), callbacks=[DiagnosisCallback(stop_on={"divergence"})], **settings)
trainer.train()
print("rank", os.environ["RANK"], "stopped at", trainer.state.global_step, flush=True)
"""


@pytest.mark.slow
def test_all_processes_stop_together_and_one_prints(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""}
    done = subprocess.run([*command, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=300)
    stops = dict(line.split(" stopped at ") for line in done.stdout.splitlines() if " stopped at " in line)
    assert stops.keys() == {"rank 0", "rank 1"}, done.stderr
    assert len(set(stops.values())) == 1
    assert int(stops["rank 0"]) < 80
    assert done.stdout.count(" · divergence: ") == 1
