"""Run rescues in this process."""

import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from harness import cli
from harness.record.metrics_file import read_entries
from tests.run.test_run import SMOKE

TINY = [*SMOKE, "loop.max_steps=12", "loop.evals=2", "optimizer.lr=1e-4", "~observers.mlflow"]


@dataclass(frozen=True)
class FinishedRescue:
    """A rescue from start to end, with what it printed; `result` is what --json prints."""

    words: list[str]
    status: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        return dict(json.loads(self.out))

    @property
    def folder(self) -> Path:
        return Path(self.result["folder"])

    def get_details(self, stage: str) -> dict[str, Any]:
        return dict(self.result["stages"][stage]["details"])


def run_rescue(*words: str) -> FinishedRescue:
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = cli.main(["rescue", *words])
    return FinishedRescue(list(words), status, out.getvalue(), err.getvalue())


def read_tokens(run: Path) -> int:
    """Return the tokens that a run has taken."""
    return next(entry["tokens"] for entry, _ in read_entries(run / "metrics.jsonl") if entry["kind"] == "end")
