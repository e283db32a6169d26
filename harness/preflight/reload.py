"""A saved model is the model: same tensors, same ties, same loss; and so is one with its adapters merged."""

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from harness.preflight.probe import MOST, has_reduced_precision, subsample_batch
from harness.preflight.report import Finding
from harness.preflight.training_setup import TrainingSetup

CLOSE = 1e-6
"""Relative, of the loss after loading."""
MERGED, COARSE = 1e-4, 3e-2
"""Relative, of logits and loss after a merge: of 32 bits, and of fewer."""
NAMED = 3


def check(subject: TrainingSetup) -> Iterator[Finding]:
    """On weights that are moved a little first, or what is made anew could pass for loaded."""
    subject.perturb_weights()
    subject.model.eval()
    if subject.save is None or subject.load is None:
        yield Finding("not checked", "save and load", "", "needs both")
    else:
        with TemporaryDirectory() as folder:
            subject.save(Path(folder))
            loaded = subject.load(Path(folder)).eval()
        yield _compare_tensors(subject.model, loaded)
        yield _compare_ties(subject.model, loaded)
        yield _compare_losses(subject, loaded)
    if subject.merge is not None:
        yield _check_merged_adapters(subject)


def _compare_tensors(model: nn.Module, loaded: nn.Module) -> Finding:
    before, after = model.state_dict(), loaded.state_dict()
    wrong = [f"{name} is missing" for name in before if name not in after]
    wrong += [f"{name} is new" for name in after if name not in before]
    wrong += [f"{name} {_describe_difference(before[name], after[name])}" for name in before if name in after]
    wrong = [said for said in wrong if not said.endswith(" ")]
    expected = f"all {len(before)} tensors as they were"
    if not wrong:
        return Finding("pass", "tensors after loading", "each is equal, bit by bit", expected)
    more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
    seen = f"{len(wrong)} of {len(before)} differ: {'; '.join(wrong[:NAMED])}{more}"
    look_at = "what is made anew after the weights are loaded, and keys that loading leaves out (strict=False)"
    return Finding("fail", "tensors after loading", seen, expected, look_at)


def _describe_difference(before: object, after: object) -> str:
    """Nothing where there is none."""
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
    said = "; ".join(" = ".join(sorted(names)) for names in lost or before)
    if lost:
        look_at = "tying after loading (tie_weights), and saving tied weights once"
        return Finding("fail", "tied weights", f"no longer one tensor: {said}", "tied as before saving", look_at)
    return Finding("pass", "tied weights", f"still one tensor: {said}" if said else "there are none")


def _find_tied_parameters(model: nn.Module) -> list[frozenset[str]]:
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return [frozenset(group) for group in names.values() if len(group) > 1]


def _compare_losses(subject: TrainingSetup, loaded: nn.Module) -> Finding:
    before, after = _sample_loss(subject), _sample_loss(replace(subject, model=loaded))
    seen = f"{after:.7g} where it was {before:.7g}"
    if math.isclose(before, after, rel_tol=CLOSE):
        return Finding("pass", "loss after loading", seen, f"equal to {CLOSE:g}, relative")
    look_at = "the tensors that differ, and settings of the model that are not saved with it"
    return Finding("fail", "loss after loading", seen, f"equal to {CLOSE:g}, relative", look_at)


def _check_merged_adapters(subject: TrainingSetup) -> Finding:
    """Merging is done on a copy."""
    merged = replace(subject, model=subject.merge(copy.deepcopy(subject.model)).eval())
    limit = COARSE if has_reduced_precision(subject) else MERGED
    off = {"loss": abs(_sample_loss(merged) - _sample_loss(subject)) / max(abs(_sample_loss(subject)), 1e-12)}
    if subject.text is not None:
        off["logits"] = _logits_change(subject, merged)
    seen = f"{', '.join(f'{name} moved by {value:.1g}' for name, value in off.items())}, relative"
    expected = f"at most {limit:g}, which is rounding"
    if max(off.values()) <= limit:
        return Finding("pass", "merged adapters", seen, expected)
    look_at = "the adapters' scale (alpha over rank), their bias, and layers that share a weight"
    return Finding("fail", "merged adapters", seen, expected, look_at)


@torch.no_grad()
def _logits_change(subject: TrainingSetup, merged: TrainingSetup) -> float:
    batch = subsample_batch(subject, subject.batches[0], MOST)
    before, after = (subject.text.logits(each.model, batch).float() for each in (subject, merged))
    return ((after - before).abs().max() / before.std()).item()


@torch.no_grad()
def _sample_loss(subject: TrainingSetup) -> float:
    return subject.compute_loss(subsample_batch(subject, subject.batches[0], MOST)).item()
