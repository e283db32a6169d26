"""The observer that writes metrics.jsonl, from which everything that shows the run later is made."""

from harness.core.events import Event, Observer, PastRecord, RunStart
from harness.record.entry_writer import EntryWriter
from harness.record.event_entries import make_entries
from harness.record.metric_rows import MetricAggregator
from harness.record.metrics_file import METRICS_FILE


class MetricsWriter(Observer):
    """Record a run as an `EntryWriter` does; one that is continued goes on where its checkpoint was saved.

    Only the first line must be written at once, and every line before the next checkpoint: `flush` raises otherwise.
    """

    def __init__(self) -> None:
        self._aggregate = MetricAggregator()
        self._writer: EntryWriter | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStart):
            self._folder = event.folder
            self._writer = EntryWriter(event.folder / METRICS_FILE, event.past.n_bytes if event.past else None)
        assert self._writer is not None
        self._writer.write(make_entries(event, self._aggregate(event), self._folder))
        if isinstance(event, RunStart):
            self.flush()

    def describe_position(self, step: int, seconds: float) -> PastRecord | None:
        """Return where the record stands, for a checkpoint of `step` after `seconds`; call `flush` before."""
        if self._writer is None:
            return None
        return PastRecord(step, seconds, self._writer.n_bytes, self._aggregate.pending)

    def flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
