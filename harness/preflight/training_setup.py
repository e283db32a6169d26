"""The training that preflight checks: a model, its batches and its loss function, and whatever else is known."""

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LRScheduler
from torch.overrides import TorchFunctionMode

from harness.core.seeding import preserve_rng_state
from harness.core.state import eval_mode
from harness.core.task import Loss
from harness.data.tokens import IGNORE_INDEX
from harness.models import is_causal
from harness.preflight.batch_rows import select_rows
from harness.preflight.field_types import check_field_types, describe_value
from harness.preflight.object_state import preserved_model, preserved_model_state
from harness.preflight.outputs import record_outputs
from harness.preflight.report import CannotCheck, Finding, UserCodeError, UserResultError
from harness.preflight.setup_values import EvalResult, RequestedSettings, TrainingData
from harness.preflight.text_format import LabeledTokens, TextFormat, detect_text_format, predicts_next_token

PERTURBATION = 0.01  # of a weight's standard deviation
BATCH_SIZE_NAMES = ("batch_size", "eval_batch_size", "val_batch_size", "batchsize", "bs", "size")


class Stateful(Protocol):
    """An object with a state dict, such as a gradient scaler."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


@dataclass
class TrainingSetup:
    """A training as preflight sees it. What is missing is skipped.

    `loss_fn(model, batch)` returns the mean loss as a scalar tensor, or a `Loss`. `text` is detected if batches are
    mappings with `input_ids` and `labels`, as in transformers.

    Raises:
        TypeError: If a field has another type than the check can use.
        ValueError: If there is no batch, or whether the model is causal cannot be detected.
    """

    model: nn.Module
    batches: Sequence[Any]
    """A few training batches, as the loader returns them."""
    loss_fn: Callable[[nn.Module, Any], Tensor | Loss]
    text: TextFormat | None = None
    is_causal: bool | None = None
    """True if the model predicts the next token; by default, the labels say it."""
    is_pretrained: bool = False
    unigram_entropy: float | None = None
    """Loss of a prediction that ignores the context, in nats, on the validation targets."""
    zero_output_loss: float | None = None
    """Training loss of a model that always outputs 0, if the loss is a relative error."""
    requested: RequestedSettings = field(default_factory=RequestedSettings)
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None
    scheduler: LRScheduler | Sequence[LRScheduler] | None = None
    lrs_at: Callable[[int], Mapping[str, float]] | None = None
    """LR of each parameter group after so many completed steps; by default read from `scheduler`."""
    train_step: Callable[[Any], Any] | None = None
    """One optimizer update on a batch, as the training loop makes it, including the scheduler's step."""
    split_batch: Callable[[Any], Sequence[Any]] | None = None
    """Cut a batch into the micro-batches that `train_step` cuts it into; the cost of one stands for the others."""
    extra_state: Sequence[Stateful] = ()
    """Objects that `train_step` changes besides model, optimizer and scheduler: a gradient scaler, averaged weights."""
    batch_size: int | None = None
    """Examples per step in effect, over all devices."""
    evaluate: Callable[..., EvalResult | float] | None = None
    """Return the validation loss; given the batch size to evaluate with if it takes an argument."""
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
    known_findings: Mapping[str, Sequence[Finding]] = field(default_factory=dict)
    """Findings of whoever made the setup, by check; they come before the check's own."""

    def __post_init__(self) -> None:
        check_field_types(self)
        if not len(self.batches):
            raise ValueError("batches: empty; preflight needs at least one training batch")
        if self.text is None:
            self.text = self._detect_text()
        if self.text is not None and self.is_causal is None:
            self.is_causal = predicts_next_token(self.model, self.text, self.batches)
            if self.is_causal is None:
                self.is_causal = self._measure_causality(self.text)

    def _detect_text(self) -> TextFormat | None:
        """Return None if labels are classes of rows or tokens, or if the model does not map tokens to logits."""
        text = detect_text_format(self.batches[0])
        if text is None or getattr(getattr(self.model, "config", None), "is_encoder_decoder", False):
            return None
        rows, self.text = len(text.read_tokens(self.batches[0]).inputs), text
        try:
            logits = self.compute_logits(select_rows(self.batches[0], slice(0, 2), rows))
        except Exception:
            return None
        finally:
            self.text = None
        if logits.shape[-1] <= max(text.read_tokens(batch).inputs.max().item() for batch in self.batches):
            return None
        return replace(text, ignore_index=self._find_ignore_index(text))

    @torch.no_grad()
    def _find_ignore_index(self, text: TextFormat) -> int:
        """Return the label that the loss does not score: that of the batches, of its cross-entropy, or -100 or -1.

        The last two are tried on the CPU only, as a label out of range ends the process on CUDA.
        """
        tokens = text.read_tokens(self.batches[0])
        if text.ignore_index != IGNORE_INDEX or (tokens.labels == IGNORE_INDEX).any() or not text.label_shift:
            return text.ignore_index
        with eval_mode(self.model), preserve_rng_state(), suppress(Exception), IgnoreIndexRecorder() as recorder:
            self.compute_loss(self.batches[0])
        if recorder.found:
            return recorder.found.get(tokens.labels.numel(), next(iter(recorder.found.values())))
        labels = tokens.labels.clone()
        labels[:, 0] = IGNORE_INDEX
        for candidate in (IGNORE_INDEX, -1) if labels.device.type == "cpu" else ():
            batch = replace(text, ignore_index=candidate).make_batch(replace(tokens, labels=labels))
            with eval_mode(self.model), preserve_rng_state(), suppress(Exception):
                self.compute_loss(batch)
                return candidate
        return text.ignore_index

    @torch.no_grad()
    def compute_logits(self, batch: Any) -> Tensor:
        """Return the logits of a batch of text, [rows, tokens, vocabulary], in eval mode.

        Raises:
            CannotCheck: If they are not logits of all positions.
        """
        assert self.text is not None
        shape = self.text.read_tokens(batch).inputs.shape
        with eval_mode(self.model), preserve_rng_state(), preserved_model_state(self.model):
            if self.text.logits is not None:
                logits = getattr(output := self.text.logits(self.model, batch), "logits", output)
                if logits.ndim == 3 and logits.shape[:2] == shape:
                    return logits
            for logits in record_outputs(self.model, lambda: self.loss_fn(self.model, batch))[1]:
                if logits.ndim == 3 and logits.shape[:2] == shape:
                    return logits
        raise CannotCheck(f"needs logits of all positions, {list(shape)} and the vocabulary; see TextFormat.logits")

    def _measure_causality(self, text: TextFormat) -> bool:
        """Return whether the model ignores later tokens, for labels that do not say what it should predict.

        Perturb the weights if the model sees neither side, as with a head or branches initialized to 0.
        """
        device = text.read_tokens(self.batches[0]).inputs.device

        def logits(ids: Tensor) -> Tensor:
            tokens = LabeledTokens(
                ids.to(device), ids.to(device), torch.ones_like(ids, dtype=torch.bool, device=device)
            )
            return self.compute_logits(text.make_batch(tokens))

        try:
            if not is_causal(self.model, logits):
                return False
            if not is_causal(self.model, lambda ids: logits(ids.flip(1)).flip(1)):
                return True
            with self.preserved_state():
                self.perturb_weights()
                return is_causal(self.model, logits)
        except Exception as error:
            message = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise ValueError(
                "is_causal: not detected, because the labels do not show it and the model does not take rows "
                f"of two tokens ({message}); set is_causal=True or is_causal=False"
            ) from error

    @property
    def optimizer_list(self) -> Sequence[torch.optim.Optimizer]:
        if self.optimizer is None:
            return []
        return [self.optimizer] if isinstance(self.optimizer, torch.optim.Optimizer) else list(self.optimizer)

    @property
    def scheduler_list(self) -> Sequence[LRScheduler]:
        """The schedulers, including those that are given as extra state."""
        given = self.scheduler if isinstance(self.scheduler, Sequence) else [self.scheduler] if self.scheduler else []
        others = [part for part in self.extra_state if isinstance(part, LRScheduler) and part not in given]
        return [*given, *others]

    @property
    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        return {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}

    def compute_loss(self, batch: Any) -> Tensor:
        """Return the mean loss of a batch, with its graph; what the model keeps for its next call is set back.

        Raises:
            UserResultError: If `loss_fn` returns something else.
        """
        with preserved_model_state(self.model):
            loss = self.loss_fn(self.model, batch)
        if isinstance(loss, Loss):
            return loss.sum / loss.count
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            hint = "Return the mean loss itself, such as output.loss or loss.mean()"
            raise UserResultError(f"`loss_fn` returned {describe_value(loss)}", "a scalar tensor or a `Loss`", hint)
        return loss

    def run_user_code(self, name: str, *arguments: Any) -> Any:
        """Call one of the given functions as it stands.

        Raises:
            UserCodeError: If it raises an error.
        """
        try:
            return getattr(self, name)(*arguments)
        except Exception as error:
            raise UserCodeError(f"{name}: {type(error).__name__}: {error}") from error

    @property
    def takes_eval_batch_size(self) -> bool:
        """Return whether `evaluate` takes the batch size to evaluate with."""
        return self._find_size_parameter() is not None

    def _find_size_parameter(self) -> str | None:
        """Return the name of the parameter that is the batch size, an empty string for the first one, or None.

        A parameter with a default is something else, such as a split or a number of batches, unless its name says so.
        """
        try:
            parameters = inspect.signature(self.evaluate).parameters.values() if self.evaluate else []
        except (TypeError, ValueError):
            return ""
        for each in parameters:
            if each.name.lower() in BATCH_SIZE_NAMES and each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY):
                return each.name
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        is_required = any(each.kind in kinds and each.default is each.empty for each in parameters)
        return "" if is_required or any(each.kind is each.VAR_POSITIONAL for each in parameters) else None

    def run_evaluation(self, batch_size: int) -> EvalResult:
        """Return the validation loss, in batches of the given size if `evaluate` takes one.

        The gradient mode and `requires_grad` are restored; the check of the evaluation tells if they change.
        """
        with preserved_gradient_flags(self.model):
            return self.call_evaluate(batch_size)

    def call_evaluate(self, batch_size: int) -> EvalResult:
        """Do the same and restore nothing.

        Raises:
            UserCodeError: If `evaluate` raises an error or returns something else.
        """
        assert self.evaluate is not None
        name = self._find_size_parameter()
        arguments = [batch_size] if name == "" else []
        keywords = {name: batch_size} if name else {}
        try:
            result = self.evaluate(*arguments, **keywords)
        except Exception as error:
            call = f"evaluate({batch_size})" if arguments else "evaluate"
            raise UserCodeError(f"{call}: {type(error).__name__}: {error}") from error
        if isinstance(result, EvalResult):
            return result
        try:
            return EvalResult(float(result))
        except (TypeError, ValueError, RuntimeError):
            expected, hint = "a number or an `EvalResult`", "Return the validation loss itself"
            raise UserResultError(f"`evaluate` returned {describe_value(result)}", expected, hint) from None

    @torch.no_grad()
    def perturb_weights(self) -> None:
        """Add noise of PERTURBATION times its standard deviation to each trainable weight."""
        for parameter in self.trainable_parameters.values():
            spread = parameter.std() if parameter.numel() > 1 else parameter.abs().max()
            parameter.add_(PERTURBATION * (spread if spread > 0 else 1.0) * torch.randn_like(parameter))

    @contextmanager
    def preserved_state(self) -> Iterator[None]:
        """Restore the model, random generators and all that `train_step` changes on exit; clear gradients."""
        stateful: list[Stateful] = [self.model, *self.optimizer_list, *self.scheduler_list]
        stateful += [part for part in self.extra_state if part not in self.scheduler_list]
        states = [copy.deepcopy(part.state_dict()) for part in stateful]
        in_state = self.model.state_dict(keep_vars=True).keys()
        buffers = [(buffer, buffer.clone()) for name, buffer in self.model.named_buffers() if name not in in_state]
        owners = [getattr(scheduler, "optimizer", None) for scheduler in self.scheduler_list]  # maybe others
        lrs = [(group, group["lr"]) for owner in owners for group in getattr(owner, "param_groups", ())]
        with preserve_rng_state(), preserved_gradient_flags(self.model):
            try:
                with preserved_model(self.model):
                    yield
            finally:
                for group, lr in lrs:
                    group["lr"] = lr
                for part, state in zip(stateful, states, strict=True):
                    part.load_state_dict(state)
                for buffer, value in buffers:
                    buffer.copy_(value)
                self.model.zero_grad()


@contextmanager
def preserved_gradient_flags(model: nn.Module) -> Iterator[None]:
    """Restore the gradient mode and `requires_grad` of all parameters on exit."""
    is_enabled, flags = torch.is_grad_enabled(), [(each, each.requires_grad) for each in model.parameters()]
    try:
        yield
    finally:
        torch.set_grad_enabled(is_enabled)
        for parameter, requires_grad in flags:
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)


class IgnoreIndexRecorder(TorchFunctionMode):
    """Record the ignore_index of each cross-entropy by the number of its targets."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[int, int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (F.cross_entropy, F.nll_loss):
            position = 4  # of ignore_index in both signatures
            given = args[position] if len(args) > position else (kwargs or {}).get("ignore_index", IGNORE_INDEX)
            targets = args[1] if len(args) > 1 else (kwargs or {}).get("target")
            self.found.setdefault(targets.numel() if isinstance(targets, Tensor) else 0, int(given))
        return func(*args, **(kwargs or {}))
