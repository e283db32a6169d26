"""Figures over values and names that are hard to draw."""

import math
import random
from collections.abc import Callable

from harness.evidence.charts.figure_data import (
    Bars,
    Curves,
    FigureData,
    Gaps,
    Interval,
    Intervals,
    Line,
    PointGroup,
    PointPanels,
    Points,
    Role,
    SeedRow,
    Seeds,
    Stages,
)

UNIT = "validation loss (nats/token)"
LONG = "a_very.long/name-" * 20
EVIL = "<script>alert(1)</script>&\"'\u202eright to left\x00"
RANDOM = random.Random(0)


def draw_line(
    label: str, role: Role, end: float, n_points: int = 20, share: float = 1.0, start: float = 9.7, tokens: float = 1e6
) -> Line:
    """Return a falling curve of which only the first `share` was run."""
    x = [tokens * (index + 1) / n_points for index in range(n_points)]
    noise = 0.01 * abs(start - end)
    y = [end + (start - end) * math.exp(-6 * index / n_points) + RANDOM.gauss(0, noise) for index in range(n_points)]
    n_run = max(1, int(share * n_points))
    return Line(label, role, tuple(x[:n_run]), tuple(y[:n_run]))


def draw_points(role: Role, count: int, choose: Callable[[], object], *, has_values: bool = True) -> PointGroup:
    x = tuple(choose() for _ in range(count))
    y = tuple(RANDOM.uniform(3.3, 4.4) if has_values else None for _ in range(count))
    return PointGroup(f"{count} {role}", role, x, y, tuple(f"trial {index}" for index in range(count)))


def make_panel(name: str, choose: Callable[[], object]) -> Points:
    groups = (
        draw_points("trial", 20, choose),
        draw_points("paused", 6, choose),
        draw_points("pruned", 6, choose),
        draw_points("diverged", 1, choose, has_values=False),
        PointGroup("baseline", "baseline", (choose(),), (3.6,)),
        PointGroup("best: trial 7", "best", (choose(),), (3.28,)),
    )
    return Points(groups, name, UNIT)


def choose_rate() -> float:
    return 10 ** RANDOM.uniform(-4, -1)


PAIR = (draw_line("baseline", "baseline", 3.6), draw_line("best: trial 7", "best", 3.3))
OTHERS = tuple(
    draw_line(
        f"trial {index}", "pruned" if index % 3 else "trial", RANDOM.uniform(3.4, 5), 40, 0.25 if index % 3 else 1
    )
    for index in range(500)
)
CURVES: dict[str, FigureData] = {
    "curves": Curves((*PAIR, *OTHERS[:9], draw_line("t", "diverged", 60, share=0.5)), "tokens", UNIT),
    "many curves": Curves((*PAIR, *OTHERS), "steps", "val loss"),
    "one point": Curves((Line("baseline", "baseline", (100.0,), (3.2,)),), "steps", "val loss"),
    "no finite point": Curves((Line("baseline", "baseline", (1.0, 2.0), (math.nan, math.inf)),), "steps", "val loss"),
    "no curve": Curves((), "steps", "val loss"),
    "only paused": Curves((draw_line("trial 0", "paused", 4, share=0.04),), "steps", "val loss"),
    "only pruned": Curves((draw_line("trial 0", "pruned", 4, share=0.3),), "steps", "val loss"),
    "accuracy": Curves((draw_line("baseline", "baseline", 0.8, 10, start=0.1, tokens=10),), "epochs", "accuracy"),
    "tiny": Curves((draw_line("baseline", "baseline", 1e-5, start=4e-5),), "steps", "loss"),
    "huge": Curves((draw_line("baseline", "baseline", 10.0, start=4e12),), "steps", "loss"),
    "beyond floats": Curves((Line("baseline", "baseline", (1.0, 2.0), (1e308, -1e308)),), "steps", "loss"),
    "long names": Curves((draw_line(LONG, "baseline", 3.6), draw_line(EVIL, "best", 3.3)), LONG, LONG),
    "letters": Curves(tuple(draw_line(chr(65 + index), "candidate", 3.3, 60) for index in range(26)), "tokens", UNIT),
}
POINTS: dict[str, FigureData] = {
    "panels": PointPanels(
        (
            make_panel("optimizer.lr", choose_rate),
            make_panel("lora.rank", lambda: RANDOM.choice([2, 4, 8, 16, 32])),
            make_panel("optimizer", lambda: RANDOM.choice(["adamw", "muon", "sgd"])),
            make_panel("schedule.warmup_ratio", lambda: RANDOM.uniform(0, 0.2)),
            make_panel(LONG, lambda: RANDOM.choice([LONG, EVIL, "relu", None])),
            make_panel("bias", lambda: RANDOM.choice([True, False])),
        )
    ),
    "many points": Points(
        (draw_points("trial", 350, choose_rate), draw_points("pruned", 150, choose_rate)), "lr", "accuracy"
    ),
    "many categories": make_panel("mixture", lambda: f"option {RANDOM.randrange(40)}"),
    "mixed values": make_panel("clip", lambda: RANDOM.choice(["none", 0.5, 1.0])),
    "one trial": Points((PointGroup("1 completed", "trial", (3e-4,), (3.3,)),), "lr", "val loss"),
    "all diverged": Points((PointGroup("2 diverged", "diverged", (1e-3, 1e-2), (None, None)),), "lr", "val loss"),
    "one far out": Points(
        (draw_points("trial", 9, choose_rate), PointGroup("best", "best", (1e-3,), (1e30,))), "lr", "x"
    ),
    "no value of it": Points((PointGroup("1 completed", "trial", (None,), (3.3,)),), "lr", "val loss"),
    "one value": Points((PointGroup("2 completed", "trial", (0, 0), (3.3, 3.3)),), "lr", "val loss", is_x_log=True),
}
ROWS: dict[str, FigureData] = {
    "bars": Bars(("optimizer.lr", "lora.rank", LONG), (0.7, 0.28, 0.0), f"importance for {UNIT}, 24 trials", True),
    "no bars": Bars((), (), "importance", True),
    "one bar": Bars((EVIL,), (1.0,), "importance", True),
    "intervals": Intervals(
        (
            Interval("trial 7: better", -0.158, -0.19, -0.126),
            Interval("trial 12: equivalent", 0.002, -0.008, 0.012),
            Interval(f"{LONG}: not shown", -0.05, -0.12, math.inf),
            Interval("trial 3: not shown", math.nan, -math.inf, math.inf),
        ),
        "difference of the test loss from the baseline (nats/token); below zero is better",
        0.02,
    ),
    "intervals both ways": Intervals(
        (
            Interval("all changes", -0.158, -0.19, -0.126, "together"),
            Interval(LONG, -0.1, -0.12, -0.08, "alone"),
            Interval(LONG, math.nan, -math.inf, math.inf, "on top of the others"),
            Interval("lr", math.nan, -math.inf, math.inf, "alone"),
            Interval("lr", 0.02, 0.01, math.inf, "on top of the others"),
        ),
        "difference of the test loss",
    ),
    "one interval": Intervals((Interval("trial 7", -0.1, -0.2, -0.05),), "difference of the test loss"),
    "unknown interval": Intervals((Interval("trial 7", math.nan, -math.inf, math.inf),), "difference"),
    "seeds": Seeds(
        (
            SeedRow("baseline", "baseline", (3.61, 3.63, 3.6, 3.64, 3.62), 3.62),
            SeedRow("trial 7", "candidate", (3.45, 3.47, 3.49, 3.44, 3.46), 3.462),
        ),
        "test loss (nats/token), test split",
    ),
    "seeds that diverged": Seeds(
        (
            SeedRow("baseline", "baseline", (3.61, 3.63, 3.6, 3.64, 3.62), 3.62),
            SeedRow("trial 7", "candidate", (3.45, None, 3.49, math.inf, math.nan), 3.46),
            SeedRow(LONG, "candidate", (math.nan,) * 5, None),
            SeedRow("trial 9", "candidate", (3.55, 3.57, 3.59, 3.54, 1e9), 2e8),
        ),
        "test loss (nats/token)",
    ),
    "no seeds": Seeds((SeedRow("baseline", "baseline", (), None),), "test loss"),
    "gaps": Gaps(
        ("selected in the sweep", "validation, fresh seeds", "test, fresh seeds"),
        (Stages("baseline", (3.61, 3.62, 3.66)), Stages("trial 7", (3.4, 3.46, None)), Stages(EVIL, (None,) * 3)),
        "loss (nats/token)",
    ),
}
HARD_FIGURES = CURVES | POINTS | ROWS
