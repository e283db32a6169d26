"""Check that saving and loading preserves the model (tensors, ties, loss), and so does merging its adapters."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from harness.preflight.probe import (
    MAX_TOKENS,
    advance_to_peak,
    format_names,
    has_reduced_precision,
    keeps_state,
    subsample_batch,
)
from harness.preflight.report import Finding, failed, passed, passed_if, skipped
from harness.preflight.training_setup import TrainingSetup

TOLERANCE = 1e-6  # relative, of the loss after loading
AVERAGE_STEPS, FOLLOWING = 3, 0.5  # steps after which an average has moved, and cosine with the weights' movement
MERGE_TOLERANCE, REDUCED_MERGE_TOLERANCE = 1e-4, 3e-2  # relative, of logits and loss, in 32 and in fewer bits


def check(setup: TrainingSetup) -> Iterator[Finding]:
    """Perturb the weights first: a newly initialized model must not pass for a loaded one."""
    setup.perturb_weights()
    setup.model.eval()
    if setup.save is None or setup.load is None:
        yield skipped("save and load", "needs `save` and `load`")
    else:
        loaded = _save_and_load(setup)
        tensors = _compare_tensors(setup.model, loaded)
        if tensors.level == "fail" and (average := _find_saved_average(setup)):
            yield average
        else:
            yield tensors
            yield _compare_ties(setup.model, loaded)
            yield _compare_losses(setup, loaded)
    if setup.merge_adapters is not None:
        yield _check_merged_adapters(setup, setup.merge_adapters)


def _save_and_load(setup: TrainingSetup) -> nn.Module:
    with TemporaryDirectory() as folder:
        setup.run_user_code("save", Path(folder))
        loaded = setup.run_user_code("load", Path(folder))
    return loaded.eval()


def _find_saved_average(setup: TrainingSetup) -> Finding | None:
    """Return a finding if `save` writes an average of the weights that follows training, or None.

    Train some steps and compare the movement of what is saved with that of the weights.
    """
    if setup.train_step is None:
        return None
    advance_to_peak(setup)
    batch = subsample_batch(setup, setup.batches[0], MAX_TOKENS)
    names: list[str] = []
    states = []
    for _ in range(2):
        saved, weights = _save_and_load(setup).state_dict(), setup.model.state_dict()
        names = names or [
            name for name in weights if name in saved and _describe_difference(weights[name], saved[name])
        ]
        if not names or any(name not in saved or saved[name].shape != weights[name].shape for name in names):
            return None
        states.append(tuple(_flatten([state[name] for name in names]) for state in (weights, saved)))
        for _ in range(AVERAGE_STEPS):
            setup.run_user_code("train_step", batch)
    moved, followed = (later - earlier for earlier, later in zip(*states, strict=True))
    if not followed.any() or followed.norm() >= moved.norm():
        return None
    cosine = (moved @ followed / (moved.norm() * followed.norm())).item()
    if cosine < FOLLOWING:
        return None
    observed = f"an average of the weights, which moves with them (cosine {cosine:.2f})"
    return passed("what is saved", observed)


def _flatten(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().float().cpu().flatten() for tensor in tensors])


def _compare_tensors(model: nn.Module, loaded: nn.Module) -> Finding:
    before, after = model.state_dict(), loaded.state_dict()
    differences = [f"{name} is missing" for name in before if name not in after]
    differences += [f"{name} is new" for name in after if name not in before]
    for name in (name for name in before if name in after):
        if difference := _describe_difference(before[name], after[name]):
            differences.append(f"{name} {difference}")
    expected = f"all {len(before)} tensors unchanged"
    if not differences:
        return passed("tensors after loading", "all bit-identical", expected)
    observed = f"{len(differences)} of {len(before)} differ: {format_names(differences)}"
    hint = "Look for layers created after the weights are loaded, and keys that loading ignores (strict=False)"
    return failed("tensors after loading", observed, expected, hint)


def _describe_difference(before: object, after: object) -> str:
    """Return an empty string if there is no difference."""
    if not isinstance(before, Tensor) or not isinstance(after, Tensor):
        return "" if before == after else "differs"
    if (before.shape, before.dtype) != (after.shape, after.dtype):
        return f"was {_describe_tensor(before)}, is {_describe_tensor(after)}"
    after = after.to(before.device)
    if torch.equal(before, after) or not before.numel():
        return ""
    wide = torch.complex128 if before.is_complex() else torch.float64
    return f"differs by up to {(before.to(wide) - after.to(wide)).abs().max():.2g}"


def _describe_tensor(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _compare_ties(model: nn.Module, loaded: nn.Module) -> Finding:
    before, after = _find_tied_parameters(model), _find_tied_parameters(loaded)
    lost = [names for names in before if not any(names <= others for others in after)]
    groups = "; ".join(" = ".join(sorted(names)) for names in lost or before)
    state = "no longer one tensor" if lost else "still one tensor"
    hint = "Tie weights after loading (tie_weights), and save tied weights once"
    observed = f"{state}: {groups}" if groups else "none"
    return passed_if(not lost, "tied weights", observed, "tied as before saving", hint)


def _find_tied_parameters(model: nn.Module) -> list[frozenset[str]]:
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return [frozenset(group) for group in names.values() if len(group) > 1]


def _compare_losses(setup: TrainingSetup, loaded: nn.Module) -> Finding:
    before, after = _sample_loss(setup), _sample_loss(replace(setup, model=loaded))
    observed, expected = f"{after:.7g}, before {before:.7g}", f"a relative difference of at most {TOLERANCE:g}"
    hint = "Look at the tensors that differ, and for settings of the model that are not saved"
    is_close = math.isclose(before, after, rel_tol=TOLERANCE)
    if not is_close and keeps_state(setup, subsample_batch(setup, setup.batches[0], MAX_TOKENS)):
        needs = "needs a model without a state between calls, or one that saves it"
        return skipped("loss after loading", f"{needs}; {observed}")
    return passed_if(is_close, "loss after loading", observed, expected, hint)


def _check_merged_adapters(setup: TrainingSetup, merge_adapters: Callable[[nn.Module], nn.Module]) -> Finding:
    merged = replace(setup, model=merge_adapters(copy.deepcopy(setup.model)).eval())
    tolerance = REDUCED_MERGE_TOLERANCE if has_reduced_precision(setup) else MERGE_TOLERANCE
    loss = _sample_loss(setup)
    changes = {"loss": abs(_sample_loss(merged) - loss) / max(abs(loss), 1e-12)}
    if setup.text is not None:
        batch = subsample_batch(setup, setup.batches[0], MAX_TOKENS)
        with torch.no_grad():
            before, after = (each.compute_logits(batch).float() for each in (setup, merged))
        changes["logits"] = ((after - before).square().mean().sqrt() / before.std()).item()
    return passed_if(
        max(changes.values()) <= tolerance,
        "merged adapters",
        f"relative change {', '.join(f'{value:.1g} of the {name}' for name, value in changes.items())}",
        f"at most {tolerance:g}, which is rounding",
        "Look at the adapters' scale (alpha over rank), their bias, and layers that share a weight",
    )


@torch.no_grad()
def _sample_loss(setup: TrainingSetup) -> float:
    torch.manual_seed(0)  # for losses that draw random numbers
    return setup.compute_loss(subsample_batch(setup, setup.batches[0], MAX_TOKENS)).item()
