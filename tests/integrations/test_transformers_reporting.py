"""`ReportCallback` with Trainers of transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from harness.integrations.transformers import ReportCallback
from harness.sweep import Interrupted, Paused, Pruned, resume_from
from harness.sweep.reporting import receive_reports
from tests.integrations.trainers import make_gpt2, make_rows, make_trainer
from tests.sweep.test_reporting import Notes

SHORT = {"max_steps": 6, "eval_steps": 2}


class Logger(TrainerCallback):
    """Has a run that must be closed, as those of MLflow and W&B, and evaluates other data at each epoch."""

    is_open = False
    trainer: Trainer | None = None

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.is_open = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.trainer is not None:
            self.trainer.evaluate(make_rows(4, 3), metric_key_prefix="train")  # type: ignore[arg-type]

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self.is_open = False


def train(folder: Path, *callbacks: TrainerCallback, **more: Any) -> Trainer:
    trainer = make_trainer(folder, callbacks=list(callbacks), **{**SHORT, **more})
    trainer.train()
    return trainer


def test_each_evaluation_of_the_training_is_reported(tmp_path: Path) -> None:
    notes = Notes()
    with receive_reports(notes):
        trainer = train(tmp_path, ReportCallback(), eval_on_start=True)
        trainer.evaluate()
    logged = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry][:4]
    assert notes == [(loss, 2 * index, 6) for index, loss in enumerate(logged)]


def test_the_total_of_epochs_is_known(tmp_path: Path) -> None:
    notes = Notes()
    settings = {"max_steps": -1, "num_train_epochs": 2, "eval_strategy": "epoch", "train_dataset": make_rows(24, 1)}
    with receive_reports(notes):
        train(tmp_path, ReportCallback("loss"), **settings)
    assert [(step, total) for _, step, total in notes] == [(3, 6), (6, 6)]


@pytest.mark.parametrize("error", [Pruned("after 67% of the run"), Interrupted("stop")])
def test_the_end_of_a_trial_arrives_at_the_caller_of_train(error: Exception, tmp_path: Path) -> None:
    notes, loggers = Notes(), (Logger(), Logger())
    notes.end = 4, error
    with receive_reports(notes), pytest.raises(type(error), match=str(error)):
        train(tmp_path, loggers[0], ReportCallback(), loggers[1])
    assert [step for _, step, _ in notes] == [2, 4]
    assert [logger.is_open for logger in loggers] == [False, False]


def test_a_paused_training_continues_as_if_nothing_had_happened(tmp_path: Path) -> None:
    """With dropout and a checkpoint at every other evaluation; paused where the last checkpoint is a step old."""

    def train(folder: Path, notes: Notes, checkpoint: str | None = None) -> Trainer:
        callbacks = [ReportCallback()]
        settings = {"max_steps": 8, "eval_steps": 1, "save_strategy": "steps", "save_steps": 2, "warmup_steps": 2}
        trainer = make_trainer(folder, make_gpt2(), callbacks=callbacks, **settings)
        with receive_reports(notes, checkpoint):
            trainer.train(resume_from_checkpoint=resume_from())
        return trainer

    alone, first, second = Notes(), Notes(), Notes()
    whole = train(tmp_path / "alone", alone)
    first.end = 5, Paused("at 62%")
    with pytest.raises(Paused):
        train(tmp_path / "paused", first)
    assert first.checkpoints == [None, *[str(tmp_path / f"paused/checkpoint-{step}") for step in (2, 2, 4, 4)]]
    continued = train(tmp_path / "paused", second, first.checkpoints[-1])
    assert second.checkpoints[:2] == [None, str(tmp_path / "paused/checkpoint-6")]
    assert [*first[:4], *second] == alone
    for before, after in zip(whole.model.parameters(), continued.model.parameters(), strict=True):
        assert torch.equal(before, after)


def test_weights_alone_are_no_checkpoint_to_continue_from(tmp_path: Path) -> None:
    notes = Notes()
    with receive_reports(notes):
        train(tmp_path, ReportCallback(), save_strategy="steps", save_steps=2, save_only_model=True)
    assert notes.checkpoints == [None, None, None]


def test_a_metric_of_one_of_several_evaluation_sets_is_reported(tmp_path: Path) -> None:
    notes = Notes()
    sets = {name: make_rows(8, seed) for seed, name in enumerate(("near", "far"))}
    with receive_reports(notes):
        train(tmp_path, ReportCallback("eval_far_loss"), eval_dataset=sets)
    assert [step for _, step, _ in notes] == [2, 4, 6]


def test_a_metric_that_no_evaluation_has_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    sets = {name: make_rows(8, seed) for seed, name in enumerate(("near", "far"))}
    with pytest.raises(
        ValueError, match=r"metric: 'eval_acc' is not among .*; there are .*eval_far_loss, .*eval_near_loss"
    ):
        train(tmp_path, ReportCallback("acc"), eval_dataset=sets)
    with pytest.raises(ValueError, match="eval_acc"):
        train(tmp_path, ReportCallback("acc"), max_steps=2)  # at the last step


def test_evaluations_of_other_data_do_not_matter(tmp_path: Path) -> None:
    notes, other = Notes(), Logger()
    trainer = make_trainer(
        tmp_path, callbacks=[other, ReportCallback()], train_dataset=make_rows(8, 1), max_steps=4, eval_steps=4
    )
    other.trainer = trainer
    with receive_reports(notes):
        trainer.train()
        trainer.evaluate(make_rows(4, 3), metric_key_prefix="test")  # type: ignore[arg-type]
    assert [step for _, step, _ in notes] == [4]


def test_a_training_without_evaluations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="metric: 'eval_loss' needs evaluations; set eval_strategy"):
        train(tmp_path, ReportCallback(), eval_strategy="no")


def test_training_without_a_sweep_is_bit_identical_with_the_callback(tmp_path: Path) -> None:
    bare, reported = train(tmp_path), train(tmp_path, ReportCallback())
    for before, after in zip(bare.model.parameters(), reported.model.parameters(), strict=True):
        assert torch.equal(before, after)
