"""Score the test split and draw predictions with the weights of a completed run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor, nn

from harness.core.distributed import ProcessGroup
from harness.core.errors import ConfigError
from harness.core.events import Event, FinalTest, Notice
from harness.core.sharding import has_sharded_weights, is_sharded
from harness.core.state import TrainState, load_model_weights
from harness.core.task import Task
from harness.training.checkpoint import read_best_weights
from harness.training.evaluation import score_validation_set
from harness.training.loop import TrainingPlan


def make_test_task(task: Task) -> Task:
    """Return a task with the model of `task` whose validation set is its test split.

    Raises:
        ConfigError: If it has none.
    """
    test_task: Task | None = task.make_test_task() if hasattr(task, "make_test_task") else None
    if test_task is None:
        raise ConfigError(
            f"score_test: true: {type(task).__name__} has no test split; set data.test_share=0.1 or data.test=…, give "
            "your own task make_test_task(), or leave score_test out"
        )
    return test_task


def score_test_split(
    test_task: Task,
    state: TrainState,
    plan: TrainingPlan,
    processes: ProcessGroup,
    checkpoints: Path,
    emit: Callable[[Event], None],
) -> float:
    """Score the weights with the best validation loss on the whole test split, as the validation set is scored.

    Return their loss after emitting a FinalTest.

    They are those of the checkpoint `best`, since later steps or a rollback may have changed those of `state`, which
    has its own again afterwards. `state` is in evaluation mode.

    Raises:
        ValueError: If that checkpoint is missing or damaged.
    """
    weights = read_best_weights(checkpoints)
    with _replaced_weights(state.model, weights):
        means = score_validation_set(test_task, processes, plan.autocast, keep_examples=plan.record_examples)
    final = FinalTest(
        step=state.step,
        tokens=state.tokens,
        best_step=state.best_step,
        metrics=test_task.compute_metrics(means),
        examples=means["loss"].examples,
    )
    emit(final)
    return final.test_loss


@contextmanager
def _replaced_weights(model: nn.Module, weights: dict[str, Tensor]) -> Iterator[None]:
    """Give `model` other weights; its own are kept in the memory of the CPU, or in parts on the devices."""
    own = {
        name: tensor.detach().clone() if is_sharded(tensor) else tensor.detach().to("cpu", copy=True)
        for name, tensor in model.state_dict().items()
    }
    try:
        load_model_weights(model, weights)
        yield
    finally:
        load_model_weights(model, own)


def draw_predictions(task: Task, folder: Path, emit: Callable[[Event], None]) -> None:
    """Draw the model's predictions on held-out examples, if the task supports it."""
    if hasattr(task, "save_figures") and has_sharded_weights(task.model):
        emit(Notice("figures of the predictions are not drawn with parallel=fsdp"))
    elif hasattr(task, "save_figures"):
        try:
            task.save_figures(folder / "figures")
        except Exception as error:  # a missing figure must not fail the run
            emit(Notice(f"figures of the predictions could not be drawn: {type(error).__name__}: {error}"))
