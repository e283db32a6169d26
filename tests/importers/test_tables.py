"""CSV and JSONL, as loggers and dashboards write them."""

import csv
import json
from pathlib import Path

import pytest

from harness.importers import read_history


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "a file"  # what a file is called says nothing
    path.write_text(text, encoding="utf-8-sig")
    return path


@pytest.mark.parametrize("mark", [",", "\t", ";"])
def test_a_csv_is_read_by_the_names_of_its_columns(tmp_path, mark) -> None:
    rows = ["Step,Train Loss,learning-rate,note", "1,3.2,1e-4,a", "2,3.1,,b", "3,nan,2e-4,c"]
    history = read_history(written(tmp_path, "\n".join(rows).replace(",", mark)))
    assert history["train/loss"].values.tolist() == [3.2, 3.1, float("inf")]
    assert history["train/lr"].steps.tolist() == [1, 3]
    assert history.facts.peak_lr == 2e-4
    assert "3 rows, steps from 'Step'" in history.facts.source


def test_an_export_of_a_dashboard_loses_its_prefixes_and_extremes(tmp_path) -> None:
    text = '"Step","run 7 - eval/loss","run 7 - eval/loss__MIN","run 7 - eval/loss__MAX"\n"5","3.5","3.4","3.6"\n'
    history = read_history(written(tmp_path, text))
    assert history["val/loss"].values.tolist() == [3.5]


def test_jsonl_may_be_nested_and_cut_off_at_its_end(tmp_path) -> None:
    rows = [{"_step": 5, "train": {"loss": 3.5}, "epoch": 0.5}, {"_step": 10, "eval": {"loss": 3.6}, "epoch": 1.0}]
    history = read_history(written(tmp_path, "\n".join(map(json.dumps, rows)) + '\n{"_step": 15, "tr'))
    assert history["train/loss"].steps.tolist() == [5]
    assert history["val/loss"].values.tolist() == [3.6]
    assert history.facts.steps_per_epoch == 10


def test_a_json_list_of_rows_is_read_too(tmp_path) -> None:
    rows = [{"iteration": n, "loss": 5 - n} for n in range(3)]
    assert read_history(written(tmp_path, json.dumps(rows, indent=1)))["train/loss"].values.tolist() == [5, 4, 3]


def test_of_two_names_for_one_metric_the_one_with_more_points_counts(tmp_path) -> None:
    rows = [*({"step": n, "loss": 5 - n} for n in range(1, 4)), {"step": 3, "train_loss": 3.0}]
    history = read_history(written(tmp_path, "\n".join(map(json.dumps, rows))))
    assert history["train/loss"].values.tolist() == [4, 3, 2]


EPOCHS = [(epoch, batch, 10 - 4 * epoch - batch) for epoch in range(3) for batch in range(4)]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize(
    ("names", "is_latest_first"), [("epoch,batch,loss", False), ("epoch,batch,loss", True), ("batch,loss", False)]
)
def test_steps_that_begin_anew_in_every_epoch_are_counted_on(tmp_path, names, first, is_latest_first) -> None:
    rows = [(epoch, batch + first, loss)[-len(names.split(",")) :] for epoch, batch, loss in EPOCHS]
    lines = [",".join(map(str, row)) for row in rows]
    history = read_history(written(tmp_path, "\n".join([names, *(lines[::-1] if is_latest_first else lines)])))
    assert history["train/loss"].steps.tolist() == list(range(first, first + 12))
    assert history["train/loss"].values.tolist() == list(range(10, -2, -1))
    assert "from 'batch', which begin anew in every epoch and are counted on" in history.facts.source
    assert history.facts.steps_per_epoch == (4 if "epoch" in names else None)


def test_epochs_that_are_logged_at_every_hundredth_batch_from_0_keep_their_length(tmp_path) -> None:
    rows = [{"epoch": epoch, "step": step, "loss": 5 - epoch} for epoch in (1, 2) for step in (0, 100, 200)]
    history = read_history(written(tmp_path, "\n".join(map(json.dumps, rows))))
    assert history["train/loss"].steps.tolist() == [0, 100, 200, 300, 400, 500]


def test_an_evaluation_that_is_written_down_at_the_end_of_the_file_belongs_to_its_own_epoch(tmp_path) -> None:
    rows = [*(f"{epoch},{batch},3.5," for epoch in (1, 2) for batch in (1, 2)), "1,2,,3.75", "2,2,,3.25"]
    history = read_history(written(tmp_path, "\n".join(["epoch,batch,loss,val_loss", *rows])))
    assert history["train/loss"].steps.tolist() == [1, 2, 3, 4]
    assert history["val/loss"].steps.tolist() == [2, 4]


@pytest.mark.parametrize("steps", [(3, 2, 1), (2, 3, 1)])
def test_where_only_the_order_of_the_rows_is_wrong_they_are_put_in_order(tmp_path, steps) -> None:
    rows = (f"{step},{5 - step}" for step in steps)
    history = read_history(written(tmp_path, "\n".join(["step,loss", *rows])))
    assert history["train/loss"].values.tolist() == [4, 3, 2]
    assert "left out" not in history.facts.source


def test_steps_that_were_gone_through_again_are_those_of_the_last_time_and_that_is_said(tmp_path) -> None:
    rows = (f"{step},{loss}" for step, loss in ((1, 4), (2, 3), (3, 9), (2, 3.5), (3, 3.25)))
    history = read_history(written(tmp_path, "\n".join(["step,loss", *rows])))
    assert history["train/loss"].values.tolist() == [4, 3.5, 3.25]
    assert history.facts.source.endswith("; 2 of 5 points of train/loss left out, as their steps come again later")


@pytest.mark.parametrize(
    ("column", "in_all", "of_a_step"),
    [([100, 200, 300], [100, 200, 300], None), ([4096] * 3, [], 4096), ([0] * 3, [], None), ([9, 8, 9], [], None)],
)
def test_tokens_are_those_of_the_whole_run_only_if_they_rise(tmp_path, column, in_all, of_a_step) -> None:
    rows = (f"{step},{5 - step},{tokens}" for step, tokens in enumerate(column, 1))
    history = read_history(written(tmp_path, "\n".join(["step,loss,tokens", *rows])))
    assert history["train/tokens"].values.tolist() == in_all
    assert history.facts.tokens_per_step == of_a_step


def test_steps_of_the_whole_run_come_before_those_of_an_epoch(tmp_path) -> None:
    text = '"batch","run 7 - train/global_step","run 7 - train/loss"\n1,1,3\n2,2,2\n1,3,1\n'
    history = read_history(written(tmp_path, text))
    assert history["train/loss"].steps.tolist() == [1, 2, 3]


def test_a_step_that_is_no_number_and_a_cell_that_is_too_long_are_named_with_their_line_and_a_remedy(tmp_path) -> None:
    lines = ['{"step": 1, "loss": 2}', "", '{"step": NaN, "loss": 1}', '{"step": 3, "loss": 1}']
    with pytest.raises(ValueError, match="a file, line 3: the step is nan; give it a number, or leave that row out"):
        read_history(written(tmp_path, "\n".join(lines)))
    limit = csv.field_size_limit(100_000)  # of the process: sources of documents raise it
    try:
        with pytest.raises(ValueError, match=r"a file, line 3: field larger than .*; leave that column or row out"):
            read_history(written(tmp_path, f"step,loss,note\n1,2,a\n2,3,{'a' * 150_000}\n"))
    finally:
        csv.field_size_limit(limit)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("when,Value\n1,3.2\n", "no column of this CSV names steps, such as step, .*; it has when, Value"),
        ("step,speed\n1,3.2\n", "no column of this CSV names losses, .*; it has step, speed"),
        ('{"a": {"b": 1}}\n{"a": {"b": 2}}', "no column of this JSONL names steps, .*; it has a/b"),
        ('{"step": 1, "loss": 2}\nnot json\n{"step": 2}', "a file: line 2 is no JSON: 'not json'"),
        ('{\n"a": 1\n}', "JSON without the log_history"),
        ("", "is empty"),
        ("\0\1\2", "holds no text"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_there_is(tmp_path, text, said) -> None:
    with pytest.raises(ValueError, match=said):
        read_history(written(tmp_path, text))
