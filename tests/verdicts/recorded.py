"""Runs made here, kept as a few rows each: a line of what is known of the run, then a line a step."""

import json
from dataclasses import asdict
from pathlib import Path

from harness.verdicts.history import Facts, History, Spiked
from tests.verdicts.curves import Curve

FOLDER = Path(__file__).parent / "recorded"
DIGITS = 4
LEFT_OUT = ("perf/steps_per_second", "val/perplexity", "val/nats_per_character", "val/bits_per_byte", "val/best_loss")
"""Of no use to a verdict; constant/ neither."""


def read(path: Path) -> Curve:
    head, *rows = map(json.loads, path.read_text().splitlines())
    history = History(Facts(**head["facts"]), [Spiked(*spike) for spike in head["spikes"]], head["checkpoints"])
    for step, metrics in rows:
        history.add(step, {name: float(value) for name, value in metrics.items()})
    return Curve(path.stem, history, frozenset(head["labels"]), frozenset(head["may"]), head["is_held_out"], "real")


def write(curve: Curve) -> None:
    history = curve.history
    known = {
        name: value for name, value in asdict(history.facts).items() if value not in (None, "", ()) and name != "source"
    }
    head = {
        "labels": sorted(curve.labels),
        "may": sorted(curve.may),
        "is_held_out": curve.is_held_out,
        "facts": known,
        "spikes": history.spikes,
        "checkpoints": history.checkpoints,
    }
    rows: dict[int, dict[str, float | str]] = {}
    kept = [name for name in history.names() if name not in LEFT_OUT and not name.startswith("constant/")]
    for name in kept:
        for step, value in zip(*history[name], strict=True):
            rows.setdefault(int(step), {})[name] = _short(float(value))
    lines = [head, *sorted(rows.items())]
    (FOLDER / f"{curve.name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _short(value: float) -> float | int | str:
    if value in (float("inf"), float("-inf")):
        return str(value)  # JSON has no name for it
    short = float(f"{value:.{DIGITS}g}")
    return int(short) if short.is_integer() else short
