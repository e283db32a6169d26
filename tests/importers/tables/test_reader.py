"""CSV and JSONL, as loggers and dashboards write them."""

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.diagnosis.history import History
from harness.importers import read_history


def read_text(tmp_path: Path, text: str) -> History:
    path = tmp_path / "a file"  # without a suffix: the content decides
    path.write_text(text, encoding="utf-8-sig")
    return read_history(path)


def read_rows(tmp_path: Path, rows: Iterable[Mapping[str, Any]]) -> History:
    return read_text(tmp_path, "\n".join(map(json.dumps, rows)))


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_csv_columns_are_found_by_name(tmp_path: Path, delimiter: str) -> None:
    rows = ["Step,Train Loss,learning-rate,note", "1,3.2,1e-4,a", "2,3.1,,b", "3,nan,2e-4,c"]
    history = read_text(tmp_path, "\n".join(rows).replace(",", delimiter))
    assert history["train/loss"].values.tolist() == [3.2, 3.1, float("inf")]
    assert history["train/lr"].steps.tolist() == [1, 3]
    assert history.facts.peak_lr == 2e-4
    assert "3 rows, steps from column 'Step'" in history.facts.source


def test_prefixes_and_extremes_of_a_wandb_export_are_dropped(tmp_path: Path) -> None:
    text = '"Step","run 7 - eval/loss","run 7 - eval/loss__MIN","run 7 - eval/loss__MAX"\n"5","3.5","3.4","3.6"\n'
    assert read_text(tmp_path, text)["val/loss"].values.tolist() == [3.5]


def test_nested_jsonl_with_a_truncated_last_line(tmp_path: Path) -> None:
    rows = [{"_step": 5, "train": {"loss": 3.5}, "epoch": 0.5}, {"_step": 10, "eval": {"loss": 3.6}, "epoch": 1.0}]
    history = read_text(tmp_path, "\n".join(map(json.dumps, rows)) + '\n{"_step": 15, "tr')
    assert history["train/loss"].steps.tolist() == [5]
    assert history["val/loss"].values.tolist() == [3.6]
    assert history.facts.steps_per_epoch == 10


def test_json_list(tmp_path: Path) -> None:
    rows = [{"iteration": n, "loss": 5 - n} for n in range(3)]
    assert read_text(tmp_path, json.dumps(rows, indent=1))["train/loss"].values.tolist() == [5, 4, 3]


def test_of_two_names_for_a_metric_the_one_with_more_points_is_used(tmp_path: Path) -> None:
    history = read_rows(tmp_path, [*({"step": n, "loss": 5 - n} for n in range(1, 4)), {"step": 3, "train_loss": 3.0}])
    assert history["train/loss"].values.tolist() == [4, 3, 2]


EPOCHS = [(epoch, batch, 10 - 4 * epoch - batch) for epoch in range(3) for batch in range(4)]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize(
    ("names", "is_latest_first"), [("epoch,batch,loss", False), ("epoch,batch,loss", True), ("batch,loss", False)]
)
def test_steps_that_restart_in_every_epoch(tmp_path: Path, names: str, first: int, is_latest_first: bool) -> None:
    rows = [(epoch, batch + first, loss)[-len(names.split(",")) :] for epoch, batch, loss in EPOCHS]
    lines = [",".join(map(str, row)) for row in rows]
    history = read_text(tmp_path, "\n".join([names, *(lines[::-1] if is_latest_first else lines)]))
    assert history["train/loss"].steps.tolist() == list(range(first, first + 12))
    assert history["train/loss"].values.tolist() == list(range(10, -2, -1))
    assert history.facts.source.endswith("steps from column 'batch', steps restart in every epoch")
    assert history.facts.steps_per_epoch == (4 if "epoch" in names else None)


def test_epochs_logged_at_every_100th_batch_from_0_keep_their_length(tmp_path: Path) -> None:
    history = read_rows(
        tmp_path, ({"epoch": epoch, "step": step, "loss": 5 - epoch} for epoch in (1, 2) for step in (0, 100, 200))
    )
    assert history["train/loss"].steps.tolist() == [0, 100, 200, 300, 400, 500]


def test_evaluations_at_the_end_of_the_file_belong_to_their_epochs(tmp_path: Path) -> None:
    rows = [*(f"{epoch},{batch},3.5," for epoch in (1, 2) for batch in (1, 2)), "1,2,,3.75", "2,2,,3.25"]
    history = read_text(tmp_path, "\n".join(["epoch,batch,loss,val_loss", *rows]))
    assert history["train/loss"].steps.tolist() == [1, 2, 3, 4]
    assert history["val/loss"].steps.tolist() == [2, 4]


@pytest.mark.parametrize("steps", [(3, 2, 1), (2, 3, 1)])
def test_unordered_rows_are_sorted(tmp_path: Path, steps: tuple[int, ...]) -> None:
    history = read_rows(tmp_path, ({"step": step, "loss": 5 - step} for step in steps))
    assert history["train/loss"].values.tolist() == [4, 3, 2]
    assert "dropped" not in history.facts.source


def test_repeated_steps_replace_the_earlier_ones(tmp_path: Path) -> None:
    rows = ((1, 4), (2, 3), (3, 9), (2, 3.5), (3, 3.25))
    history = read_rows(tmp_path, ({"step": step, "loss": loss} for step, loss in rows))
    assert history["train/loss"].values.tolist() == [4, 3.5, 3.25]
    assert history.facts.source.endswith("; train/loss: 2 of 5 points dropped, their steps were repeated")


@pytest.mark.parametrize(
    ("column", "cumulative", "per_step"),
    [([100, 200, 300], [100, 200, 300], None), ([4096] * 3, [], 4096), ([0] * 3, [], None), ([9, 8, 10], [], 9)],
)
def test_tokens_are_cumulative_or_per_step(
    tmp_path: Path, column: list[int], cumulative: list[int], per_step: int | None
) -> None:
    rows = ({"step": step, "loss": 5 - step, "tokens": tokens} for step, tokens in enumerate(column, 1))
    history = read_rows(tmp_path, rows)
    assert history["train/tokens"].values.tolist() == cumulative
    assert history.facts.tokens_per_step == per_step


def test_global_steps_are_preferred_to_batches(tmp_path: Path) -> None:
    text = '"batch","run 7 - train/global_step","run 7 - train/loss"\n1,1,3\n2,2,2\n1,3,1\n'
    assert read_text(tmp_path, text)["train/loss"].steps.tolist() == [1, 2, 3]


def test_invalid_cells_are_reported_with_their_line(tmp_path: Path) -> None:
    lines = ['{"step": 1, "loss": 2}', "", '{"step": NaN, "loss": 1}', '{"step": 3, "loss": 1}']
    with pytest.raises(ValueError, match="a file, line 3: the step is nan; set it to a number or delete the row"):
        read_text(tmp_path, "\n".join(lines))
    limit = csv.field_size_limit(100_000)  # global; harness.data.sources raises it
    try:
        with pytest.raises(ValueError, match=r"a file, line 3: field larger than .*; delete that column or row"):
            read_text(tmp_path, f"step,loss,note\n1,2,a\n2,3,{'a' * 150_000}\n")
    finally:
        csv.field_size_limit(limit)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("when,Value\n1,3.2\n", "this CSV has no column for losses, .*; its numeric columns: when, Value"),
        ("step,speed\n1,3.2\n", "this CSV has no column for losses, .*; its numeric columns: step, speed"),
        ('{"a": {"b": 1}}\n{"a": {"b": 2}}', "this JSONL has no column for losses, .*; its numeric columns: a/b"),
        (
            '{"step": 1, "loss": 2}\nnot json\n[1, 2]',
            "a file: 2 of 3 lines are no JSON objects, such as line 2: 'not json'",
        ),
        ('{\n"a": 1\n}', "JSON without a curve of a loss; it has only final values: a; expected a list of objects"),
        ("", "the file is empty"),
        ("\0\1\2", "not a text file"),
    ],
)
def test_unreadable_files_are_rejected(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_text(tmp_path, text)
