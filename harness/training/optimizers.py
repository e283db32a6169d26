"""Optimizers: parameter groups, one interface over several torch optimizers, Muon with AdamW, and LAMB."""

from collections import Counter
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adafactor, AdamW, Optimizer

Group = dict[str, Any]

TRANSPOSED = "is_transposed"
"""Attribute of weights with shape [in, out], which Muon reads: those of transformers' Conv1D."""

# Parameter groups without weight decay, by scope.
GROUPS_WITHOUT_DECAY = {"hidden": ("embeddings", "vectors"), "matrices": ("vectors",), "all": ()}


def group_parameters(model: nn.Module, weight_decay_applies_to: str = "matrices") -> list[Group]:
    """Return the trainable parameters in the groups `embeddings`, `matrices` and `vectors`, without empty groups.

    The output head counts as an embedding. `vectors` are biases, gains and gates: one number per channel.

    Raises:
        ValueError: If nothing is trainable or the scope is unknown.
    """
    if weight_decay_applies_to not in GROUPS_WITHOUT_DECAY:
        scopes = ", ".join(GROUPS_WITHOUT_DECAY)
        raise ValueError(f"weight_decay_applies_to={weight_decay_applies_to!r} must be one of {scopes}")
    members: dict[str, list[tuple[str, nn.Parameter]]] = {"embeddings": [], "matrices": [], "vectors": []}
    for module in filter(is_conv1d, model.modules()):
        setattr(module.weight, TRANSPOSED, True)
    embedded = {id(weight) for module in _embedding_modules(model) for weight in module.parameters(recurse=False)}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kind = "vectors" if _is_vector(parameter) else "embeddings" if id(parameter) in embedded else "matrices"
            members[kind].append((name, parameter))
    if not any(members.values()):
        raise ValueError("the model has no trainable parameter; unfreeze it, or choose a lora that adapts it")
    no_decay = {kind: {"weight_decay": 0.0} for kind in GROUPS_WITHOUT_DECAY[weight_decay_applies_to]}
    return [{"name": kind, "params": params, **no_decay.get(kind, {})} for kind, params in members.items() if params]


def configured_lr(group_name: str, lr: float, adamw_lr: float | None = None) -> float:
    """Return the peak LR of a parameter group. Muon trains `matrices` at `lr` and leaves the rest to AdamW."""
    return lr if adamw_lr is None or group_name == "matrices" else adamw_lr


def build_muon(
    groups: list[Group],
    *,
    lr: float,
    weight_decay: float,
    momentum: float,
    adamw_lr: float,
    adamw_betas: tuple[float, float],
    adjust_lr_fn: str = "original",
) -> list[Optimizer]:
    """Return Muon for the two-dimensional `matrices` at `lr`, and AdamW for everything else at `adamw_lr`.

    Raises:
        ValueError: If there is no such matrix or a parameter is complex.
    """
    _reject_complex("Muon", chain.from_iterable(group["params"] for group in groups))
    by_name = {group["name"]: group for group in groups}
    matrices = by_name.pop("matrices", {"params": []})["params"]
    flat = [member for member in matrices if member[1].ndim == 2]
    kernels = [member for member in matrices if member[1].ndim != 2]
    if not flat:
        raise ValueError("Muon needs a two-dimensional matrix and the model has none; choose another optimizer")
    hidden = {"name": "matrices", "params": flat, "lr": configured_lr("matrices", lr, adamw_lr)}
    others = [*by_name.values(), *([{"name": "kernels", "params": kernels}] if kernels else [])]
    others = [{**group, "lr": configured_lr(group["name"], lr, adamw_lr)} for group in others]
    optimizers: list[Optimizer] = [
        Muon([hidden], weight_decay=weight_decay, momentum=momentum, adjust_lr_fn=adjust_lr_fn)
    ]
    if others:
        optimizers.append(AdamW(others, betas=adamw_betas, weight_decay=weight_decay))
    return optimizers


class Muon(torch.optim.Muon):
    """torch's Muon that adjusts the LR by [out, in], also of weights that are stored as [in, out].

    With adjust_lr_fn=original, GPT-2's layers from 768 to 3072 channels would otherwise get half the LR of the same
    nn.Linear, and those from 3072 to 768 twice it.
    """

    def _init_group(
        self,
        group: MutableMapping[str, Any],
        params_with_grad: list[Tensor],
        grads: list[Tensor],
        muon_momentum_bufs: list[Tensor],
    ) -> bool:
        """Collect the tensors of a group as torch does, transposed ones as views."""
        has_complex = super()._init_group(group, params_with_grad, grads, muon_momentum_bufs)
        for index, parameter in enumerate(params_with_grad):
            if getattr(parameter, TRANSPOSED, False):
                for tensors in (params_with_grad, grads, muon_momentum_bufs):
                    tensors[index] = tensors[index].T
        return has_complex


def is_conv1d(module: nn.Module) -> bool:
    """Return whether a module is the linear layer of GPT-2 in transformers, whose weight is [in, out]."""
    return type(module).__name__ == "Conv1D"


def output_head(model: Any) -> nn.Module | None:
    """Return the output layer of a language model; None for other models."""
    return model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None


class Lamb(Optimizer):
    """LAMB: Adam's update plus decay, scaled to the norm of each tensor (You et al., 2020, algorithm 2, phi = id)."""

    # pytorch_optimizer's LAMB caps the norm at 10 and does not correct the bias of the second moment.

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas={list(betas)} must lie from 0 to below 1")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "step": 0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # closures are not supported
        """Update all parameters that have a gradient."""
        for group in self.param_groups:
            group["step"] += 1
            trained = [parameter for parameter in group["params"] if parameter.grad is not None]
            if trained:
                self._update_parameters(group, trained)

    def _update_parameters(self, group: Group, trained: list[nn.Parameter]) -> None:
        for parameter in trained:
            if not self.state[parameter]:
                zeros = torch.zeros_like(_as_real(parameter))
                self.state[parameter] = {"exp_avg": zeros, "exp_avg_sq": zeros.clone()}
        weights, grads = [_as_real(p) for p in trained], [_as_real(p.grad) for p in trained if p.grad is not None]
        means = [self.state[p]["exp_avg"] for p in trained]
        squares = [self.state[p]["exp_avg_sq"] for p in trained]
        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)

        roots = torch._foreach_sqrt(torch._foreach_div(squares, 1 - beta2 ** group["step"]))
        torch._foreach_add_(roots, group["eps"])
        updates = torch._foreach_div(torch._foreach_div(means, 1 - beta1 ** group["step"]), roots)
        torch._foreach_add_(updates, weights, alpha=group["weight_decay"])
        norms = zip(torch._foreach_norm(weights), torch._foreach_norm(updates), strict=True)
        torch._foreach_mul_(updates, [torch.where((w > 0) & (u > 0), w / u, 1.0) for w, u in norms])
        torch._foreach_add_(weights, updates, alpha=-group["lr"])


class CombinedOptimizer:
    """One interface over one or several torch optimizers.

    Raises:
        ValueError: If an LR is not above 0, if Adafactor gets complex parameters, or if `model` is given and the
            optimizers do not hold each of its trainable parameters exactly once.
    """

    def __init__(self, optimizers: Optimizer | Sequence[Optimizer], model: nn.Module | None = None) -> None:
        self.parts: Sequence[Optimizer] = [optimizers] if isinstance(optimizers, Optimizer) else list(optimizers)
        for index, group in enumerate(self._param_groups()):
            group.setdefault("name", f"group{index}")
            if not group["lr"] > 0:
                raise ValueError(f"lr={group['lr']} of the {group['name']} must be above 0")
        for part in self.parts:
            if isinstance(part, Adafactor):
                _reject_complex("Adafactor", chain.from_iterable(map(_named_parameters, part.param_groups)))
        if model is not None:
            _check_coverage(self.parameters(), model)
        self._configured = [[_hyperparameters(group) for group in part.param_groups] for part in self.parts]

    def scale_lr(self, multiplier: float) -> None:
        """Set the LR of every group to `multiplier` times its peak."""
        for group, configured in zip(self._param_groups(), chain(*self._configured), strict=True):
            group["lr"] = configured["lr"] * multiplier

    def current_lrs(self) -> dict[str, float]:
        """Return the current LR of every group by name."""
        return {group["name"]: group["lr"] for group in self._param_groups()}

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of all groups."""
        return (parameter for group in self._param_groups() for parameter in group["params"])

    def zero_grad(self) -> None:
        """Clear the gradients."""
        for part in self.parts:
            part.zero_grad()

    def train(self) -> None:
        """Let schedule-free optimizers load the weights at which gradients are computed."""
        for part in self.parts:
            if hasattr(part, "train"):
                part.train()

    def eval(self) -> None:
        """Let schedule-free optimizers load their averaged weights."""
        for part in self.parts:
            if hasattr(part, "eval"):
                part.eval()

    def state_dict(self) -> dict[str, Any]:
        """Return the moments and the hyperparameters that an optimizer changes itself, such as a step count."""
        return {"parts": [_part_state(*pair) for pair in zip(self.parts, self._configured, strict=True)]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the moments. Hyperparameters keep their configured values.

        Raises:
            ValueError: If the state is of another kind of optimizer or of other parameters.
        """
        saved, own = _describe_parts(state), _describe_parts(self.state_dict())
        if saved != own:
            raise ValueError(
                f"the checkpoint has the optimizer state of {saved}, but this run trains {own}; "
                "use the same optimizer and parameters, or start from the weights alone"
            )
        for part, configured, saved_part in zip(self.parts, self._configured, state["parts"], strict=True):
            groups = zip(part.state_dict()["param_groups"], configured, saved_part["progress"], strict=True)
            merged = [{**group, **hyperparameters, **progress} for group, hyperparameters, progress in groups]
            part.load_state_dict({"state": saved_part["moments"], "param_groups": merged})

    def _param_groups(self) -> Iterator[Group]:
        return chain.from_iterable(part.param_groups for part in self.parts)


def _part_state(part: Optimizer, configured: list[Group]) -> dict[str, Any]:
    progress = []  # what the optimizer has changed since construction, except the LR, which the schedule sets
    for group, before in zip(part.param_groups, configured, strict=True):
        now = _hyperparameters(group)
        progress.append(
            {key: now[key] for key in now if key != "lr" and (key not in before or now[key] != before[key])}
        )
    sizes = [len(group["params"]) for group in part.param_groups]
    return {"kind": type(part).__name__, "sizes": sizes, "progress": progress, "moments": part.state_dict()["state"]}


def _describe_parts(state: dict[str, Any]) -> str:
    return " and ".join(f"{part['kind']} over {part['sizes']} parameters" for part in state["parts"])


def _hyperparameters(group: Group) -> Group:
    return {key: value for key, value in group.items() if key not in ("params", "param_names")}


def _embedding_modules(model: nn.Module) -> Iterator[nn.Module]:
    yield from (module for module in model.modules() if isinstance(module, nn.Embedding))
    if (head := output_head(model)) is not None:
        yield head


def _is_vector(parameter: nn.Parameter) -> bool:
    # Biases and gates may be shaped to broadcast over a grid, such as [1, channels, 1, 1].
    return parameter.ndim < 2 or (parameter.ndim > 2 and parameter.numel() == max(parameter.shape))


def _named_parameters(group: Group) -> Iterator[tuple[str, nn.Parameter]]:
    names = group.get("param_names") or [group["name"]] * len(group["params"])
    return zip(names, group["params"], strict=True)


def _reject_complex(kind: str, named: Iterable[tuple[str, nn.Parameter]]) -> None:
    names = [name for name, parameter in named if parameter.is_complex()]
    if names:
        raise ValueError(f"{kind} cannot train complex parameters ({', '.join(names)}); choose optimizer=adamw")


def _check_coverage(held: Iterable[nn.Parameter], model: nn.Module) -> None:
    counts = Counter(map(id, held))
    trainable = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}
    wrong = [name for key, name in trainable.items() if counts[key] != 1]
    if wrong:
        raise ValueError(f"the optimizer must hold every trainable parameter exactly once: {', '.join(wrong)}")
    if counts.keys() - trainable.keys():
        raise ValueError("the optimizer must hold only trainable parameters of the model; it holds others")


def _as_real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor
