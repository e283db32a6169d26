"""Sweeps small enough for tests: real studies, and real training of a model whose step takes milliseconds."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig
from optuna.trial import Trial

from harness.config.compose import check_compositions
from harness.core.events import Status
from harness.core.paths import config_dir
from harness.sweep.programs.training.request import TrainingRequest, read_sweep_request
from harness.sweep.study.setup import open_study
from harness.sweep.study.trial_attrs import TrialResult
from harness.sweep.study.trial_queue import TrialQueue
from harness.sweep.workers.worker import WorkerSpec

TINY = [
    "start=scratch", "device=cpu", "model.layers=1", "model.width=16", "model.heads=2", "tokenizer.vocab_size=512",
    "data.sequence_length=32", "data.val_fraction=0.005", "loop.max_steps=4", "loop.evals=2", "batch.batch_size=4",
    "preflight=skip",
]  # fmt: skip
TINY_WITHOUT_LORA = [
    *TINY, "lora=none", "hydra.sweeper.params=null", "optimizer.lr=tag(log,interval(1e-4,1e-1))",
    "loop.grad_clip=tag(log,interval(0.1,10.0))", "~observers.mlflow", "pruner=none",
]  # fmt: skip  # each worker would need seconds to import peft


def compose_sweep_config(overrides: Sequence[str]) -> DictConfig:
    """Compose the config that Hydra passes to a sweeper for `python run.py -m OVERRIDES`."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return _compose_fixed(tuple(override.input_line for override in parsed if not override.is_sweep_override()))


@cache
def _compose_fixed(fixed: tuple[str, ...]) -> DictConfig:
    with check_compositions(), initialize_config_dir(str(config_dir()), job_name="run"):
        return compose("config", list(fixed), return_hydra_config=True)


def read_tiny_request(*overrides: str) -> TrainingRequest:
    arguments = [override for override in overrides if not override.startswith("hydra")]
    return read_sweep_request(compose_sweep_config(overrides), arguments)


def start_study(*overrides: str) -> TrialQueue:
    """Create or open a study, and set its budget."""
    request = read_tiny_request(*overrides)
    queue = open_study(request)
    queue.set_budget(request.budget)
    return queue


def make_worker_spec(request: TrainingRequest) -> WorkerSpec:
    workers = request.workers
    return WorkerSpec(
        study_name=request.study_name,
        storage=request.options.storage,
        folder=str(request.folder),
        n_threads=1,
        program=request.program,
        command=list(workers.command),
        cwd=workers.cwd,
        n_jobs=workers.n_jobs,
        devices_per_trial=workers.devices_per_trial,
        n_processes=workers.n_processes,
    )


def make_result(status: Status = "completed", loss: float = 1.0, fraction_done: float = 1.0) -> TrialResult:
    """Return the result of a run of 4 steps."""
    return TrialResult(
        status=status,
        reason="" if status == "completed" else status,
        values=(loss,),
        best_step=4,
        tokens=100,
        seconds=1.0,
        fraction_done=fraction_done,
        folder="0",
    )


def serve_trials(queue: TrialQueue, loss: Callable[[Trial], float], count: int = 1000) -> list[Trial]:
    """Claim and complete up to `count` trials without training, and return them."""
    served: list[Trial] = []
    while len(served) < count and (trial := queue.claim_trial()) is not None:
        value = loss(trial)
        queue.finish_trial(trial, make_result(loss=value))
        served.append(trial)
    return served


def study_folder(tmp_path: Path, study: str = "default") -> Path:
    return tmp_path / "outputs" / "sweeps" / study
