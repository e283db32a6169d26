"""Every sample in docs/log_formats.md is read to the number, also with harmless changes."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from harness.diagnosis.history import History
from harness.importers import read_histories
from tests.conftest import ROOT

PAGE = ROOT / "docs/log_formats.md"
SECTION = re.compile(
    r"^### (?P<name>.+)\n(?:(?!```).*\n)*"
    r"```(?P<language>\w+)(?: (?P<file>\S+))?\n(?P<log>(?:(?!```).*\n)*)```\n"
    r"(?P<tables>(?:(?:`.+`\n\n)?(?:\|.*\n)+\n?)+)",
    re.MULTILINE,
)
TABLE = re.compile(r"(?:`(.+)`\n\n)?((?:\|.*\n)+)")
METRICS = ("train/loss", "val/loss", "train/lr", "train/grad_norm", "train/tokens")
EPOCH_TOLERANCE = 0.02  # of an epoch, for logs that print fractions of epochs with two digits


class Run(NamedTuple):
    """A table: the points of each metric at steps or at epochs."""

    name: str  # empty for an only run
    by_epoch: bool
    steps_per_epoch: float | None
    points: dict[str, list[tuple[float, float]]]


class Sample(NamedTuple):
    """A log and its runs."""

    file: str
    log: str
    language: str
    runs: list[Run]


def read_table(name: str, table: str) -> Run:
    header, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines())
    unit = re.fullmatch(r"(step|epoch)(?:, (\d+) per epoch)?", header[0])
    assert unit, table
    points = {
        metric: [(float(at), float(cell)) for at, cell in zip(header[1:], cells, strict=True) if cell]
        for metric, *cells in rows
    }
    assert points.keys() <= set(METRICS), table
    return Run(name, unit[1] == "epoch", float(unit[2]) if unit[2] else None, points)


def read_samples(page: str) -> dict[str, Sample]:
    """Return the samples of the page by the names of their sections."""
    return {
        match["name"]: Sample(
            file=match["file"] or "sample.log",
            log=match["log"],
            language=match["language"],
            runs=[read_table(*found) for found in TABLE.findall(match["tables"])],
        )
        for match in SECTION.finditer(page)
    }


SAMPLES = read_samples(PAGE.read_text())


def points_of(history: History, by_epoch: bool) -> dict[str, list[tuple[float, float]]]:
    """Return the points of the metrics in METRICS that were read, at steps or at epochs."""
    scale = history.facts.steps_per_epoch if by_epoch else 1
    return {
        metric: [(at / (scale or math.nan), value) for at, value in zip(*history[metric], strict=True)]
        for metric in METRICS
        if len(history[metric])
    }


def check_sample(sample: Sample, histories: list[History]) -> None:
    """Check that the histories have exactly the points of the sample."""
    for run, history in zip(sample.runs, histories, strict=True):
        assert history.facts.name.endswith(run.name)
        read = points_of(history, run.by_epoch)
        for metric in METRICS:
            expected, found = run.points.get(metric, []), read.get(metric, [])
            positions = pytest.approx([at for at, _ in expected], abs=EPOCH_TOLERANCE if run.by_epoch else 0)
            assert [at for at, _ in found] == positions, f"{metric}: {found}"
            assert [value for _, value in found] == pytest.approx([value for _, value in expected]), (
                f"{metric}: {found}"
            )
        if not run.by_epoch:
            assert history.facts.steps_unit == "steps"
        if run.steps_per_epoch:
            assert history.facts.steps_per_epoch == pytest.approx(run.steps_per_epoch, rel=0.01)


def add_prefix(prefix: str) -> Callable[[str], str]:
    return lambda log: "".join(prefix + line for line in log.splitlines(keepends=True))


INSTALLER = (
    "Collecting torch==2.9.1\n  Downloading torch-2.9.1-cp312-none-any.whl (79.1 MB)\n"
    "     ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━ 79.1/79.1 MB 41.2 MB/s eta 0:00:00\n"
    "Successfully installed torch-2.9.1\n"
)
WEIGHTS = (
    "Loading weights:   0%|          | 0/28 [00:00<?, ?it/s]\rLoading weights: 100%|##########| 28/28 "
    "[00:00<00:00, 91.20it/s]\nnumber of parameters: 123.59M\n"
)
TRACEBACK = (
    'Traceback (most recent call last):\n  File "train.py", line 81, in <module>\n'
    "    loss = train(step=900)\nKeyboardInterrupt\n"
)
HARMLESS_CHANGES: dict[str, Callable[[str], str]] = {
    "CRLF": lambda log: log.replace("\n", "\r\n"),
    "colours": lambda log: re.sub(r"(?<![\w.])([A-Za-z]\w+)", "\x1b[1;32m\\1\x1b[0m", log),
    "rank": add_prefix("[rank0]: "),
    "time and host": add_prefix("2031-06-07T10:00:00.123456789Z node-07 trainer[812]: "),
    "quoted": add_prefix("> "),
    "pasted": lambda log: (
        f"Hi, my loss does not fall any further, with 2 GPUs. What can I do?\n\n```\n{log}```\nThanks!\n"
    ),
    "installer": lambda log: INSTALLER + log,
    "weights": lambda log: WEIGHTS + log,
    "traceback": lambda log: log + TRACEBACK,
}
CHANGES_OF_TABLES = ("CRLF", "pasted")
CHANGED_SAMPLES = [
    (name, change)
    for name, sample in SAMPLES.items()
    for change in HARMLESS_CHANGES
    if sample.language == "text" or (sample.language in ("tsv", "markdown") and change in CHANGES_OF_TABLES)
]


def replace_last_loss(sample: Sample, value: str) -> str | None:
    """Return the log with another value of the last training loss; None if its digits are not in the log."""
    points = sample.runs[0].points.get("train/loss")
    tokens = re.findall(r"(?<![\w.])\d+\.\d+(?:[eE][-+]?\d+)?(?![\w.])", sample.log) if points else []
    found = next((token for token in tokens if points and float(token) == points[-1][1]), None)
    return sample.log.replace(found, value) if found else None


NO_LOGS = {
    "settings": "model: gpt2\nlr: 3e-4\nmax_steps: 1000\nloss: mse\nval_loss_target: 3.1\nwarmup_steps: 100\n",
    "arguments": "Namespace(batch_size=32, epochs=90, lr=0.1, print_freq=10, label_smoothing=0.0, loss_weight=0.5)\n",
    "program": "for step in range(1000):\n    loss = 0.0\n    lr = 3e-4\n    print(step, loss)\n",
    "help": "  --lr LR               peak learning rate (default: 0.0003)\n  --steps STEPS         (default: 1000)\n"
    "  --val-loss-goal GOAL  stop below this loss (default: 3.28)\n",
    "tests": "tests/test_loss.py::test_step[1] PASSED [ 50%]\ntests/test_loss.py::test_step[2] PASSED [100%]\n"
    "2 passed in 3.41s\n",
    "commits": "9f31c02 Lower the LR to 3e-4\n81ab120 Log the loss every 10 steps\n4410fae Fix the loss of step 0\n",
    "packages": "Package    Version\n---------- -------\nnumpy      2.3.1\ntorch      2.9.1\nscipy      1.16.0\n",
    "layers": "Layer (type)        Output Shape      Param #\n=====================================\n"
    "dense (Dense)       (None, 128)       100480\ndense_1 (Dense)     (None, 10)        1290\n",
    "report": "              precision    recall  f1-score   support\n"
    "           0       0.91      0.88      0.90       120\n"
    "           1       0.87      0.91      0.89       110\n    accuracy                           0.89       230\n",
    "prose": "We trained for 3 epochs with a learning rate of 2e-5 and a batch size of 16.\n"
    "The loss fell as expected, and on step 4 of the recipe we froze the encoder.\n",
}


def test_page_has_a_sample_for_every_section() -> None:
    page = re.sub(r"^```.*?^```", "", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    names = re.findall(r"^### (.+)$", page, re.MULTILINE)
    assert names == list(SAMPLES)
    assert len(SAMPLES) >= 60


@pytest.mark.parametrize("name", SAMPLES)
def test_sample_is_read_to_the_number(name: str, tmp_path: Path) -> None:
    sample = SAMPLES[name]
    (tmp_path / sample.file).write_text(sample.log)
    check_sample(sample, read_histories(tmp_path / sample.file))


@pytest.mark.parametrize(("name", "change"), CHANGED_SAMPLES)
def test_sample_is_read_with_a_harmless_change(name: str, change: str, tmp_path: Path) -> None:
    sample = SAMPLES[name]
    (tmp_path / sample.file).write_bytes(HARMLESS_CHANGES[change](sample.log).encode())
    check_sample(sample, read_histories(tmp_path / sample.file))


@pytest.mark.parametrize("name", [name for name, sample in SAMPLES.items() if replace_last_loss(sample, "nan")])
def test_loss_that_is_not_a_number_is_read(name: str, tmp_path: Path) -> None:
    sample = SAMPLES[name]
    (tmp_path / sample.file).write_text(replace_last_loss(sample, "nan") or "")
    history, run = read_histories(tmp_path / sample.file)[0], sample.runs[0]
    position, loss = points_of(history, run.by_epoch)["train/loss"][-1]
    assert position == pytest.approx(run.points["train/loss"][-1][0], abs=EPOCH_TOLERANCE)
    assert loss == math.inf


@pytest.mark.parametrize("kind", NO_LOGS)
def test_text_without_a_curve_is_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "sample.log").write_text(NO_LOGS[kind])
    with pytest.raises(ValueError, match=r"sample\.log"):
        read_histories(tmp_path / "sample.log")
