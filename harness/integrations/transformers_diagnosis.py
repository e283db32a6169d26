"""Diagnosis of a transformers Trainer while it trains."""

import atexit
import math
import sys
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

from harness.core.distributed import is_true_anywhere
from harness.core.events import Diagnosis
from harness.core.terminal import fit_record
from harness.diagnosis.dialects import BEST_MODEL, SAVING_NOTE
from harness.diagnosis.history import RunFacts
from harness.importers.metric_aliases import SUMMARY_KEY
from harness.importers.programs.lr_schedules import parse_schedule_name
from harness.integrations.live_diagnosis import (
    METRIC_PREFIX,
    LoopDiagnosis,
    disable_on_error,
    is_not_finite,
    parse_stop_kinds,
    tag_active_mlflow_run,
)
from harness.integrations.model_weights import has_bad_weights

MIN_ROWS, MIN_EVALS = 10, 4  # with fewer of both, hardly anything can be said


class DiagnosisCallback(TrainerCallback):
    """Diagnoses a training while it runs, from what the Trainer logs.

    Each finding is printed once and logged as the metric `diagnosis/KIND` to wherever the Trainer logs, with the
    confidence as its value; a run of MLflow gets the tag `diagnosis.KIND` with the reason. A summary follows at the
    end. The training itself is not changed, unless a diagnosis in `stop_on` ends it.

    Args:
        stop_on: Kinds of diagnoses that end the training, such as {"divergence"}.
        quiet: Print nothing.

    Raises:
        ValueError: If a name in `stop_on` is no diagnosis.
    """

    def __init__(self, *, stop_on: Collection[str] | str = (), quiet: bool = False) -> None:
        self._stop_kinds, self._quiet = parse_stop_kinds(stop_on), quiet
        self._loop: LoopDiagnosis | None = None
        self._trainer: Trainer | None = None
        self.is_disabled = self._is_agreement_due = False

    @property
    def diagnoses(self) -> list[Diagnosis]:
        """Return everything found so far."""
        return [] if self._loop is None else self._loop.found

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._forget_loop()
        self.is_disabled = self._is_agreement_due = False
        if state.is_world_process_zero:
            self._begin(args, state, kwargs.get("optimizer"))

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        if self._loop is not None and logs:
            self._read_logs(args, state, logs, kwargs.get("model"))
            if args.world_size == 1 and self._loop.stop_kind is not None:
                control.should_training_stop = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._is_agreement_due |= control.should_log or control.should_evaluate

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._is_agreement_due |= control.should_log or control.should_evaluate

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop in all processes at once, at the first step after a row or an evaluation."""
        if self._is_agreement_due and self._stop_kinds and args.world_size > 1 and torch.distributed.is_initialized():
            is_stopping = self._loop is not None and self._loop.stop_kind is not None
            control.should_training_stop |= is_true_anywhere(is_stopping)
        self._is_agreement_due = False

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._trainer = None
        if self._loop is not None:
            atexit.unregister(self._loop.conclude_late)

    def _forget_loop(self) -> None:
        if self._loop is not None:
            atexit.unregister(self._loop.conclude_late)
        self._loop = None

    @disable_on_error
    def _begin(self, args: TrainingArguments, state: TrainerState, optimizer: Any) -> None:
        self._trainer = find_calling_trainer()
        self._val_name = _find_val_name(self._trainer)
        self._loop = LoopDiagnosis(
            replace(read_facts(args, state, optimizer), uniform_loss=find_uniform_loss(self._trainer)),
            stop_on=self._stop_kinds,
            quiet=self._quiet,
            write=write_above_bars,
        )
        self._loop.wordings = {SAVING_NOTE: "", BEST_MODEL: " ".join([BEST_MODEL, *find_saving_flags(args, state)])}
        atexit.register(self._loop.conclude_late)
        rows = [(int(entry["step"]), self._rename(entry)) for entry in state.log_history if SUMMARY_KEY not in entry]
        known = {
            name.removeprefix(METRIC_PREFIX): step
            for step, row in reversed(rows)
            for name in row
            if name.startswith(METRIC_PREFIX)
        }
        self._loop.restore_rows(rows, known)
        if (note := describe_sparse_logging(args, state)) and not self._quiet:
            write_above_bars(note)

    @disable_on_error
    def _read_logs(self, args: TrainingArguments, state: TrainerState, logs: Mapping[str, Any], model: Any) -> None:
        assert self._loop is not None
        if SUMMARY_KEY in logs:  # logged before the loggers close their runs
            is_complete = state.global_step >= state.max_steps
            is_stopped = self._loop.stop_kind is not None and not is_complete
            self._publish(self._loop.conclude(is_complete, is_stopped))
            return
        if "reward" in logs:
            self._loop.give_up("the loss of reinforcement learning does not say how well it learns")
            self.is_disabled = True
            return
        row = self._rename(logs)
        if "loss" in row:
            self._check_numbers(row, model, args.logging_nan_inf_filter)
        self._publish(self._loop.add_row(state.global_step, row))

    def _check_numbers(self, row: dict[str, Any], model: Any, is_filtered: bool) -> None:
        """Look at the weights if a number is not finite, or the loss is 0, which transformers logs for a NaN."""
        assert self._loop is not None
        is_zero, is_bad = is_filtered and row["loss"] == 0, is_not_finite(self._loop.select_metrics(row))
        if (is_zero or is_bad) and model is not None and has_bad_weights(model):
            self._loop.confirm_divergence()
            is_bad = True
        if is_zero and is_bad:
            row["loss"] = math.nan

    def _rename(self, logs: Mapping[str, Any]) -> dict[str, Any]:
        """Return what was logged, with the loss of the first of several evaluation sets as `eval_loss`."""
        return {"eval_loss" if name == self._val_name else name: value for name, value in logs.items()}

    def _publish(self, diagnoses: list[Diagnosis]) -> None:
        if not diagnoses:
            return
        if self._trainer is not None:
            # that of the base class: subclasses add their own metrics again
            Trainer.log(self._trainer, {METRIC_PREFIX + one.kind: one.confidence for one in diagnoses})
        tag_active_mlflow_run(diagnoses)


def write_above_bars(text: str) -> None:
    """Print above the progress bars, which a plain print would break."""
    tqdm.write(fit_record(text))
    sys.stdout.flush()


def find_calling_trainer() -> Trainer | None:
    """Return the trainer whose `train()` is running: a Trainer does not hand itself to its callbacks."""
    frame = sys._getframe()
    while frame := frame.f_back:  # type: ignore[assignment]
        if isinstance(caller := frame.f_locals.get("self"), Trainer):
            return caller
    return None


def read_facts(args: TrainingArguments, state: TrainerState, optimizer: Any) -> RunFacts:
    """Return what the arguments say of the run; the LR and weight decay only if the optimizer has them."""
    group: Mapping[str, Any] = next(iter(getattr(optimizer, "param_groups", [])), {})
    lr, decay = group.get("initial_lr", group.get("lr")), group.get("weight_decay")
    warmup = args.warmup_steps or 0  # transformers 5 takes a share of the run, too
    scheduler = getattr(args.lr_scheduler_type, "value", str(args.lr_scheduler_type))
    is_plateau = "plateau" in scheduler
    options = args.lr_scheduler_kwargs if isinstance(args.lr_scheduler_kwargs, dict) else {}
    return RunFacts(
        name=args.run_name or "",
        program="transformers",
        total_steps=state.max_steps or None,
        batch_size=args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        optimizer=type(getattr(optimizer, "optimizer", optimizer)).__name__ if optimizer is not None else None,
        peak_lr=lr if lr == args.learning_rate else None,
        grad_clip=args.max_grad_norm if args.max_grad_norm and args.max_grad_norm > 0 else None,
        weight_decay=decay,
        schedule=parse_schedule_name(scheduler),
        monitor="val/loss" if is_plateau and args.metric_for_best_model in (None, "loss", "eval_loss") else None,
        patience=options.get("patience") if is_plateau else None,
        requested_warmup=(warmup * state.max_steps if warmup < 1 else warmup) or None,
        length=("loop.max_steps", args.max_steps) if args.max_steps > 0 else ("loop.epochs", args.num_train_epochs),
    )


def find_uniform_loss(trainer: Trainer | None) -> float | None:
    """Return ln(vocabulary) if the loss is the plain cross-entropy of a causal or masked language model, else None."""
    if trainer is None or type(trainer).compute_loss is not Trainer.compute_loss:
        return None
    model: Any = trainer.model
    model = model.get_base_model() if hasattr(model, "get_base_model") else model  # of peft
    has_own_loss = trainer.compute_loss_func is not None or trainer.args.label_smoothing_factor
    names = {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values(), *MODEL_FOR_MASKED_LM_MAPPING_NAMES.values()}
    if has_own_loss or type(model).__name__ not in names:
        return None
    vocabulary = getattr(model.config.get_text_config(), "vocab_size", None)
    return math.log(vocabulary) if isinstance(vocabulary, int) and vocabulary > 1 else None


def find_saving_flags(args: TrainingArguments, state: TrainerState) -> list[str]:
    """Return the flags that let checkpoints be saved at the evaluations; none if they are."""
    saving, evaluation = (str(getattr(one, "value", one)) for one in (args.save_strategy, args.eval_strategy))
    if saving == evaluation and (evaluation != "steps" or state.save_steps % max(1, state.eval_steps) == 0):
        return []
    return [f"--save_strategy {evaluation}", *([f"--save_steps {state.eval_steps}"] if evaluation == "steps" else [])]


def describe_sparse_logging(args: TrainingArguments, state: TrainerState) -> str:
    """Return how to log more often if the run logs too little to be judged, else an empty string."""
    strategies = [getattr(one, "value", one) for one in (args.logging_strategy, args.eval_strategy)]
    steps, epochs = max(1, state.max_steps), max(1, state.num_train_epochs)
    intervals = [state.logging_steps, state.eval_steps]
    counts = [
        {"no": 0, "epoch": epochs, "steps": steps // max(1, int(interval or steps))}.get(strategy, steps)
        for strategy, interval in zip(strategies, intervals, strict=True)
    ]
    if counts[0] >= MIN_ROWS or counts[1] >= MIN_EVALS:
        return ""
    return (
        f"diagnosis: {counts[0]} rows and {counts[1]} evaluations in {steps} steps are too few to say much; set "
        f'logging_strategy="steps", logging_steps={max(1, steps // 50)}'
    )


def _find_val_name(trainer: Trainer | None) -> str:
    """Return the name of the validation loss; of several sets, that of the one that selects the best model."""
    sets = getattr(trainer, "eval_dataset", None)
    if trainer is None or not isinstance(sets, dict) or not sets:
        return "eval_loss"
    names = [f"eval_{name}_loss" for name in sets]
    best = trainer.args.metric_for_best_model or ""
    best = best if best.startswith("eval_") else f"eval_{best}"
    return best if best in names else names[0]
