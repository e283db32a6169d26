"""Optimizers: named parameter groups, one port over one or several torch optimizers, and what torch lacks."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.optim import Adafactor, AdamW, Muon, Optimizer

Group = dict[str, Any]

GROUPS_WITHOUT_DECAY = {"hidden": ("embeddings", "vectors"), "matrices": ("vectors",), "all": ()}
"""By the scope of weight decay, the groups that it spares."""


def group_parameters(model: nn.Module, weight_decay_scope: str = "matrices") -> list[Group]:
    """The trainable parameters, each once, in those of the groups `embeddings`, `matrices`, `vectors` that exist.

    The output head counts as an embedding; `vectors` are biases, gains and gates, one number a channel. ValueError when
    nothing is trainable.
    """
    if weight_decay_scope not in GROUPS_WITHOUT_DECAY:
        raise ValueError(f"weight_decay_scope={weight_decay_scope!r} must be one of {', '.join(GROUPS_WITHOUT_DECAY)}")
    members: dict[str, list[tuple[str, nn.Parameter]]] = {"embeddings": [], "matrices": [], "vectors": []}
    embedded = {id(weight) for module in _embedding_modules(model) for weight in module.parameters(recurse=False)}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kind = "vectors" if _is_vector(parameter) else "embeddings" if id(parameter) in embedded else "matrices"
            members[kind].append((name, parameter))
    if not any(members.values()):
        raise ValueError("the model has no trainable parameter: unfreeze it, or choose a lora that adapts it")
    spared = {kind: {"weight_decay": 0.0} for kind in GROUPS_WITHOUT_DECAY[weight_decay_scope]}
    return [{"name": kind, "params": params, **spared.get(kind, {})} for kind, params in members.items() if params]


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
    """Muon at `lr` on the two-dimensional `matrices` and AdamW at `adamw_lr` on all else.

    ValueError where there is no such matrix or a parameter is complex.
    """
    _reject_complex("Muon", chain.from_iterable(group["params"] for group in groups))
    by_name = {group["name"]: group for group in groups}
    matrices = by_name.pop("matrices", {"params": []})["params"]
    flat = [member for member in matrices if member[1].ndim == 2]
    kernels = [member for member in matrices if member[1].ndim != 2]
    if not flat:
        raise ValueError("Muon has no two-dimensional matrix to train in this model: choose another optimizer")
    rest = [*by_name.values(), *([{"name": "kernels", "params": kernels}] if kernels else [])]
    hidden = {"name": "matrices", "params": flat}
    built: list[Optimizer] = [
        Muon([hidden], lr=lr, weight_decay=weight_decay, momentum=momentum, adjust_lr_fn=adjust_lr_fn)
    ]
    if rest:
        built.append(AdamW(rest, lr=adamw_lr, betas=adamw_betas, weight_decay=weight_decay))
    return built


class Lamb(Optimizer):
    """Adam's update plus decay, scaled to each tensor's own norm (You et al., 2020, algorithm 2, phi the identity)."""

    # Ours, because pytorch_optimizer's caps the norm at 10 and cannot correct the second moment's bias.

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
    def step(self) -> None:
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
        weights, grads = [_as_real(p) for p in trained], [_as_real(p.grad) for p in trained]
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
    """The optimizer port over one or several torch optimizers.

    ValueError for an LR that is not above 0, for complex parameters where an optimizer cannot take them, and, where
    the `model` is given, unless the parts hold each of its trainable parameters exactly once.
    """

    def __init__(self, built: Optimizer | Sequence[Optimizer], model: nn.Module | None = None) -> None:
        self.parts = [built] if isinstance(built, Optimizer) else list(built)
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
        for group, configured in zip(self._param_groups(), chain(*self._configured), strict=True):
            group["lr"] = configured["lr"] * multiplier

    def current_lrs(self) -> dict[str, float]:
        return {group["name"]: group["lr"] for group in self._param_groups()}

    def parameters(self) -> Iterator[nn.Parameter]:
        return (parameter for group in self._param_groups() for parameter in group["params"])

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad()

    def train(self) -> None:
        """Schedule-free optimizers put the model at the weights where gradients are taken."""
        for part in self.parts:
            if hasattr(part, "train"):
                part.train()

    def eval(self) -> None:
        """Schedule-free optimizers put the model at their averaged weights."""
        for part in self.parts:
            if hasattr(part, "eval"):
                part.eval()

    def state_dict(self) -> dict[str, Any]:
        """The moments, and the numbers an optimizer has itself moved on, such as a count of steps."""
        return {"parts": [_part_state(*pair) for pair in zip(self.parts, self._configured, strict=True)]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Bring back the moments; the numbers stay those of the configuration. ValueError where they do not fit."""
        saved, own = _describe_parts(state), _describe_parts(self.state_dict())
        if saved != own:
            raise ValueError(
                f"the moments are those of {saved}, and the run trains {own}: "
                "take the same optimizer and parameters, or start from the weights alone"
            )
        for part, configured, moved in zip(self.parts, self._configured, state["parts"], strict=True):
            groups = part.state_dict()["param_groups"]
            numbers = zip(groups, configured, moved["progress"], strict=True)
            merged = [{**group, **number, **progress} for group, number, progress in numbers]
            part.load_state_dict({"state": moved["moments"], "param_groups": merged})

    def _param_groups(self) -> Iterator[Group]:
        return chain.from_iterable(part.param_groups for part in self.parts)


def _part_state(part: Optimizer, configured: list[Group]) -> dict[str, Any]:
    progress = []
    for group, was in zip(part.param_groups, configured, strict=True):
        now = _hyperparameters(group)
        progress.append({key: now[key] for key in now if key != "lr" and (key not in was or now[key] != was[key])})
    sizes = [len(group["params"]) for group in part.param_groups]
    return {"kind": type(part).__name__, "sizes": sizes, "progress": progress, "moments": part.state_dict()["state"]}


def _describe_parts(state: dict[str, Any]) -> str:
    return " and ".join(f"{part['kind']} over {part['sizes']} parameters" for part in state["parts"])


def _hyperparameters(group: Group) -> Group:
    return {key: value for key, value in group.items() if key not in ("params", "param_names")}


def _embedding_modules(model: nn.Module) -> Iterator[nn.Module]:
    yield from (module for module in model.modules() if isinstance(module, nn.Embedding))
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if head is not None:
        yield head


def _is_vector(parameter: nn.Parameter) -> bool:
    """Or shaped to be broadcast over a grid, such as [1, channels, 1, 1]."""
    return parameter.ndim < 2 or (parameter.ndim > 2 and parameter.numel() == max(parameter.shape))


def _named_parameters(group: Group) -> Iterator[tuple[str, nn.Parameter]]:
    names = group.get("param_names") or [group["name"]] * len(group["params"])
    return zip(names, group["params"], strict=True)


def _reject_complex(kind: str, named: Iterable[tuple[str, nn.Parameter]]) -> None:
    names = [name for name, parameter in named if parameter.is_complex()]
    if names:
        raise ValueError(f"{kind} cannot train complex parameters ({', '.join(names)}): choose optimizer=adamw")


def _check_coverage(held: Iterable[nn.Parameter], model: nn.Module) -> None:
    counts = Counter(map(id, held))
    trainable = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}
    wrong = [name for key, name in trainable.items() if counts[key] != 1]
    if wrong or counts.keys() - trainable.keys():
        raise ValueError(
            f"the optimizer must hold every trainable parameter of the model once and no other; not so: "
            f"{', '.join(wrong) or 'it holds others'}"
        )


def _as_real(tensor: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor
