"""The numbers that five plateaued trainings wrote down, as histories. Nothing between them is made up; where a document
says that something stood still and not for how long, `assumed` says what was taken for it."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from harness.diagnosis.history import History, RunFacts

LN_GPT2, LN_LTG = 10.825, 9.704
"""ln(50257) and ln(16384)."""


@dataclass(frozen=True)
class DocumentedRun:
    name: str
    history: History
    assumed: str = ""


def history(facts: RunFacts, rows: Mapping[int, Mapping[str, float]]) -> History:
    made = History(facts)
    for step, metrics in rows.items():
        made.add_row(step, metrics)
    return made


def ltg_bert() -> DocumentedRun:
    """3.75 to 3.60 over 1,500 steps, at a measured LR of 8.44e-5 where 1e-4 was asked for."""
    facts = RunFacts("LTG-BERT", batch_size=72, peak_lr=1e-4, schedule="Cosine", uniform=LN_LTG, unit="nats/token")
    rows = {1: {"train/loss": 3.75, "train/lr": 8.44e-5}, 1501: {"train/loss": 3.60, "train/lr": 8.44e-5}}
    return DocumentedRun("0, LTG-BERT, as written", history(facts, rows), "the 1,500 steps count from 1")


def ltg_bert_in_force() -> DocumentedRun:
    """The same with what its repository later showed: 10% of warm-up asked for, int(0.1) steps in force."""
    facts = RunFacts(
        "LTG-BERT",
        total_steps=15_000,
        batch_size=216,
        peak_lr=8.44e-5,
        uniform=LN_LTG,
        warmup_asked=1500.0,
        warmup_steps=0,
    )
    rows = {1: {"train/loss": 3.75, "train/lr": 8.44e-5}, 1501: {"train/loss": 3.60, "train/lr": 8.44e-5}}
    return DocumentedRun("0, LTG-BERT, with the warm-up in force", history(facts, rows), "a run of 15,000 steps")


def gpt2() -> DocumentedRun:
    """Pretrained weights that begin at 9.2 nats a token, then three evaluations of the log."""
    facts = RunFacts(
        "GPT-2 and LoRA", total_steps=5000, batch_size=16, peak_lr=1e-5, grad_clip=1.0, schedule="Constant",
        lora_rank=8, optimizer="AdamW", uniform=LN_GPT2, unit="nats/token",
    )  # fmt: skip
    seen = {1500: (6.67, 6.71), 2000: (6.75, 6.93), 2500: (6.52, 6.72)}
    rows = {0: {"val/loss": 9.2}} | {
        step: {"train/loss": train, "val/loss": val, "train/lr": 1e-5} for step, (train, val) in seen.items()
    }
    return DocumentedRun("1, GPT-2 with LoRA", history(facts, rows))


def gpt2_resumed() -> DocumentedRun:
    """The last good checkpoint, the spike behind it, and the two speeds."""
    facts = RunFacts(
        "GPT-2, resumed", batch_size=8, peak_lr=1e-5, schedule="Cosine", uniform=LN_GPT2, unit="nats/token"
    )
    rows = {
        0: {"val/loss": 9.2},
        1500: {"train/loss": 6.6511, "val/loss": 6.7427, "perf/steps_per_second": 1.0},
        2000: {"train/loss": 9.58, "val/loss": 9.58, "perf/steps_per_second": 0.6},
    }
    made = history(facts, rows)
    made.checkpoints += [1500, 2000]
    return DocumentedRun("2, GPT-2 to be resumed", made)


def operator() -> DocumentedRun:
    """Training H1 between 0.86 and 0.88, validation L2 at 0.66, norms up to 18 under a clip of 1, a constant LR."""
    facts = RunFacts(
        "neural operator", peak_lr=5e-5, grad_clip=1.0, optimizer="AdamW", schedule="ReduceLROnPlateau", patience=10,
        watches="train/loss", uniform=1.0, unit="relative L2",
    )  # fmt: skip
    levels = itertools.cycle([0.88, 0.87, 0.86, 0.87])
    rows = {
        100 * epoch: {
            "train/loss": next(levels), "val/loss": 0.66, "train/lr": 5e-5, "train/grad_norm": 2 + 16 * epoch / 20,
        }
        for epoch in range(1, 21)
    }  # fmt: skip
    return DocumentedRun(
        "3, neural operator", history(facts, rows), "20 epochs of 100 steps; norms that grow from 2 to 18"
    )


BASELINE = """1 2.098 44 1.950 88 1.887 132 1.842 176 1.815 220 1.799 264 1.788 308 1.780 352 1.774 396 1.770 440
1.765 484 1.763 528 1.760 572 1.758 616 1.757 660 1.755 704 1.754 748 1.754 792 1.753 836 1.753 880 1.753 924
1.753 938 1.753"""
OPTIMISED = """1 2.098 44 1.735 88 1.596 132 1.539 176 1.488 220 1.452 264 1.428 308 1.410 352 1.396 396 1.382 440
1.371 484 1.361 528 1.353 572 1.347 616 1.341 660 1.338 704 1.333 748 1.331 792 1.329 836 1.329 880 1.328 924
1.328 938 1.328"""


def headlines(points: str, name: str, optimizer: str, lr: float, warmup: int) -> DocumentedRun:
    """In its own unit, nats a character over the 94% of the tokens that it counts; cosine to 0 over 938 steps."""
    facts = RunFacts(
        name, "completed", total_steps=938, batch_size=64, peak_lr=lr, grad_clip=1.0, optimizer=optimizer,
        schedule="Cosine", warmup_asked=float(warmup), warmup_steps=warmup, uniform=2.098, unit="nats/character",
    )  # fmt: skip
    numbers = points.split()
    rows = {
        int(step): {
            "val/loss": float(loss),
            "val/coverage": 0.94,
            "train/lr": lr * min(1, int(step) / max(1, warmup)) * (1 + math.cos(math.pi * int(step) / 938)) / 2,
        }
        for step, loss in zip(numbers[::2], numbers[1::2], strict=True)
    }
    return DocumentedRun(f"4, {name}", history(facts, rows))


def list_documented_runs() -> list[DocumentedRun]:
    return [
        ltg_bert(),
        ltg_bert_in_force(),
        gpt2(),
        gpt2_resumed(),
        operator(),
        headlines(BASELINE, "headlines, SGD", "SGD", 6e-3, 0),
        headlines(OPTIMISED, "headlines, AdamW", "AdamW", 3e-4, 100),
    ]
