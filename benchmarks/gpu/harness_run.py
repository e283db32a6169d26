"""Training of any task with our Trainer, as `python run.py` builds it, without the evaluations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import mkdtemp

from benchmarks.gpu.setup import Setup, StepClock, measure_peak
from harness.config.compose import compose_config
from harness.config.validation import validate_config
from harness.core.distributed import ProcessGroup
from harness.core.events import Event, OutOfMemory, RunEnd, RunStart, StepEnd
from harness.core.task import Task
from harness.observers.composite import CompositeObserver
from harness.run.build import RunParts, build_observers, build_parts
from harness.training.loop import Trainer


@dataclass
class Training:
    """Measurements of a training."""

    clock: StepClock
    steps: list[StepEnd] = field(default_factory=list)
    micro_batch_sizes: list[int] = field(default_factory=list)
    """Those that ran out of memory, then the last one."""
    peak_gib: float = 0.0
    scale: float = 1.0
    """The last one of the gradient scaler."""
    reason: str = ""

    def record(self, event: Event) -> None:
        if isinstance(event, StepEnd):
            self.steps.append(event)
            self.clock.tick()
        elif isinstance(event, OutOfMemory):
            self.micro_batch_sizes.append(event.micro_batch_size)

    @property
    def tokens_per_second(self) -> float:
        return self.steps[-1].step_tokens / self.clock.seconds_per_step


def train(
    setup: Setup,
    make_task: Callable[[], Task],
    settings: Sequence[str],
    n_steps: int,
    n_skipped: int,
    *,
    processes: ProcessGroup | None = None,
    prepare: Callable[[RunParts], None] = lambda parts: None,
) -> Training:
    """Train a task for `n_steps` with AdamW, clipping and a cosine schedule; the clock starts after `n_skipped`.

    `settings` are overrides. `prepare` may change the parts before the first step.
    """
    processes, folder = processes or setup.processes, setup.folder
    cfg = compose_config(
        [
            "experiment=smoke", "observers=metrics_only", f"device={processes.device.type}",
            f"loop.max_steps={n_steps}", "loop.evals=1", "loop.log_every=10", f"output_dir={folder}/outputs",
            f"cache_dir={folder}/cache", *settings,
        ]
    )  # fmt: skip
    run_settings = validate_config(cfg)
    training = Training(StepClock(processes.device, n_steps, n_skipped))
    with measure_peak(processes.device) as peak:
        parts = build_parts(cfg, run_settings, processes, make_task())
        prepare(parts)
        observe = CompositeObserver(build_observers(cfg) if processes.is_main else [])

        def emit(event: Event) -> None:
            observe(event)
            training.record(event)

        run_dir = Path(mkdtemp(dir=folder))
        observe(RunStart("benchmark", run_dir, n_steps, cfg.loop.log_every, {}, parts.effective, {}, {}, {}))
        plan = replace(parts.plan, eval_steps=frozenset())
        trainer = Trainer(
            parts.task, parts.state, plan, processes, parallel=parts.parallel, policies=parts.policies, emit=emit,
            is_continued=True,  # without the evaluation before the first step
        )  # fmt: skip
        stop = trainer.train()
        observe(RunEnd(stop.status, stop.reason, parts.state.step, parts.state.tokens, 0.0, 0.0, 0))
        observe.close()
    if stop.status != "completed":
        raise RuntimeError(f"training {stop.status}: {stop.reason}")
    training.micro_batch_sizes.append(trainer.micro_batch_size)
    training.peak_gib, training.scale = peak.gib, parts.state.scaler.get_scale()
    return training
