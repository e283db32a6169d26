"""Suggestions as overrides, arguments of transformers and Lightning, and plain words."""

import inspect
from dataclasses import fields

import pytest

from harness.core.events import Suggestion
from harness.diagnosis.dialects import ARGUMENTS, FLAGS, HF_SCHEDULES, TRAINER, guess_dialect, render_suggestions
from harness.diagnosis.history import History, RunFacts
from harness.diagnosis.suggestions import (
    CHECK_FOR_BUG,
    CHECK_LR,
    suggest_decay,
    suggest_double_length,
    suggest_lr,
    suggest_regularization,
    suggest_rollback,
)

LOWER_LR = (Suggestion("optimizer.lr", 2e-4, 1 / 3), Suggestion("loop.on_spike", "rollback", when="step 120"))
REGULARIZED = (Suggestion("loop.patience", 2), Suggestion("optimizer.weight_decay", 0.1))
UNCLIPPED = (Suggestion("loop.grad_clip", None),)
WORDS = "resume from a checkpoint of step 120 or before and skip the batches that followed"


@pytest.mark.parametrize(
    ("suggestions", "dialect", "lines"),
    [
        (LOWER_LR, "harness", ["optimizer.lr=2e-4 loop.on_spike=rollback"]),
        (LOWER_LR, "hf", ["--learning_rate 2e-4", WORDS]),
        (LOWER_LR, "lightning", ["in configure_optimizers: lr=2e-4", WORDS]),
        (LOWER_LR, "plain", ["a learning rate of 2e-4, a third of the present one", WORDS]),
        (
            REGULARIZED,
            "hf",
            [
                "--load_best_model_at_end True --weight_decay 0.1",
                "Trainer(callbacks=[EarlyStoppingCallback(early_stopping_patience=2)])"
                "  # with the same --save_strategy as --eval_strategy",
            ],
        ),
        (REGULARIZED, "harness", ["loop.patience=2 optimizer.weight_decay=0.1"]),
        (UNCLIPPED, "harness", ["loop.grad_clip=null"]),
        (UNCLIPPED, "hf", ["--max_grad_norm 0"]),
        (UNCLIPPED, "lightning", ["Trainer(gradient_clip_val=None)"]),
        (UNCLIPPED, "plain", ["no gradient clipping"]),
        ((Suggestion("loop.epochs", 48, 2.0),), "hf", ["--num_train_epochs 48"]),
        ((Suggestion("loop.epochs", 48, 2.0),), "lightning", ["Trainer(max_epochs=48)"]),
        ((CHECK_FOR_BUG,), "harness", ["run `plateau preflight` to look for a bug"]),
        ((CHECK_LR,), "hf", ["try learning rates of a tenth and ten times the present one"]),
        ((Suggestion("schedule", "plateau"),), "hf", ["--lr_scheduler_type reduce_lr_on_plateau"]),
    ],
)
def test_suggestions_are_rendered_in_each_dialect(suggestions, dialect, lines) -> None:
    assert render_suggestions(suggestions, dialect) == lines


def test_dialect_is_that_of_the_program_that_wrote_the_log() -> None:
    dialects = [guess_dialect(RunFacts(program=name)) for name in ("harness", "transformers", "lightning", None)]
    assert dialects == ["harness", "hf", "lightning", "plain"]


def test_unknown_lr_is_suggested_as_a_multiple_of_the_present_one() -> None:
    suggestion = suggest_lr(History(), 1 / 3)
    assert suggestion.value is None
    for dialect in ("harness", "hf", "plain"):
        assert render_suggestions([suggestion], dialect) == ["a third of the present learning rate"]


def test_lower_lr_is_that_of_the_warm_up_where_the_loss_rose() -> None:
    history = History()
    for step in range(10, 101, 10):
        history.add_row(step, {"train/lr": 0.006 * step, "train/loss": 3.0 if step < 30 else 9.0})
    assert suggest_lr(history, 1 / 3, since=20).value == pytest.approx(0.006 * 30 / 3)
    assert suggest_lr(history, 1 / 3).value == 0.2


@pytest.mark.parametrize(("peak", "factor", "value"), [(1e-3, 1 / 3, 3e-5), (2e-4, 1 / 3, 6.7e-5), (1e-3, 3.0, 3e-3)])
def test_lower_lr_is_below_all_that_a_warm_up_has_reached(peak: float, factor: float, value: float) -> None:
    history = History(RunFacts(peak_lr=peak))
    for step in range(1, 10):
        history.add_row(step, {"train/lr": step * 1e-5})
    assert suggest_lr(history, factor).value == value


@pytest.mark.parametrize("per_epoch", [1, 100])
def test_log_of_epochs_is_lengthened_and_described_in_epochs(per_epoch: int) -> None:
    history = History(RunFacts(steps_unit="epochs", steps_per_epoch=per_epoch, total_steps=5 * per_epoch))
    history.add_row(24 * per_epoch, {"train/loss": 1.0})  # more than was planned
    assert suggest_double_length(history) == Suggestion("loop.epochs", 48, 2.0)
    assert history.describe_step(8 * per_epoch) == "epoch 8"
    assert History().describe_step(800) == "step 800"


@pytest.mark.parametrize(
    ("facts", "last_step", "key", "value"),
    [
        (RunFacts(), 13001, "loop.max_steps", 26100),
        (RunFacts(total_steps=4000), 200, "loop.max_steps", 8000),
        (RunFacts(steps_unit="epochs", steps_per_epoch=100), 398, "loop.epochs", 8),
        (RunFacts(steps_unit="epochs", steps_per_epoch=1000), 325, "loop.epochs", 0.65),
        (RunFacts(steps_unit="epochs", steps_per_epoch=1), 24, "loop.epochs", 48),
        (RunFacts(steps_unit="rows"), 40, "loop.max_steps", None),
        (RunFacts(length=("loop.epochs", 2.5)), 40, "loop.epochs", 5),
    ],
)
def test_doubled_length_is_in_the_unit_of_the_log_and_never_below_what_was_run(facts, last_step, key, value) -> None:
    history = History(facts)
    history.add_row(last_step, {"train/loss": 1.0})
    assert suggest_double_length(history) == Suggestion(key, value, 2.0)


def test_epochs_counted_from_zero_are_one_more() -> None:
    history = History(RunFacts(steps_unit="epochs", steps_per_epoch=1))
    for epoch in range(50):
        history.add_row(epoch, {"train/loss": 1.0})
    assert suggest_double_length(history) == Suggestion("loop.epochs", 100, 2.0)


def test_rollback_names_the_epoch_of_a_log_without_steps() -> None:
    history = History(RunFacts(steps_unit="epochs", steps_per_epoch=100))
    for step in range(50, 300, 50):
        history.add_row(step, {"train/loss": 3 - step / 200})
    rollback = suggest_rollback(history, 250)
    assert "a checkpoint of epoch 2.5 or before" in render_suggestions(rollback, "lightning")[0]


def test_no_checkpoint_is_suggested_where_nothing_was_good() -> None:
    history = History()
    history.add_row(10, {"train/loss": float("nan")})
    assert suggest_rollback(history, 0) == suggest_rollback(history, 9) == suggest_rollback(history, 10) == ()


@pytest.mark.parametrize(
    ("steps", "losses", "unit", "is_suggested"),
    [
        (range(1, 6), (5, 4, 3, 2, 1), "steps", False),  # the very start
        (range(500, 2001, 500), (5, 4, 3, 2), "steps", True),
        (range(0, 5000, 50), [7.6 + 0.01 * (n % 2) for n in range(100)], "steps", False),  # it never fell
        (range(9000, 9100, 10), (2.5,) * 10, "steps", True),  # resumed
        (range(6), (5, 4, 3, 2, 2, 2), "rows", True),
        (range(2), (5, 4), "rows", False),
        (range(100, 1200, 100), [3.40 - 0.01 * n for n in range(11)], "steps", True),  # a pretrained model
        (range(1, 4), (5, 4, 3), "epochs", True),
    ],
)
def test_checkpoint_is_suggested_where_something_was_learnt(steps, losses, unit, is_suggested) -> None:
    history = History(RunFacts(steps_unit=unit))
    for step, loss in zip(steps, losses, strict=True):
        history.add_row(step, {"train/loss": loss})
    assert bool(suggest_rollback(history, steps[-1])) == is_suggested
    history.facts = RunFacts(program="harness")
    assert suggest_rollback(history, steps[-1])  # a setting


@pytest.mark.parametrize(
    ("facts", "metric", "value"),
    [
        (RunFacts(), "train/loss", None),
        (RunFacts(), "train/lr", 0.1),
        (RunFacts(program="lightning"), "train/loss", 0.1),
        (RunFacts(optimizer="SGD"), "train/loss", 0.1),
        (RunFacts(weight_decay=0.1), "train/loss", 0.3),
    ],
)
def test_weight_decay_is_a_number_for_neural_networks_alone(facts, metric, value) -> None:
    history = History(facts)
    history.add_row(1, {metric: 1.0})
    assert suggest_regularization(history)[1].value == value


def test_regularization_is_relative_where_the_program_is_unknown() -> None:
    relative = suggest_regularization(History())[1:]
    assert render_suggestions(relative, "plain") == ["three times the present regularization, such as weight decay"]


@pytest.mark.parametrize(
    ("program", "lrs", "decays"),
    [(None, (), True), ("transformers", (), False), (None, (1e-4, 1e-3, 1e-3), True), (None, (1e-3, 5e-4), False)],
)
def test_decay_is_suggested_for_an_lr_that_is_or_may_be_constant(program, lrs, decays) -> None:
    history = History(RunFacts(program=program))
    for step, lr in enumerate(lrs):
        history.add_row(step, {"train/lr": lr})
    assert (Suggestion("schedule", "cosine") in suggest_decay(history)) == decays


@pytest.mark.slow
def test_arguments_exist_in_the_installed_programs() -> None:
    transformers, lightning = pytest.importorskip("transformers"), pytest.importorskip("lightning.pytorch")
    hf, pl = ([text for parts in ARGUMENTS[dialect].values() for text in parts] for dialect in ("hf", "lightning"))
    flags = {text.removeprefix("--").split()[0] for place, text in hf if place == FLAGS}
    assert flags <= {field.name for field in fields(transformers.TrainingArguments)}
    arguments = {text.partition("=")[0] for place, text in pl if place == TRAINER}
    assert arguments <= set(inspect.signature(lightning.Trainer.__init__).parameters)
    assert "cosine" in list(transformers.SchedulerType)
    assert set(HF_SCHEDULES.values()) <= set(transformers.SchedulerType)
    transformers.EarlyStoppingCallback(early_stopping_patience=2)
    lightning.callbacks.EarlyStopping(monitor="val_loss", patience=2)
