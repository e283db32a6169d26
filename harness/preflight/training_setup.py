"""What is checked: a model, its batches and its loss, and of the rest as much as is given."""

import copy
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from harness.core.seeding import preserve_rng_state
from harness.core.task import Loss
from harness.models import is_causal

IGNORED = -100
"""The label of a position that no loss scores."""
PERTURBATION = 0.01
"""Of its own spread, by which a weight is moved."""


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


@dataclass(frozen=True)
class LabeledTokens:
    """Rows of text: int64 `inputs` and `labels`, [rows, tokens], labels IGNORED where nothing is scored, and bool
    `is_real`, False for padding, which stands at the end of its row."""

    inputs: Tensor
    labels: Tensor
    is_real: Tensor


@dataclass(frozen=True)
class TextFormat:
    """How a subject's batches hold text: `read` and `write` are inverse to each other, and `logits(model, batch)` are
    [rows, tokens, vocabulary], computed as the loss computes them. `shift` is how much further on in the text than its
    position a label is: 1 where labels are the next tokens already, 0 where they are the inputs, and the model's own
    loss moves them, or where a mask hides them."""

    read: Callable[[Any], LabeledTokens]
    write: Callable[[LabeledTokens], Any]
    logits: Callable[[nn.Module, Any], Tensor]
    shift: int


@dataclass(frozen=True)
class RequestedSettings:
    """What a run is asked to do, in the user's numbers, before any code has read them."""

    lr: float | Mapping[str, float] | None = None
    """The peak, or that of each parameter group by name."""
    warmup_steps: float | None = None
    """Not rounded: a share of the run times its length."""
    total_steps: int | None = None
    steps_behind: int = 0
    """Of the total, where the run goes on from another."""
    batch_size: int | None = None
    """Examples a step, over all devices."""
    evals: int | None = None
    weight_decay: Mapping[str, float] | None = None
    """Of each parameter group, by name."""
    multiplier: Callable[[int], float] | None = None
    """Of the peak LR, for the update that follows so many."""
    patience: int | None = None
    """Evaluations without a better one that a plateau schedule of another kind than torch's waits for."""
    runs: int = 1
    """More than one in a sweep, `at_once` of them at a time."""
    at_once: int = 1


@dataclass(frozen=True)
class EvalResult:
    """A validation loss, and over how many elements (tokens, fields) it is the mean."""

    loss: float
    count: int
    unit: str = ""


@dataclass(frozen=True)
class TrainingData:
    """What is learned from and judged by. Examples are hashable: texts, tuples of token ids, bytes."""

    train: Iterable[Hashable] | None = None
    val: Iterable[Hashable] | None = None
    texts: Iterable[str] | None = None
    """Documents, of training and of whatever else its source holds."""
    stream: np.ndarray | None = None
    """The training text as token ids, one-dimensional."""
    unknown_id: int | None = None
    tokenizer_saw_validation: bool | None = None


@dataclass
class TrainingSetup:
    """A user's training, or a run of ours, laid open to the checks.

    `loss_fn(model, batch)` is the mean loss as a scalar tensor, or a Loss. What is not given is not checked; `text` is
    found out where batches are mappings with `input_ids` and `labels`, as transformers takes them."""

    model: nn.Module
    batches: Sequence[Any]
    """A few of those that training takes."""
    loss_fn: Callable[[nn.Module, Any], Tensor | Loss]
    text: TextFormat | None = None
    is_causal: bool | None = None
    """Whether the model is meant to see only what stands before a token; by default whether it does."""
    is_pretrained: bool = False
    unigram_entropy: float | None = None
    """Of the validation targets, in nats: what a guess that ignores the context scores."""
    zero_predictor: float | None = None
    """The training loss of a model that answers 0, where the loss is a relative error."""
    asked: RequestedSettings = field(default_factory=RequestedSettings)
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None
    schedule: LRScheduler | None = None
    lrs: Callable[[int], Mapping[str, float]] | None = None
    """The LR of each parameter group in the update that follows so many; by default what `schedule` comes to."""
    step: Callable[[Any], Any] | None = None
    """One update on a batch, as the training loop makes it, scheduler and all."""
    micro_batches: Callable[[Any], Sequence[Any]] | None = None
    """A batch as `step` cuts it, where it does; what one takes then stands for the others."""
    moved: Sequence[Stateful] = ()
    """What `step` changes beside the model, the optimizer and the schedule."""
    batch_size: int | None = None
    """Examples a step in force, over all devices."""
    evaluate: Callable[[int], EvalResult] | None = None
    """The validation loss, evaluated in batches of so many examples."""
    to_score: int | None = None
    """Elements that a whole evaluation scores."""
    evaluated_share: float = 1.0
    """Of the validation set, that `evaluate` scores; for the cost of a whole evaluation."""
    save: Callable[[Path], Any] | None = None
    """Write the model to a folder."""
    load: Callable[[Path], nn.Module] | None = None
    """A model made anew from what `save` wrote."""
    merge: Callable[[nn.Module], nn.Module] | None = None
    """The model that it is given, its adapters merged into the layers that they adapt."""
    data: TrainingData = field(default_factory=TrainingData)

    def __post_init__(self) -> None:
        if not self.batches:
            raise ValueError("batches: none is given; preflight needs at least one that training takes")
        if self.text is None:
            self._detect_text()
        if self.text is not None and self.is_causal is None:
            try:
                self.is_causal = self._detect_causality()
            except Exception as error:
                said = f"{type(error).__name__}: {error}".partition("\n")[0]
                raise ValueError(
                    f"is_causal: rows of two tokens do not pass through `text` and the model ({said}); "
                    "say is_causal=True or is_causal=False"
                ) from error

    def _detect_text(self) -> None:
        """Where batches hold it and the model makes logits of it: not where labels are classes of rows or of tokens."""
        found = detect_text_format(self.batches[0])
        if found is None or getattr(getattr(self.model, "config", None), "is_encoder_decoder", False):
            return
        self.text, largest = found, found.read(self.batches[0]).inputs.max().item()
        try:
            logits = self._compute_logits(torch.tensor([[0, 1]]))
        except Exception:
            self.text = None
            return
        if logits.ndim != 3 or logits.shape[-1] <= largest:
            self.text = None

    @torch.no_grad()
    def _compute_logits(self, ids: Tensor) -> Tensor:
        """Of rows of real tokens, on the device of the batches."""
        ids = ids.to(self.text.read(self.batches[0]).inputs.device)
        is_real = torch.ones_like(ids, dtype=torch.bool)
        was_training = self.model.training
        self.model.eval()
        try:
            with preserve_rng_state():
                return self.text.logits(self.model, self.text.write(LabeledTokens(ids, ids.clone(), is_real)))
        finally:
            self.model.train(was_training)

    def _detect_causality(self) -> bool:
        """After a nudge where the model sees nothing on either side, as with a head or branches that begin at 0."""
        back = lambda ids: self._compute_logits(ids.flip(1)).flip(1)  # noqa: E731
        if not is_causal(self.model, self._compute_logits):
            return False
        if not is_causal(self.model, back):
            return True
        with self.preserved_state():
            self.perturb_weights()
            return is_causal(self.model, self._compute_logits)

    @property
    def optimizer_list(self) -> Sequence[torch.optim.Optimizer]:
        given = self.optimizer
        return [] if given is None else [given] if isinstance(given, torch.optim.Optimizer) else list(given)

    @property
    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        return {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}

    def compute_loss(self, batch: Any) -> Tensor:
        """The mean loss of a batch, with its graph."""
        loss = self.loss_fn(self.model, batch)
        return loss.sum / loss.count if isinstance(loss, Loss) else loss

    @torch.no_grad()
    def perturb_weights(self) -> None:
        """Move each trainable weight by NUDGE of its spread, one without a spread by NUDGE."""
        for parameter in self.trainable_parameters.values():
            spread = parameter.std() if parameter.numel() > 1 else parameter.abs().max()
            parameter += PERTURBATION * (spread if spread > 0 else 1.0) * torch.randn_like(parameter)

    @contextmanager
    def preserved_state(self) -> Iterator[None]:
        """Weights, mode, generators and all that `step` moves are afterwards what they were; gradients are cleared."""
        stateful = [self.model, *self.optimizer_list, *([self.schedule] if self.schedule else []), *self.moved]
        states = [copy.deepcopy(one.state_dict()) for one in stateful]
        was_training = self.model.training
        with preserve_rng_state():
            try:
                yield
            finally:
                for one, state in zip(stateful, states, strict=True):
                    one.load_state_dict(state)
                self.model.zero_grad()
                self.model.train(was_training)


def detect_text_format(batch: Any) -> TextFormat | None:
    """Of batches as transformers takes them: whether labels are moved on already is read from this one. None of
    others."""
    if not isinstance(batch, Mapping) or not {"input_ids", "labels"} <= batch.keys():
        return None
    if batch["labels"].shape != batch["input_ids"].shape or batch["input_ids"].ndim != 2:
        return None
    return TextFormat(_read_tokens, _make_batch, _compute_logits, _detect_label_shift(_read_tokens(batch)))


def _read_tokens(batch: Mapping[str, Tensor]) -> LabeledTokens:
    inputs = batch["input_ids"]
    mask = batch.get("attention_mask")
    return LabeledTokens(
        inputs, batch["labels"], torch.ones_like(inputs, dtype=torch.bool) if mask is None else mask.bool()
    )


def _make_batch(tokens: LabeledTokens) -> dict[str, Tensor]:
    return {"input_ids": tokens.inputs, "labels": tokens.labels, "attention_mask": tokens.is_real.long()}


def _compute_logits(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    made = model(**{name: value for name, value in batch.items() if name != "labels"})
    return getattr(made, "logits", made)


def _detect_label_shift(tokens: LabeledTokens) -> int:
    """1 where most labels are the inputs one further on, and else 0: there, or hidden by a mask."""
    scored = tokens.labels != IGNORED
    here = (tokens.labels == tokens.inputs)[scored].sum()
    next_one = (tokens.labels[:, :-1] == tokens.inputs[:, 1:])[scored[:, :-1]].sum()
    return int(next_one > max(here, scored.sum() / 2))
