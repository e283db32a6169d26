"""A run laid open to preflight's checks: what is asked for from its configuration, what is in force from its parts."""

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

from harness.config.schema import RunSettings, without_sweep_keys
from harness.core.distributed import ProcessGroup
from harness.core.events import OutOfMemory
from harness.core.state import Progress, TrainState, find_broken_tie, load_model_weights
from harness.core.task import Loss, Task
from harness.data import token_stream
from harness.data.operator_data import FieldPairs
from harness.data.sources import Source
from harness.data.tokenizers import Tokenizer
from harness.data.tokens import IGNORE_INDEX, TokenBatch, TokenData, TokenRows
from harness.models import untie_head
from harness.preflight import EvalResult, LabeledTokens, RequestedSettings, TextFormat, TrainingData, TrainingSetup
from harness.run.build import RunParts, build_task, instantiate_component
from harness.run.runner import built_run
from harness.tasks.masked_lm import MaskedLM
from harness.tasks.operator import OperatorTask
from harness.tasks.text import TextTask
from harness.training.checkpoint import WEIGHTS_FILE, load_weights, save_weights
from harness.training.loop import Trainer, score_validation_set
from harness.training.lora import remove_adapters
from harness.training.optimizers import GROUPS_WITHOUT_DECAY
from harness.training.schedules import Plateau

BATCHES = 4
"""Step batches that are looked at."""
FEWEST, SHORTEST = 20, 40
"""Validation documents, below which their lines are looked for in training, and characters of such a line."""
PRETRAINED = "harness.models.pretrained"
"""Where models come with weights."""
HELD_OUT = 29
"""Examples of the validation set that are evaluated; so many leave a remainder in batches of 16 and of 13."""


@contextmanager
def open_training_setup(cfg: DictConfig, runs: int = 1, at_once: int = 1) -> Iterator[TrainingSetup]:
    """A run of `cfg`, one of `runs`, as it would begin; ConfigError and BaseEnded where it would not."""
    cfg = without_sweep_keys(cfg)
    with built_run(cfg) as (settings, parts, world):
        yield _RunAdapter(cfg, settings, parts, world).build_setup(runs, at_once)


@dataclass(frozen=True)
class _RunAdapter:
    cfg: DictConfig
    settings: RunSettings
    parts: RunParts
    world: ProcessGroup

    def build_setup(self, runs: int, at_once: int) -> TrainingSetup:
        task, state, plan = self.parts.task, self.parts.state, self.parts.plan
        sizes = range(0, BATCHES * plan.batch_size, plan.batch_size)
        return TrainingSetup(
            task.model,
            [task.get_batch(state.examples + position, plan.batch_size) for position in sizes],
            self.compute_loss,
            **self.task_fields(),
            is_pretrained=self.settings.start.kind != "scratch" or _is_pretrained(self.cfg.get("model")),
            asked=replace(self.read_requested(), runs=runs, at_once=at_once),
            optimizer=state.optimizer.parts,
            lrs=self.lrs_at,
            step=self.take_step,
            micro_batches=lambda batch: task.split_batch(batch, plan.micro_batch_size),
            moved=[_StateCounters(state), state.scaler],
            batch_size=len(task.split_batch(task.get_batch(state.examples, plan.batch_size), 1)),
            save=lambda folder: save_weights(task.model.state_dict(), folder / WEIGHTS_FILE),
            load=self.load_model,
            merge=partial(remove_adapters, merged=True) if self.cfg.lora else None,
        )

    def task_fields(self) -> dict[str, Any]:
        """What only a kind of task has; of a user's own, nothing more is known."""
        task = self.parts.task
        if isinstance(task, TextTask):
            is_masked = isinstance(task, MaskedLM)
            logits = lambda model, batch: _with_model(task, model).logits(batch)  # noqa: E731
            return {
                "text": TextFormat(_read_tokens, _make_batch, logits, shift=0 if is_masked else 1),
                "is_causal": not is_masked,
                "unigram_entropy": task.constants["unigram_entropy"],
                "evaluate": self.evaluate,
                "to_score": None if is_masked else _count_scored(task.data),
                "evaluated_share": min(1.0, HELD_OUT / len(task.data.val)),
                "data": self.build_text_data(task.data),
            }
        if isinstance(task, OperatorTask):
            examples = {"train": task.data.train, "val": task.data.held_out[0]}
            again = {name: _Reiterable(partial(_sample_bytes, fields)) for name, fields in examples.items()}
            return {"zero_predictor": 1.0, "evaluate": self.evaluate, "data": TrainingData(**again)}
        return {}

    def build_text_data(self, data: TokenData) -> TrainingData:
        folder, tokenizer = data.tokenizer_path.parent, Tokenizer.load(data.tokenizer_path)
        unknown = getattr(tokenizer.backend.model, "unk_token", None)
        source = instantiate_component(self.cfg.data, "source") if "source" in self.cfg.data else None
        pieces = (
            _read_documents
            if sum(1 for _ in _read_documents(folder, "val")) >= FEWEST
            else partial(_read_lines, tokenizer)
        )
        return TrainingData(
            train=_Reiterable(partial(pieces, folder, "train")),
            val=_Reiterable(partial(pieces, folder, "val")),
            texts=None if source is None else _Reiterable(partial(_read_texts, source)),
            stream=data.train.stream,
            unknown_id=None if unknown is None else tokenizer.backend.token_to_id(unknown),
            tokenizer_saw_validation=_tokenizer_saw_validation(self.cfg.get("tokenizer")),
        )

    def read_requested(self) -> RequestedSettings:
        """In the configuration's own numbers."""
        task, state, batch_size = self.parts.task, self.parts.state, self.settings.batch.batch_size
        total_steps = self.settings.loop.compute_total_steps(batch_size, task.examples, task.tokens_per_example)
        schedule, optimizer = self.cfg.schedule, self.cfg.optimizer
        share, names = schedule.get("warmup_ratio"), list(state.optimizer.current_lrs())
        others = optimizer.get("adamw_lr", optimizer.lr)
        spared = GROUPS_WITHOUT_DECAY[self.settings.weight_decay_scope]
        decay = optimizer.get("weight_decay")
        start = Progress(0, 0, total_steps)
        pure = None if isinstance(state.schedule, Plateau) else state.schedule
        return RequestedSettings(
            lr={name: (optimizer.lr if name == "matrices" else others) * state.lr_factor for name in names},
            warmup_steps=schedule.get("warmup_steps") if share is None else share * total_steps,
            total_steps=total_steps,
            steps_behind=state.step - state.schedule_start_step,
            batch_size=batch_size,
            evals=sum(step > state.step for step in self.parts.plan.eval_steps),
            weight_decay=None if decay is None else {name: 0.0 if name in spared else decay for name in names},
            patience=None if pure else state.schedule.patience,
            multiplier=None if pure is None else lambda step: pure.lr_multiplier(replace(start, step=step)),
        )

    def compute_loss(self, model: nn.Module, batch: Any) -> Loss:
        task = _with_model(self.parts.task, model)
        if self.parts.plan.autocast is None:
            return task.compute_loss(batch)
        with torch.autocast(self.world.device.type, self.parts.plan.autocast):
            return task.compute_loss(batch)

    def take_step(self, batch: Any) -> None:
        """As the loop does; RuntimeError where it would have to split the batch further."""
        self.parts.state.train()
        event = Trainer(self.parts.task, self.parts.state, self.parts.plan, self.world).train_step(batch)
        if isinstance(event, OutOfMemory):
            raise RuntimeError(f"a micro-batch of {event.micro_batch_size} does not fit: {event.message}")

    def lrs_at(self, step: int) -> Mapping[str, float]:
        """Read from the optimizer after the loop has made that update, on a single example."""
        state, plan = self.parts.state, self.parts.plan
        state.step = state.schedule_start_step + step
        one = self.parts.task.get_batch(state.examples, 1)
        plan = replace(plan, batch_size=self.world.size, micro_batch_size=1)
        Trainer(self.parts.task, state, plan, self.world).train_step(one)
        return state.optimizer.current_lrs()

    def evaluate(self, size: int) -> EvalResult:
        task = _with_model(self.parts.task, self.parts.task.model)
        held_out = {"val": _first_rows(task.data.val)} if isinstance(task, TextTask) else {}
        task.data = replace(task.data, eval_batch_size=size, **held_out)
        task.pairs = None
        mean = score_validation_set(task, self.world, self.parts.plan.autocast)["loss"]
        return EvalResult(mean.value, int(mean.count), mean.unit)

    def load_model(self, folder: Path) -> nn.Module:
        """As a run that goes on from it would."""
        model = build_task(self.cfg, self.settings, self.world).model
        if self.cfg.lora:
            instantiate_component(self.cfg, "lora")(model)
        weights = load_weights(folder / WEIGHTS_FILE)
        if find_broken_tie(model, weights):  # the head was adapted once, and has weights of its own since
            untie_head(model)
        load_model_weights(model, weights)
        return model.to(self.world.device)


@dataclass(frozen=True)
class _StateCounters:
    """What a step moves of a state beside model, optimizer and scaler."""

    state: TrainState

    def state_dict(self) -> dict[str, Any]:
        observed = self.state.schedule.state_dict() if hasattr(self.state.schedule, "state_dict") else {}
        return {"schedule": observed, **{name: getattr(self.state, name) for name in TrainState.COUNTERS}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["schedule"]:
            self.state.schedule.load_state_dict(state["schedule"])
        for name in TrainState.COUNTERS:
            setattr(self.state, name, state[name])


@dataclass(frozen=True)
class _Reiterable(Iterable):
    """What `begin` yields, from the start each time it is asked."""

    begin: Callable[[], Iterator[Any]]

    def __iter__(self) -> Iterator[Any]:
        return self.begin()


def _with_model(task: Task, model: nn.Module) -> Any:
    other = copy.copy(task)
    other.model = model
    return other


def _is_pretrained(model: DictConfig | None) -> bool:
    return model is not None and f"{PRETRAINED}." in model._target_


def _read_tokens(batch: TokenBatch) -> LabeledTokens:
    is_real = torch.arange(batch.inputs.shape[1]) < torch.from_numpy(batch.lengths)[:, None]
    return LabeledTokens(batch.inputs, batch.targets, is_real)


def _make_batch(tokens: LabeledTokens) -> TokenBatch:
    counts = (tokens.is_real.sum(1), (tokens.labels != IGNORE_INDEX).sum(1))
    return TokenBatch(tokens.inputs, tokens.labels, *(count.numpy() for count in counts))


def _first_rows(rows: TokenRows) -> TokenRows:
    """So many rows, and of the stream what they need."""
    starts, lengths, scored = (of[:HELD_OUT] for of in (rows.starts, rows.lengths, rows.scored_per_row))
    return TokenRows(rows.stream[: (starts + lengths).max() + 1], rows.is_scored, starts, lengths, scored)


def _count_scored(data: TokenData) -> int:
    """Of the rows that are evaluated here, and with what no row holds."""
    return _first_rows(data.val).n_scored + data.val_scored_tokens - data.val.n_scored


def _read_documents(folder: Path, split: str) -> Iterator[Hashable]:
    tokens, _, ends = token_stream.read_token_stream(folder, split)
    return (tokens[start + 1 : end + 1].tobytes() for start, end in pairwise(ends))


def _read_lines(tokenizer: Tokenizer, folder: Path, split: str) -> Iterator[Hashable]:
    """Of documents as long as books, which are never copied whole; those too short to be anyone's own left out."""
    tokens, _, ends = token_stream.read_token_stream(folder, split)
    texts = (tokenizer.backend.decode(tokens[start + 1 : end + 1].tolist()) for start, end in pairwise(ends))
    return (line.strip() for text in texts for line in text.splitlines() if len(line.strip()) >= SHORTEST)


def _read_texts(source: Source) -> Iterator[str]:
    return (document.prompt + document.text for document in source.iter_documents())


def _sample_bytes(fields: FieldPairs) -> Iterator[Hashable]:
    return (sample.numpy().tobytes() for sample in fields.x)


def _tokenizer_saw_validation(tokenizer: DictConfig | None) -> bool | None:
    """Whether a tokenizer was trained on validation text; None where it comes from elsewhere."""
    if not tokenizer or tokenizer.get("fit_on") is None or tokenizer.get("corpus") is not None:
        return None
    return tokenizer.fit_on == "all"
