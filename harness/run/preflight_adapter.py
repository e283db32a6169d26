"""Adapt a run to preflight: requested settings come from its configuration, those in effect from its parts."""

import copy
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from harness.config.compose import without_sweep_keys
from harness.config.schema import RunSettings
from harness.core.distributed import ProcessGroup
from harness.core.events import OutOfMemory
from harness.core.state import ObservingSchedule, Progress, TrainState, find_broken_tie, load_model_weights
from harness.core.task import Loss, Task
from harness.data import token_stream
from harness.data.operator_data import FieldPairs
from harness.data.sources import Source
from harness.data.tokenizers import Tokenizer
from harness.data.tokens import IGNORE_INDEX, TokenBatch, TokenData, TokenRows
from harness.models import untie_head
from harness.preflight import EvalResult, LabeledTokens, RequestedSettings, TextFormat, TrainingData, TrainingSetup
from harness.run.build import RunParts, build_task, instantiate_component
from harness.run.initial_weights import has_pretrained_weights
from harness.run.runner import built_run
from harness.tasks.masked_lm import MaskedLM
from harness.tasks.operator import OperatorTask
from harness.tasks.text import TextTask
from harness.training.checkpoint import WEIGHTS_FILE, load_weights, save_weights
from harness.training.evaluation import score_validation_set
from harness.training.loop import Trainer
from harness.training.lora import remove_adapters
from harness.training.optimizers import GROUPS_WITHOUT_DECAY, configured_lr
from harness.training.schedules import Plateau

BATCHES = 4  # training batches given to the checks
MIN_DOCUMENTS = 20  # validation documents; below it, lines are looked for in the training text instead of documents
MIN_LINE_LENGTH = 40  # characters; shorter lines may occur twice by chance
EVAL_EXAMPLES = 29  # validation examples that are scored; not a multiple of preflight's batch sizes, 16 and 13


@contextmanager
def open_training_setup(cfg: DictConfig, n_runs: int = 1, n_parallel: int = 1) -> Iterator[TrainingSetup]:
    """Build the run of `cfg` and yield its training setup, as one of `n_runs` of which `n_parallel` run at a time.

    Raises:
        ConfigError: If the run cannot be built.
        BaseRunFailed: If the run it starts from failed.
    """
    cfg = without_sweep_keys(cfg)
    with built_run(cfg) as (settings, parts, processes):
        yield _RunAdapter(cfg, settings, parts, processes).build_setup(n_runs, n_parallel)


@dataclass(frozen=True)
class _RunAdapter:
    cfg: DictConfig
    settings: RunSettings
    parts: RunParts
    processes: ProcessGroup

    def build_setup(self, n_runs: int, n_parallel: int) -> TrainingSetup:
        task, state, plan = self.parts.task, self.parts.state, self.parts.plan
        positions = range(state.examples, state.examples + BATCHES * plan.batch_size, plan.batch_size)
        return TrainingSetup(
            task.model,
            [task.get_batch(position, plan.batch_size) for position in positions],
            self.compute_loss,
            **self.task_fields(),
            is_pretrained=has_pretrained_weights(self.cfg),
            requested=replace(self.read_requested(), n_runs=n_runs, n_parallel=n_parallel),
            optimizer=state.optimizer.parts,
            lrs_at=self.lrs_at,
            train_step=self.take_step,
            split_batch=lambda batch: task.split_batch(batch, plan.micro_batch_size),
            extra_state=[_StateCounters(state), state.scaler],
            batch_size=len(task.split_batch(task.get_batch(state.examples, plan.batch_size), 1)),
            save=lambda folder: save_weights(task.model.state_dict(), folder / WEIGHTS_FILE),
            load=self.load_model,
            merge_adapters=partial(remove_adapters, merged=True) if self.cfg.lora else None,
        )

    def task_fields(self) -> dict[str, Any]:
        """Return what depends on the kind of task; nothing is known of a user's own task."""
        task = self.parts.task
        if isinstance(task, TextTask):
            is_masked = isinstance(task, MaskedLM)

            def logits(model: nn.Module, batch: TokenBatch) -> torch.Tensor:
                return _with_model(task, model).compute_logits(batch)

            return {
                "text": TextFormat(_read_tokens, _make_batch, logits, label_shift=0 if is_masked else 1),
                "is_causal": not is_masked,
                "unigram_entropy": task.constants["unigram_entropy"],
                "evaluate": self.evaluate,
                "eval_count": None if is_masked else _count_scored(task.data),
                "eval_fraction": min(1.0, EVAL_EXAMPLES / len(task.data.val)),
                "data": self.build_text_data(task.data),
            }
        if isinstance(task, OperatorTask):
            train, val = (_Reiterable(partial(_sample_bytes, of)) for of in (task.data.train, task.data.held_out[0]))
            return {"zero_output_loss": 1.0, "evaluate": self.evaluate, "data": TrainingData(train=train, val=val)}
        return {}

    def build_text_data(self, data: TokenData) -> TrainingData:
        folder, tokenizer = data.tokenizer_path.parent, Tokenizer.load(data.tokenizer_path)
        unknown = getattr(tokenizer.backend.model, "unk_token", None)
        source = instantiate_component(self.cfg, "data", "source") if "source" in self.cfg.data else None
        has_documents = sum(1 for _ in _read_documents(folder, "val")) >= MIN_DOCUMENTS
        read_examples = _read_documents if has_documents else partial(_read_lines, tokenizer)
        return TrainingData(
            train=_Reiterable(partial(read_examples, folder, "train")),
            val=_Reiterable(partial(read_examples, folder, "val")),
            documents=None if source is None else _Reiterable(partial(_read_texts, source)),
            token_stream=data.train.stream,
            unknown_token_id=None if unknown is None else tokenizer.backend.token_to_id(unknown),
            tokenizer_saw_validation=_tokenizer_saw_validation(self.cfg.get("tokenizer")),
        )

    def read_requested(self) -> RequestedSettings:
        """Read the requested settings from the configuration, not from the parts built from it."""
        task, state, batch_size = self.parts.task, self.parts.state, self.settings.batch.batch_size
        total_steps = self.settings.loop.compute_total_steps(batch_size, task.examples, task.tokens_per_example)
        schedule, optimizer = self.cfg.schedule, self.cfg.optimizer
        warmup_ratio, names = schedule.get("warmup_ratio"), list(state.optimizer.current_lrs())
        undecayed = GROUPS_WITHOUT_DECAY[self.settings.weight_decay_applies_to]
        decay = optimizer.get("weight_decay")
        start = Progress(0, 0, total_steps)
        plateau = state.schedule if isinstance(state.schedule, Plateau) else None
        return RequestedSettings(
            lr={name: configured_lr(name, optimizer.lr, optimizer.get("adamw_lr")) * state.lr_factor for name in names},
            warmup_steps=schedule.get("warmup_steps") if warmup_ratio is None else warmup_ratio * total_steps,
            total_steps=total_steps,
            completed_steps=state.step - state.schedule_start_step,
            batch_size=batch_size,
            evals=sum(step > state.step for step in self.parts.plan.eval_steps),
            weight_decay=None if decay is None else {name: 0.0 if name in undecayed else decay for name in names},
            patience=plateau.patience if plateau else None,
            lr_multiplier=None if plateau else lambda step: state.schedule.lr_multiplier(replace(start, step=step)),
        )

    def compute_loss(self, model: nn.Module, batch: Any) -> Loss:
        task = _with_model(self.parts.task, model)
        if self.parts.plan.autocast is None:
            return task.compute_loss(batch)
        with torch.autocast(self.processes.device.type, self.parts.plan.autocast):
            return task.compute_loss(batch)

    def take_step(self, batch: Any) -> None:
        """Take a step as the training loop does.

        Raises:
            RuntimeError: If a micro-batch does not fit in memory.
        """
        self.parts.state.train()
        event = Trainer(self.parts.task, self.parts.state, self.parts.plan, self.processes).train_step(batch)
        if isinstance(event, OutOfMemory):
            raise RuntimeError(f"a micro-batch of {event.micro_batch_size} does not fit: {event.message}")

    def lrs_at(self, step: int) -> Mapping[str, float]:
        """Read the LRs from the optimizer after the loop's update at `step`, made on a single example."""
        state, plan = self.parts.state, self.parts.plan
        state.step = state.schedule_start_step + step
        plan = replace(plan, batch_size=self.processes.size, micro_batch_size=1)
        trainer = Trainer(self.parts.task, state, plan, self.processes)
        trainer.train_step(self.parts.task.get_batch(state.examples, 1))
        return state.optimizer.current_lrs()

    def evaluate(self, batch_size: int) -> EvalResult:
        task = _with_model(self.parts.task, self.parts.task.model)
        val = {"val": _first_rows(task.data.val)} if isinstance(task, TextTask) else {}
        task.data = replace(task.data, eval_batch_size=batch_size, **val)
        task.pairs = None
        mean = score_validation_set(task, self.processes, self.parts.plan.autocast)["loss"]
        return EvalResult(mean.value, int(mean.count), mean.unit)

    def load_model(self, folder: Path) -> nn.Module:
        """Load the model as a resumed run does."""
        model = build_task(self.cfg, self.settings, self.processes).model
        if self.cfg.lora:
            instantiate_component(self.cfg, "lora")(model)
        weights = load_weights(folder / WEIGHTS_FILE)
        if find_broken_tie(model, weights):  # an adapted head has had weights of its own since it was merged
            untie_head(model)
        load_model_weights(model, weights)
        return model.to(self.processes.device)


@dataclass(frozen=True)
class _StateCounters:
    """The part of a TrainState that a step changes besides model, optimizer and scaler."""

    state: TrainState

    def state_dict(self) -> dict[str, Any]:
        schedule = self.state.schedule
        schedule_state = schedule.state_dict() if isinstance(schedule, ObservingSchedule) else {}
        return {"schedule": schedule_state, **{name: getattr(self.state, name) for name in TrainState.COUNTERS}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if isinstance(self.state.schedule, ObservingSchedule):
            self.state.schedule.load_state_dict(state["schedule"])
        for name in TrainState.COUNTERS:
            setattr(self.state, name, state[name])


@dataclass(frozen=True)
class _Reiterable(Iterable[Any]):
    """An iterable that calls `make_iterator` each time it is iterated over."""

    make_iterator: Callable[[], Iterator[Any]]

    def __iter__(self) -> Iterator[Any]:
        return self.make_iterator()


def _with_model(task: Task, model: nn.Module) -> Any:
    """Return a copy of the task with another model."""
    other: Any = copy.copy(task)
    other.model = model
    return other


def _read_tokens(batch: TokenBatch) -> LabeledTokens:
    is_real = torch.arange(batch.inputs.shape[1]) < torch.from_numpy(batch.lengths)[:, None]
    return LabeledTokens(batch.inputs, batch.targets, is_real)


def _make_batch(tokens: LabeledTokens) -> TokenBatch:
    counts = (tokens.is_real.sum(1), (tokens.labels != IGNORE_INDEX).sum(1))
    return TokenBatch(tokens.inputs, tokens.labels, *(count.numpy() for count in counts))


def _first_rows(rows: TokenRows) -> TokenRows:
    """Return the first EVAL_EXAMPLES rows, and only as much of the stream as they need."""
    starts, lengths, scored = (array[:EVAL_EXAMPLES] for array in (rows.starts, rows.lengths, rows.scored_per_row))
    return TokenRows(rows.stream[: (starts + lengths).max() + 1], rows.is_scored, starts, lengths, scored)


def _count_scored(data: TokenData) -> int:
    """Return the number of targets to score: those of the first rows and those that are in no row."""
    return _first_rows(data.val).n_scored + data.val_scored_tokens - data.val.n_scored


def _read_documents(folder: Path, split: str) -> Iterator[Hashable]:
    tokens, _, ends = token_stream.read_token_stream(folder, split)
    return (tokens[start + 1 : end + 1].tobytes() for start, end in pairwise(ends))


def _read_lines(tokenizer: Tokenizer, folder: Path, split: str) -> Iterator[Hashable]:
    """Yield the lines of documents such as books, of which no complete copies are to be expected."""
    tokens, _, ends = token_stream.read_token_stream(folder, split)
    texts = (tokenizer.backend.decode(tokens[start + 1 : end + 1].tolist()) for start, end in pairwise(ends))
    return (line.strip() for text in texts for line in text.splitlines() if len(line.strip()) >= MIN_LINE_LENGTH)


def _read_texts(source: Source) -> Iterator[str]:
    return (document.prompt + document.text for document in source.iter_documents())


def _sample_bytes(fields: FieldPairs) -> Iterator[Hashable]:
    return (sample.numpy().tobytes() for sample in fields.x)


def _tokenizer_saw_validation(tokenizer: DictConfig | None) -> bool | None:
    """Return whether a tokenizer is trained on validation text, or None if it is not trained on this data."""
    if not tokenizer or tokenizer.get("fit_on") is None or tokenizer.get("corpus") is not None:
        return None
    return tokenizer.fit_on == "all"
