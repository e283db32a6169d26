"""The training that preflight checks: a model, its batches and its loss function, and whatever else is known."""

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
from harness.core.state import eval_mode
from harness.core.task import Loss
from harness.data.tokens import IGNORE_INDEX
from harness.models import is_causal

PERTURBATION = 0.01  # of a weight's standard deviation


class Stateful(Protocol):
    """An object with a state dict, such as a gradient scaler."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


@dataclass(frozen=True)
class LabeledTokens:
    """Rows of tokens: int64 `inputs` and `labels`, [rows, tokens], and bool `is_real`, False for padding.

    Labels are -100 where the loss scores nothing. Padding is at the end of a row.
    """

    inputs: Tensor
    labels: Tensor
    is_real: Tensor


@dataclass(frozen=True)
class TextFormat:
    """The layout of text in batches. `read` turns a batch into tokens, `write` is its inverse.

    `logits(model, batch)` returns logits of shape [rows, tokens, vocabulary], computed as the loss computes them.
    `label_shift` is the distance from an input to the token that its label holds: 1 if labels are the next tokens, 0 if
    they equal the inputs (the model's own loss shifts them) or hold what a mask hides.
    """

    read: Callable[[Any], LabeledTokens]
    write: Callable[[LabeledTokens], Any]
    logits: Callable[[nn.Module, Any], Tensor]
    label_shift: int


@dataclass(frozen=True)
class RequestedSettings:
    """Settings as the user gave them, to compare with those in effect."""

    lr: float | Mapping[str, float] | None = None
    """Peak LR, of all parameter groups or by the name of the group."""
    warmup_steps: float | None = None
    """Not rounded: a share of the run times its length."""
    total_steps: int | None = None
    completed_steps: int = 0
    """Steps of the total that were taken before, in a resumed run."""
    batch_size: int | None = None
    """Examples per step over all devices."""
    evals: int | None = None
    """Number of evaluations."""
    weight_decay: Mapping[str, float] | None = None
    """By the name of the parameter group."""
    lr_multiplier: Callable[[int], float] | None = None
    """Ratio of the LR to its peak, as a function of the number of completed steps."""
    patience: int | None = None
    """Evaluations without improvement before the schedule acts, if it is not torch's ReduceLROnPlateau."""
    n_runs: int = 1
    """Runs of the sweep."""
    n_parallel: int = 1
    """Runs at a time."""


@dataclass(frozen=True)
class EvalResult:
    """A validation loss: the mean over `count` elements, with its unit, such as nats/token."""

    loss: float
    count: int
    unit: str = ""


@dataclass(frozen=True)
class TrainingData:
    """Data to look through. Examples must be hashable: texts, tuples of token ids, bytes."""

    train: Iterable[Hashable] | None = None
    val: Iterable[Hashable] | None = None
    documents: Iterable[str] | None = None
    """Texts of the data source, of all splits."""
    token_stream: np.ndarray | None = None
    """Training text as token ids, one-dimensional."""
    unknown_token_id: int | None = None
    tokenizer_saw_validation: bool | None = None


@dataclass
class TrainingSetup:
    """A training as preflight sees it. What is missing is skipped.

    `loss_fn(model, batch)` returns the mean loss as a scalar tensor, or a `Loss`. `text` is detected if batches are
    mappings with `input_ids` and `labels`, as in transformers.

    Raises:
        ValueError: If there is no batch, or whether the model is causal cannot be detected.
    """

    model: nn.Module
    batches: Sequence[Any]
    """A few training batches."""
    loss_fn: Callable[[nn.Module, Any], Tensor | Loss]
    text: TextFormat | None = None
    is_causal: bool | None = None
    """True if the model should see only earlier tokens; detected from the model by default."""
    is_pretrained: bool = False
    unigram_entropy: float | None = None
    """Loss of a prediction that ignores the context, in nats, on the validation targets."""
    zero_output_loss: float | None = None
    """Training loss of a model that always outputs 0, if the loss is a relative error."""
    requested: RequestedSettings = field(default_factory=RequestedSettings)
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None
    scheduler: LRScheduler | None = None
    lrs_at: Callable[[int], Mapping[str, float]] | None = None
    """LR of each parameter group after so many completed steps; by default read from `scheduler`."""
    train_step: Callable[[Any], Any] | None = None
    """One optimizer update on a batch, as the training loop makes it, including the scheduler's step."""
    split_batch: Callable[[Any], Sequence[Any]] | None = None
    """Cut a batch into the micro-batches that `train_step` cuts it into; the cost of one stands for the others."""
    extra_state: Sequence[Stateful] = ()
    """Objects that `train_step` changes besides model, optimizer and scheduler, such as a gradient scaler."""
    batch_size: int | None = None
    """Examples per step in effect, over all devices."""
    evaluate: Callable[[int], EvalResult] | None = None
    """Return the validation loss, evaluated in batches of the given size."""
    eval_count: int | None = None
    """Elements that `evaluate` should score."""
    eval_fraction: float = 1.0
    """Fraction of the validation set that `evaluate` scores."""
    save: Callable[[Path], Any] | None = None
    """Write the model to a folder."""
    load: Callable[[Path], nn.Module] | None = None
    """Return a new model from what `save` wrote."""
    merge_adapters: Callable[[nn.Module], nn.Module] | None = None
    """Return the given model with its adapters merged into the layers they adapt."""
    data: TrainingData = field(default_factory=TrainingData)

    def __post_init__(self) -> None:
        if not self.batches:
            raise ValueError("batches: empty; preflight needs at least one training batch")
        if self.text is None:
            self.text = self._detect_text()
        if self.text is not None and self.is_causal is None:
            try:
                self.is_causal = self._detect_causality(self.text)
            except Exception as error:
                message = f"{type(error).__name__}: {error}".partition("\n")[0]
                raise ValueError(
                    f"is_causal: not detected, because the model does not take rows of two tokens ({message}); "
                    "set is_causal=True or is_causal=False"
                ) from error

    def _detect_text(self) -> TextFormat | None:
        """Return None if labels are classes of rows or tokens, or if the model does not map tokens to logits."""
        text = detect_text_format(self.batches[0])
        if text is None or getattr(getattr(self.model, "config", None), "is_encoder_decoder", False):
            return None
        try:
            logits = self._compute_logits(text, torch.tensor([[0, 1]]))
        except Exception:
            return None
        is_over_tokens = logits.ndim == 3 and logits.shape[-1] > text.read(self.batches[0]).inputs.max().item()
        return text if is_over_tokens else None

    @torch.no_grad()
    def _compute_logits(self, text: TextFormat, ids: Tensor) -> Tensor:
        """Return the logits of rows without padding, computed in eval mode on the device of the batches."""
        ids = ids.to(text.read(self.batches[0]).inputs.device)
        is_real = torch.ones_like(ids, dtype=torch.bool)
        with eval_mode(self.model), preserve_rng_state():
            return text.logits(self.model, text.write(LabeledTokens(ids, ids.clone(), is_real)))

    def _detect_causality(self, text: TextFormat) -> bool:
        """Perturb the weights if the model sees neither side, as with a head or branches initialized to 0."""

        def logits(ids: Tensor) -> Tensor:
            return self._compute_logits(text, ids)

        if not is_causal(self.model, logits):
            return False
        if not is_causal(self.model, lambda ids: logits(ids.flip(1)).flip(1)):
            return True
        with self.preserved_state():
            self.perturb_weights()
            return is_causal(self.model, logits)

    @property
    def optimizer_list(self) -> Sequence[torch.optim.Optimizer]:
        if self.optimizer is None:
            return []
        return [self.optimizer] if isinstance(self.optimizer, torch.optim.Optimizer) else list(self.optimizer)

    @property
    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        return {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}

    def compute_loss(self, batch: Any) -> Tensor:
        """Return the mean loss of a batch, with its graph."""
        loss = self.loss_fn(self.model, batch)
        return loss.sum / loss.count if isinstance(loss, Loss) else loss

    @torch.no_grad()
    def perturb_weights(self) -> None:
        """Add noise of PERTURBATION times its standard deviation to each trainable weight."""
        for parameter in self.trainable_parameters.values():
            spread = parameter.std() if parameter.numel() > 1 else parameter.abs().max()
            parameter.add_(PERTURBATION * (spread if spread > 0 else 1.0) * torch.randn_like(parameter))

    @contextmanager
    def preserved_state(self) -> Iterator[None]:
        """Restore weights, mode, random generators and all that `train_step` changes on exit; clear gradients."""
        schedulers = [self.scheduler] if self.scheduler else []
        stateful: list[Stateful] = [self.model, *self.optimizer_list, *schedulers, *self.extra_state]
        states = [copy.deepcopy(part.state_dict()) for part in stateful]
        was_training = self.model.training
        with preserve_rng_state():
            try:
                yield
            finally:
                for part, state in zip(stateful, states, strict=True):
                    part.load_state_dict(state)
                self.model.zero_grad()
                self.model.train(was_training)


def detect_text_format(batch: Any) -> TextFormat | None:
    """Return the format of a batch with `input_ids` and `labels`, as in transformers, or None for another batch."""
    if not isinstance(batch, Mapping) or not {"input_ids", "labels"} <= batch.keys():
        return None
    if batch["labels"].shape != batch["input_ids"].shape or batch["input_ids"].ndim != 2:
        return None
    return TextFormat(_read_tokens, _make_batch, _compute_logits, _detect_label_shift(_read_tokens(batch)))


def _read_tokens(batch: Mapping[str, Tensor]) -> LabeledTokens:
    inputs, mask = batch["input_ids"], batch.get("attention_mask")
    is_real = torch.ones_like(inputs, dtype=torch.bool) if mask is None else mask.bool()
    return LabeledTokens(inputs, batch["labels"], is_real)


def _make_batch(tokens: LabeledTokens) -> dict[str, Tensor]:
    return {"input_ids": tokens.inputs, "labels": tokens.labels, "attention_mask": tokens.is_real.long()}


def _compute_logits(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    output = model(**{name: value for name, value in batch.items() if name != "labels"})
    return getattr(output, "logits", output)


def _detect_label_shift(tokens: LabeledTokens) -> int:
    """Return 1 if most labels are the next input. Labels that equal the input or are masked there have no shift."""
    is_scored = tokens.labels != IGNORE_INDEX
    same = (tokens.labels == tokens.inputs)[is_scored].sum()
    following = (tokens.labels[:, :-1] == tokens.inputs[:, 1:])[is_scored[:, :-1]].sum()
    return int(following > max(same, is_scored.sum() / 2))
