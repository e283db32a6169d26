"""Losses of single examples: their order in several processes, and the observer that writes them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.core.distributed import ProcessGroup
from harness.core.task import ExampleSums, Mean
from harness.observers.example_writer import ExampleWriter
from harness.record.example_losses import BEST_EXAMPLES, FINAL_EXAMPLES, read_example_losses
from harness.training.evaluation import score_validation_set
from tests.observers.sample_events import eval_end, run_start
from tests.toy_task import CPU, Rows, ToyTask


class TaskWithExamples(ToyTask):
    """The toy task in batches of 3, with the losses of its examples."""

    def score_batch(self, batch: Rows) -> dict[str, Mean]:
        errors, counts = self._errors(batch).double(), batch.mask.sum(1).numpy()
        examples = (ExampleSums(errors.sum(1).numpy(), counts),)
        return {"loss": Mean(errors.sum().item(), int(counts.sum()), "squared error", None, examples)}


def score_in_two_processes(task: ToyTask, **options: Any) -> Mapping[str, Mean]:
    """Return what rank 0 of two processes has after it gathered the means of both."""

    class Recorder(ProcessGroup):
        def all_gather(self, value: Any) -> list[Any]:
            gathered.append(value)
            return [value]

    gathered: list[Any] = []
    for rank in (0, 1):
        score_validation_set(task, Recorder(torch.device("cpu"), rank, 2), **options)

    class Gatherer(ProcessGroup):
        def all_gather(self, value: Any) -> list[Any]:
            return gathered

    return score_validation_set(task, Gatherer(torch.device("cpu"), 0, 2), **options)


def test_two_processes_keep_the_examples_in_order() -> None:
    task = TaskWithExamples(eval_batch_size=3)
    alone = score_validation_set(task, CPU, keep_examples=True)["loss"]
    both = score_in_two_processes(task, keep_examples=True)["loss"]
    assert [one.batch for one in both.examples] == [0, 1, 2, 3, 4, 5]
    for ours, theirs in zip(alone.examples, both.examples, strict=True):
        assert np.array_equal(ours.sums, theirs.sums)
    assert sum(one.sums.sum() for one in alone.examples) == alone.sum
    assert not score_validation_set(task, CPU)["loss"].examples


def test_best_and_last_evaluation_are_written(tmp_path: Path) -> None:
    writer = ExampleWriter()
    writer(run_start(tmp_path))
    for step, loss, best in ((0, 4.0, 4.0), (10, 3.0, 3.0), (20, 3.5, 3.0)):
        examples = tuple(ExampleSums(np.full(2, loss), np.ones(2, int), batch) for batch in (0, 1))
        writer(eval_end(step, loss, best, examples=examples))
    best_found, last = (read_example_losses(tmp_path / name) for name in (BEST_EXAMPLES, FINAL_EXAMPLES))
    assert (best_found.step, best_found.sums.tolist()) == (10, [3.0] * 4)
    assert (last.step, last.sums.tolist()) == (20, [3.5] * 4)


def test_tasks_without_examples_and_folders_that_are_gone_end_no_run(tmp_path: Path, capsys) -> None:
    writer = ExampleWriter()
    writer(run_start(tmp_path))
    for step in (0, 10):
        writer(eval_end(step, 4.0, 4.0))
    problem = "nothing written: the task gives no losses of single examples (Mean.examples)"
    assert capsys.readouterr().err == f"warning: record_examples: {problem}\n"
    writer = ExampleWriter()
    writer(run_start(tmp_path / "absent"))
    writer(eval_end(0, 4.0, 4.0, examples=(ExampleSums(np.ones(2), np.ones(2, int)),)))
    assert "will try again at the next evaluation" in capsys.readouterr().err
