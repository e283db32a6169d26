"""TensorBoard event files with the metric names of metrics.jsonl."""

from importlib.util import find_spec
from typing import Any

from harness.core.events import Event, Observer, RunStart
from harness.record.metric_rows import MetricAggregator


class TensorBoardWriter(Observer):
    """Write event files to the folder `tensorboard` of the run.

    Raises:
        ValueError: If tensorboard is not installed.
    """

    def __init__(self) -> None:
        if find_spec("tensorboard") is None:
            raise ValueError("tensorboard is not installed; run pip install 'plateau-harness[tensorboard]'")
        self._aggregate = MetricAggregator()
        self._writer: Any = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStart):
            from torch.utils.tensorboard import SummaryWriter

            purged = event.past.step + 1 if event.past else None  # steps after the checkpoint are taken again
            self._writer = SummaryWriter(str(event.folder / "tensorboard"), purge_step=purged)
        row = self._aggregate(event)
        if row is not None:
            for name, value in row.metrics.items():
                self._writer.add_scalar(name, value, row.step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
