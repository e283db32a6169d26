"""Measure precision and recall of each diagnosis, and false alarms on logs as strangers write them.

python benchmarks/diagnosis.py                   # on synthetic and recorded curves
python benchmarks/diagnosis.py record [NAME...]  # train the recorded runs again
"""

import itertools
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from harness.config.compose import compose_config  # noqa: E402
from harness.core.events import EvalEnd, Event, Spike  # noqa: E402
from harness.data.sources import PydocText  # noqa: E402
from harness.diagnosis import diagnose  # noqa: E402
from harness.diagnosis.history import History, RunFacts, SpikeRecord  # noqa: E402
from harness.importers.programs import native  # noqa: E402
from harness.record.metric_rows import MetricAggregator  # noqa: E402
from harness.run.runner import run  # noqa: E402
from harness.training.loop import Trainer  # noqa: E402
from harness.training.policies import stop_when_diverged  # noqa: E402
from harness.training.schedules import Constant, Cosine, Plateau, WarmupSchedule  # noqa: E402
from harness.training.spikes import watch_spikes  # noqa: E402
from tests.diagnosis import recorded_runs  # noqa: E402
from tests.diagnosis.curves import Curve, synthetic_curves  # noqa: E402
from tests.diagnosis.foreign_curves import FAULTY, HEALTHY, make_foreign_log  # noqa: E402
from tests.toy_task import CPU, Rows, ToyTask, toy_plan, toy_state  # noqa: E402

SMALL = [
    "experiment=smoke", "model.layers=1", "model.width=32", "model.heads=2", "tokenizer.vocab_size=512",
    "data.sequence_length=32", "data.val_fraction=0.01", "batch.batch_size=16", "loop.evals=10", "loop.log_every=5",
    "optimizer.lr=1e-2", "loop.max_steps=300",
]  # fmt: skip
DEFAULT = ["optimizer.lr=1e-3", "loop.max_steps=100"]
LONG = ["loop.max_steps=1500", "loop.log_every=10"]
FEW = ["data=text", "data.source.path={few}", "data.layout=packed", "data.val_fraction=0.3", "data.sequence_length=32"]

Labels = tuple[list[str], set[str], set[str]]
"""Overrides, kinds that must be diagnosed, kinds that are also right."""
SHORT = {"underfitting"}
HOT = {"spike", "never learnt", "warm-up too short", "clipping binds"}

LM: dict[str, Labels] = {
    **{f"default_{seed}": ([*DEFAULT, f"seed={seed}"], set(), set()) for seed in range(10)},
    "long": ([*SMALL, *LONG], set(), SHORT),
    "long_constant": (
        [*SMALL, *LONG, "schedule=constant", "optimizer.lr=3e-3"], {"underfitting", "clipping binds"}, set(),
    ),
    "lr_far_too_low": ([*SMALL, "optimizer.lr=1e-6"], {"never learnt"}, set()),
    "default_lr_far_too_low": ([*DEFAULT, "optimizer.lr=1e-6", "seed=3"], {"plateau"}, set()),
    "lr_far_too_high": ([*SMALL, "optimizer.lr=3"], {"divergence"}, HOT),
    "clip_binds": ([*SMALL, "loop.grad_clip=0.02"], {"clipping binds"}, SHORT),
    "no_warmup": ([*SMALL, "schedule.warmup_ratio=0.001"], {"warm-up truncated"}, SHORT | {"warm-up too short"}),
    "idle_plateau": (
        [*SMALL, "schedule=plateau", "schedule.patience=30", "optimizer.lr=1e-6"], {"never learnt", "scheduler idle"},
        set(),
    ),
    "few_examples": ([*SMALL, *FEW, "loop.max_steps=600"], {"overfitting"}, set()),
    "short": ([*SMALL, "loop.max_steps=80"], {"underfitting"}, set()),
    "short_constant": ([*SMALL, "schedule=constant", "loop.max_steps=150"], {"underfitting"}, set()),
    # ends at 5.07 nats/token, with a warm-up of 40% of the steps at 4.94
    "deep_short_warmup": (
        [*SMALL, "loop.log_every=2", "loop.max_steps=200", "model.layers=6", "optimizer.lr=3e-2",
         "schedule.warmup_ratio=0.03"], {"warm-up too short"}, {"spike"},
    ),
    # held out: other sizes, hyperparameters and seeds
    "other_long": ([*SMALL, *LONG, "seed=7", "batch.batch_size=8", "schedule=wsd"], set(), SHORT),
    "other_sgd_long": (
        [*SMALL, *LONG, "seed=8", "optimizer=sgd", "optimizer.lr=1"], set(), SHORT | {"clipping binds"},
    ),
    "other_lr_far_too_low": ([*SMALL, "seed=9", "optimizer=sgd", "optimizer.lr=1e-5"], {"never learnt"}, set()),
    "other_lr_far_too_high": (
        [*SMALL, "seed=10", "optimizer.lr=1", "schedule=constant"], {"divergence"},
        HOT,
    ),
    "other_clip_binds": (
        [*SMALL, "seed=11", "optimizer=sgd", "optimizer.lr=1", "loop.grad_clip=0.1"], {"clipping binds"},
        SHORT | {"never learnt"},
    ),
    "other_no_warmup": (
        [*SMALL, "seed=12", "schedule=linear", "schedule.warmup_ratio=0.001", "optimizer.lr=3e-3"],
        {"warm-up truncated"}, SHORT,
    ),
    "other_few_examples": (
        [*SMALL, *FEW, "seed=13", "loop.max_steps=900", "schedule=constant", "model.width=64"], {"overfitting"}, set(),
    ),
    "other_short": (
        [*SMALL, "seed=14", "loop.max_steps=120", "model.width=64", "schedule=linear"], {"underfitting"}, set(),
    ),
}  # fmt: skip


@dataclass
class FaultyToy(ToyTask):
    """The toy task with a fault: bad batches, another model, or evaluation on a random sample."""

    bad: range = range(0)  # batches with shifted targets
    make: Callable[[], nn.Module] | None = None
    is_sampled: bool = False
    is_fresh: bool = False  # never repeat an example
    noise: float = 0.0  # on the targets, so that the loss has a floor

    def __post_init__(self) -> None:
        super().__post_init__()
        generator = torch.Generator().manual_seed(2)
        for rows in (self.train, self.val):
            rows.targets += self.noise * torch.randn(rows.targets.shape, generator=generator)
        self.model = self.make() if self.make else self.model
        self.rng = np.random.default_rng(0)

    def get_batch(self, position: int, size: int) -> Rows:
        rows = self._make_fresh_batch(position, size) if self.is_fresh else super().get_batch(position, size)
        return replace(rows, targets=rows.targets + 6) if position // size in self.bad else rows

    def _make_fresh_batch(self, position: int, size: int) -> Rows:
        generator = torch.Generator().manual_seed(position + 10)
        inputs = torch.randn(size, 7, 3, generator=generator)
        noise = self.noise * torch.randn(size, 7, 1, generator=generator)
        return Rows(inputs, inputs.sum(-1, keepdim=True).sin() + noise, torch.ones(size, 7, dtype=torch.bool))

    def validation_batches(self) -> Iterable[Rows]:
        return [self.val[self.rng.choice(16, 3).tolist()]] if self.is_sampled else super().validation_batches()


def deep_sigmoid() -> nn.Module:
    torch.manual_seed(0)
    layers = [layer for _ in range(9) for layer in (nn.Linear(16, 16), nn.Sigmoid())]
    return nn.Sequential(nn.Linear(3, 16), nn.Sigmoid(), *layers, nn.Linear(16, 1))


def linear_model() -> nn.Module:
    """Return a linear model, which stops improving at the best straight line."""
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def large_head() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1))
    with torch.no_grad():
        model[-1].weight.mul_(0.01)
    return model


TOY: dict[str, tuple[FaultyToy, dict[str, object], set[str], set[str]]] = {
    # task, settings, kinds that must be diagnosed, kinds that are also right
    "toy": (FaultyToy(), {}, set(), SHORT),
    "toy_bad_batches": (FaultyToy(bad=range(500, 504)), {}, {"spike"}, {"divergence"}),
    "toy_vanishing": (FaultyToy(make=deep_sigmoid), {"lr": 1e-3}, {"vanishing gradients"}, {"never learnt", "plateau"}),
    "toy_dominating": (FaultyToy(make=large_head), {"lr": 1e-5}, {"dominating layer"}, {"never learnt", "plateau"}),
    "toy_diverging": (
        FaultyToy(), {"lr": 30.0, "schedule": Constant()}, {"divergence"}, {"spike", "warm-up too short"},
    ),
    "toy_sampled_evaluation": (FaultyToy(is_sampled=True), {"evals": 20}, {"noisy evaluation"}, SHORT | {"plateau"}),
    "toy_few_noisy": (
        FaultyToy(noise=1.0), {"schedule": Constant(), "steps": 3000, "lr": 0.01}, {"overfitting"}, set(),
    ),
    "toy_stalled": (
        FaultyToy(make=linear_model, is_fresh=True), {"schedule": Constant(), "steps": 4000, "lr": 2e-3, "evals": 20},
        {"plateau"}, {"noisy evaluation"},
    ),
    "other_toy": (FaultyToy(), {"lr": 0.02, "schedule": Cosine(warmup_ratio=0.1)}, set(), SHORT),
    "other_toy_bad_batches": (FaultyToy(bad=range(300, 306)), {"lr": 0.02}, {"spike"}, {"divergence"}),
    "other_toy_idle": (
        FaultyToy(make=linear_model, is_fresh=True, noise=0.3),
        {"schedule": Plateau(patience=40), "steps": 3000, "lr": 1e-3, "evals": 16},
        {"scheduler idle", "plateau"}, {"noisy evaluation"},
    ),
    "other_toy_sampled_evaluation": (
        FaultyToy(is_sampled=True), {"evals": 30, "lr": 0.02}, {"noisy evaluation"}, SHORT | {"plateau"},
    ),
}  # fmt: skip


def record_runs(names: list[str]) -> None:
    for name in names or [*LM, *TOY]:
        history, labels, allowed = record_lm(name) if name in LM else record_toy(name)
        is_held_out = name.startswith("other_") or name in {f"default_{seed}" for seed in range(5, 10)}
        recorded_runs.write_curve(Curve(name, history, frozenset(labels), frozenset(allowed), is_held_out))
        print(name, history.facts.status, sorted(labels), "->", [one.kind for one in diagnose(history)], flush=True)


def record_lm(name: str) -> tuple[History, set[str], set[str]]:
    overrides, labels, allowed = LM[name]
    with tempfile.TemporaryDirectory() as folder:
        few = Path(folder) / "few.txt"
        few.write_text("\n".join(document.text for document in itertools.islice(PydocText().iter_documents(), 60)))
        given = [override.format(few=few) for override in overrides]
        result = run(compose_config([*given, "observers=metrics_only", f"output_dir={folder}"]))
        return native.read_native(result.folder / "metrics.jsonl"), labels, allowed


def record_toy(name: str) -> tuple[History, set[str], set[str]]:
    task, settings, labels, allowed = TOY[name]
    steps, evals = int(settings.get("steps", 1000)), int(settings.get("evals", 10))
    log_every = max(5, steps // 100)
    schedule: WarmupSchedule = settings.get("schedule", Cosine(warmup_ratio=0.05))
    state = toy_state(task, lr=float(settings.get("lr", 0.05)))
    state.schedule = schedule
    history = History(
        RunFacts(
            name=name,
            total_steps=steps,
            log_every=log_every,
            batch_size=16,
            optimizer="AdamW",
            schedule=type(schedule).__name__,
            monitor="val/loss" if isinstance(schedule, Plateau) else None,
            patience=getattr(schedule, "patience", None),
            requested_warmup=float(schedule.count_warmup_steps(steps)),
            warmup_steps=schedule.count_warmup_steps(steps),
            unit="squared error",
        )
    )
    aggregator = MetricAggregator()
    aggregator._log_every, aggregator._total_steps = log_every, steps

    def emit(event: Event) -> None:
        if row := aggregator(event):
            history.add_row(row.step, row.metrics)
        if isinstance(event, EvalEnd):
            history.checkpoints.append(event.step)
        if isinstance(event, Spike):
            history.spikes.append(
                SpikeRecord(
                    event.step, event.last_good_step, event.loss, event.baseline_loss, event.example_range, None
                )
            )

    plan = toy_plan(steps, eval_steps=frozenset(range(steps // evals, steps + 1, steps // evals)))
    policies = [stop_when_diverged(), watch_spikes("warn")]
    stop = Trainer(task, state, plan, CPU, policies=policies, emit=emit).train()
    history.facts = replace(history.facts, status=stop.status)
    return history, labels, allowed


@dataclass
class Score:
    """Counts of correct, wrong and missed diagnoses of one kind."""

    correct: int = 0
    wrong: int = 0
    missed: int = 0

    def __str__(self) -> str:
        """Return precision / recall of the number of curves with this fault."""
        precision, recall = (_format_ratio(self.correct, self.correct + n) for n in (self.wrong, self.missed))
        return f"{precision} / {recall} of {self.correct + self.missed}" if precision + recall != "--" else ""


def compare_with_labels(curve: Curve) -> tuple[set[str], set[str], set[str]]:
    """Return the correct, wrong and missed kinds of a curve; allowed ones are none of these."""
    kinds = {diagnosis.kind for diagnosis in diagnose(curve.history)}
    return kinds & curve.labels, kinds - curve.labels - curve.allowed, set(curve.labels - kinds)


def score_curves(curves: Iterable[Curve]) -> dict[str, Score]:
    scores: dict[str, Score] = defaultdict(Score)
    for curve in curves:
        for name, kinds in zip(("correct", "wrong", "missed"), compare_with_labels(curve), strict=True):
            for kind in kinds:
                setattr(scores[kind], name, getattr(scores[kind], name) + 1)
    return scores


PARTS = [("synthetic", False), ("synthetic", True), ("real", False), ("real", True)]


def format_table(curves: list[Curve]) -> str:
    parts = [[c for c in curves if (c.source, c.is_held_out) == part] for part in PARTS]
    scores = [score_curves(part) for part in parts]
    heads = [
        f"{source}, {'held out' if held else 'looked at'} ({len(part)})"
        for (source, held), part in zip(PARTS, parts, strict=True)
    ]
    lines = ["| diagnosis | " + " | ".join(heads) + " |", "|---|" + "---|" * len(PARTS)]
    for kind in sorted({kind for one in scores for kind in one}):
        lines.append(f"| {kind} | " + " | ".join(str(one.get(kind, Score())) for one in scores) + " |")
    return "\n".join(lines)


FOREIGN_SEEDS = range(2000, 2100)  # not looked at when rules were written


def format_foreign_table() -> str:
    """Return for each family of foreign logs the share with a wrong diagnosis, and with the right one if it has one."""
    lines = ["| made-up logs | wrong | found | of what |", "|---|---|---|---|"]
    for family, (_, labels, allowed) in ((name, astuple(one)) for name, one in (HEALTHY | FAULTY).items()):
        kinds = [{one.kind for one in diagnose(make_foreign_log(family, seed))} for seed in FOREIGN_SEEDS]
        wrong = [found - labels - allowed for found in kinds]
        names = sorted({kind for found in wrong for kind in found})
        found = f"{np.mean([bool(one & labels) for one in kinds]):.2f}" if labels else ""
        lines.append(f"| {family} | {np.mean([bool(one) for one in wrong]):.2f} {', '.join(names)} | {found} | "
                     f"{' or '.join(sorted(labels)) or 'healthy'} |")  # fmt: skip
    return "\n".join(lines)


def _format_ratio(part: int, whole: int) -> str:
    return f"{part / whole:.2f}" if whole else "-"


def main() -> None:
    recorded = (recorded_runs.read_curve(path) for path in sorted(recorded_runs.FOLDER.glob("*.jsonl")))
    curves = [*synthetic_curves(), *recorded]
    print(format_table(curves), format_foreign_table(), sep="\n\n")
    for curve in curves:
        _, wrong, missed = compare_with_labels(curve)
        if wrong or missed:
            print(f"{curve.source} {curve.name}: wrong {sorted(wrong)}, missed {sorted(missed)}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["record"]:
        record_runs(sys.argv[2:])
    else:
        main()
