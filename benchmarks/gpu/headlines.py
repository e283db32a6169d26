"""The two headlines experiments at full scale: 938 steps before and after, with the loss of the original report."""

import random
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu.setup import Row, Setup
from harness.config.compose import compose_config
from harness.config.overrides import format_value
from harness.core.events import EvalEnd, Event, StepEnd
from harness.run.runner import run

N_STEPS, N_TITLES = 938, 100_000
PUBLISHED = {"before": 1.753, "after": 1.328}  # the report's loss on its own titles
FULL = (f"loop.max_steps={N_STEPS}", "data.eval_batch_size=256")
TOY = (
    "loop.max_steps=4", "loop.eval_every=2", "data.source.limit=2000", "data.val_fraction=0.5", "model.width=16",
    "model.layers=1", "data.eval_batch_size=64",
)  # fmt: skip


class Recorder:
    """A policy that never decides; keeps the last evaluation and the number of trained tokens."""

    def __init__(self) -> None:
        self.training_seconds, self.tokens = 0.0, 0
        self.last: EvalEnd | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepEnd):
            self.training_seconds += event.seconds
            self.tokens = event.tokens
        elif isinstance(event, EvalEnd):
            self.last = event


def measure_headlines(setup: Setup) -> Iterator[Row]:
    """Run both experiments, in fp32 and with the settings of the report."""
    titles = setup.titles or str(write_titles(setup.folder / "titles.txt", 2000 if setup.is_toy else N_TITLES))
    source = [f"data.source.path={format_value(str(Path(titles).resolve()))}"]
    if setup.titles_column:
        source.append(f"data.source.column={format_value(setup.titles_column)}")
    size, chosen = ("small_", TOY) if setup.is_toy else ("", FULL)
    losses: dict[str, tuple[float, float]] = {}
    for variant in ("before", "after"):
        recorder = Recorder()
        cfg = compose_config([
            f"experiment=headlines_{size}{variant}", *source, *chosen, "expect=[]", "observers=metrics_only",
            f"device={setup.device.type}", f"output_dir={setup.folder}/outputs", f"cache_dir={setup.folder}/cache",
            *(["schedule.warmup_steps=1"] if setup.is_toy and variant == "after" else []),
        ])  # fmt: skip
        result = run(cfg, [recorder])
        if result.status != "completed" or recorder.last is None:
            raise RuntimeError(f"run {result.status}: {result.reason}")
        metrics = recorder.last.metrics
        losses[variant] = (recorder.last.val_loss, metrics["windowed_loss"].value)
        yield {
            "arm": variant,
            "loss, nats/token": recorder.last.val_loss,
            "report's loss": metrics["windowed_loss"].value,
            "covered %": 100 * metrics["windowed_coverage"].value,
            "report's loss on its titles": PUBLISHED[variant],
            "steps": float(result.step),
            "tokens/s": recorder.tokens / recorder.training_seconds,
            "seconds": result.seconds,
        }
    (loss, windowed), (new_loss, new_windowed) = losses["before"], losses["after"]
    yield {
        "arm": "after - before",
        "loss, nats/token": new_loss - loss,
        "report's loss": new_windowed - windowed,
        "report's loss on its titles": PUBLISHED["after"] - PUBLISHED["before"],
        "titles": setup.titles or "synthetic",
    }


def write_titles(path: Path, n_titles: int) -> Path:
    """Write synthetic titles: each word is one of 50 that may follow the word before it, the first ones most often."""
    generator = random.Random(0)
    letters = "etaoinshrdlucmfwypvbgkqjxz"
    words = ["".join(generator.choices(letters, range(26, 0, -1), k=generator.randint(2, 9))) for _ in range(30_000)]
    ranks, weights = range(50), [1 / (rank + 1) for rank in range(50)]
    titles = []
    for _ in range(n_titles):
        at, title = generator.randrange(2000), []
        for rank in generator.choices(ranks, weights, k=generator.randint(3, 7)):
            at = (7919 * at + 104_729 * rank + 1) % len(words)
            title.append(words[at])
        titles.append(" ".join(title))
    path.write_text("\n".join(titles))
    return path
