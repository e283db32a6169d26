"""Choice of the loss where a table has only losses of other names, such as the parts of one."""

from collections import Counter
from collections.abc import Sequence

from harness.diagnosis.history import LOSS_METRICS
from harness.importers.metric_aliases import (
    FILLER_WORDS,
    SPLIT_WORDS,
    VAL_WORDS,
    canonical_name,
    find_short_split,
    normalize_name,
    split_words,
)
from harness.importers.tables.record_set import RecordSet, is_loss_like

DETECTION_PARTS = split_words(
    "box bbox cls class classifier dfl obj objectness conf seg mask pose kpt kobj keypoint keypoints angle iou giou "
    "ciou l1 reg loc rpn roi rcnn centerness ctr landmark xy wh noobj b o c p s"
)
"""Words of the losses that YOLO, detectron2, torchvision and MMDetection add up to the one they train on."""
SPACY_PREFIX = "LOSS "  # of the losses of the components of a pipeline


def choose_losses(found: RecordSet, names: Counter[str]) -> None:
    """Name a loss train/loss or val/loss where none has such a name: the only one, or the sum of the parts.

    Raises:
        ValueError: If there are several losses, and it is unknown how they form the one that is trained on.
    """
    known = {canonical_name(name) for name in names}
    has_any = bool(known & {*LOSS_METRICS, "train/ppl", "val/ppl"})
    for metric in LOSS_METRICS:
        split = metric.partition("/")[0]
        if known & {metric, f"{split}/ppl"}:
            continue
        parts = [name for name in names if is_loss_like(name) and canonical_name(name) != f"{split}/ppl"]
        parts = [name for name in parts if (split == "val") == bool(VAL_WORDS & set(_words(name)))]
        parts = _drop_smoothed(parts, names)
        short = {name: find_short_split(name, names) for name in names if is_loss_like(name)}
        own = [name for name, found_split in short.items() if found_split == split]
        parts = own if len(own) == 1 else [name for name in parts if not short[name]]
        if len(parts) == 1:
            _add_sum(found, metric, parts)
            found.notes.append(f"{metric} is {parts[0]!r}")
        elif parts and _are_added_up(parts):
            _add_sum(found, metric, parts)
            found.notes.append(f"{metric} is the sum of {', '.join(parts)}")
        elif parts and not has_any and metric == "train/loss":
            raise ValueError(
                f"{found.path}: several losses and no total: {', '.join(parts)}; "
                "name the one to judge train/loss, or add a column train/loss"
            )
        elif parts:
            found.notes.append(f"not used: {', '.join(parts)}")


def _words(name: str) -> list[str]:
    return normalize_name(name).split("_")


def _drop_smoothed(parts: Sequence[str], names: Counter[str]) -> list[str]:
    """Return one name of each loss: that of the most records, as of `mlm_loss_step` and `mlm_loss_epoch`."""
    best: dict[tuple[str, ...], str] = {}
    for name in parts:
        core = tuple(word for word in _words(name) if word not in ("step", "epoch"))
        if core not in best or names[name] > names[best[core]]:
            best[core] = name
    return list(best.values())


def _are_added_up(parts: Sequence[str]) -> bool:
    if all(name.startswith(SPACY_PREFIX) for name in parts):
        return True
    cores = [
        [word.removesuffix("loss") for word in _words(name) if word not in SPLIT_WORDS | {"loss", "losses"}]
        for name in parts
    ]
    return all(core and set(core) <= DETECTION_PARTS | FILLER_WORDS for core in cores)


def _add_sum(found: RecordSet, metric: str, parts: Sequence[str]) -> None:
    for record in found.records:
        if all(name in record.numbers for name in parts):
            record.numbers[metric] = sum(record.numbers.pop(name) for name in parts)
