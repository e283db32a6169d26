"""Recorded real runs of a few kilobytes each.

The first line of a file holds the labels and what is known of the run, each further line the metrics that share steps.
"""

import json
from dataclasses import asdict
from pathlib import Path

from harness.diagnosis.history import History, RunFacts, SpikeRecord
from tests.diagnosis.curves import Curve

FOLDER = Path(__file__).parent / "recorded"
SIGNIFICANT_DIGITS = 4
KEPT_METRICS = (
    "train/loss", "train/lr", "train/clip_fraction", "train/tokens", "train/grad_norm", "val/loss", "val/loss_se",
    "val/coverage", "perf/tokens_per_second", "grad_norm/",
)  # fmt: skip
"""Prefixes of the metrics that diagnosis reads."""


def read_curve(path: Path) -> Curve:
    head, *parts = map(json.loads, path.read_text().splitlines())
    history = History(RunFacts(**head["facts"]), [SpikeRecord(*spike) for spike in head["spikes"]], head["checkpoints"])
    for steps, metrics in parts:
        for name, values in metrics.items():
            for step, value in zip(steps, values, strict=True):
                history.add_row(step, {name: float(value)})
    return Curve(path.stem, history, frozenset(head["labels"]), frozenset(head["allowed"]), head["is_held_out"], "real")


def write_curve(curve: Curve) -> None:
    history = curve.history
    known = {
        name: value
        for name, value in asdict(history.facts).items()
        if value not in (None, "", (), {}) and name != "source"
    }
    head = {
        "labels": sorted(curve.labels),
        "allowed": sorted(curve.allowed),
        "is_held_out": curve.is_held_out,
        "facts": known,
        "spikes": history.spikes,
        "checkpoints": history.checkpoints,
    }
    parts: dict[tuple[int, ...], dict[str, list[float | str]]] = {}
    for name in history.metric_names():
        if name.startswith(KEPT_METRICS):
            steps, values = history[name]
            parts.setdefault(tuple(steps.tolist()), {})[name] = [_round(value) for value in values.tolist()]
    lines = [json.dumps(line, separators=(",", ":")) for line in (head, *parts.items())]
    (FOLDER / f"{curve.name}.jsonl").write_text("\n".join(lines) + "\n")


def _round(value: float) -> float | int | str:
    if value in (float("inf"), float("-inf")):
        return str(value)  # JSON has no infinity
    rounded = float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    return int(rounded) if rounded.is_integer() else rounded
