"""CSV and JSONL, as loggers and dashboards write them."""

import json
from pathlib import Path

import pytest

from harness.readers import read


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "a file"  # what a file is called says nothing
    path.write_text(text, encoding="utf-8-sig")
    return path


@pytest.mark.parametrize("mark", [",", "\t", ";"])
def test_a_csv_is_read_by_the_names_of_its_columns(tmp_path, mark) -> None:
    rows = ["Step,Train Loss,learning-rate,note", "1,3.2,1e-4,a", "2,3.1,,b", "3,nan,2e-4,c"]
    history = read(written(tmp_path, "\n".join(rows).replace(",", mark)))
    assert history["train/loss"].values.tolist() == [3.2, 3.1, float("inf")]
    assert history["train/lr"].steps.tolist() == [1, 3]
    assert history.facts.peak_lr == 2e-4
    assert "3 rows, steps from 'Step'" in history.facts.source


def test_an_export_of_a_dashboard_loses_its_prefixes_and_extremes(tmp_path) -> None:
    text = '"Step","run 7 - eval/loss","run 7 - eval/loss__MIN","run 7 - eval/loss__MAX"\n"5","3.5","3.4","3.6"\n'
    history = read(written(tmp_path, text))
    assert history["val/loss"].values.tolist() == [3.5]


def test_jsonl_may_be_nested_and_cut_off_at_its_end(tmp_path) -> None:
    rows = [{"_step": 5, "train": {"loss": 3.5}, "epoch": 0.5}, {"_step": 10, "eval": {"loss": 3.6}, "epoch": 1.0}]
    history = read(written(tmp_path, "\n".join(map(json.dumps, rows)) + '\n{"_step": 15, "tr'))
    assert history["train/loss"].steps.tolist() == [5]
    assert history["val/loss"].values.tolist() == [3.6]
    assert history.facts.steps_per_epoch == 10


def test_a_json_list_of_rows_is_read_too(tmp_path) -> None:
    rows = [{"iteration": n, "loss": 5 - n} for n in range(3)]
    assert read(written(tmp_path, json.dumps(rows, indent=1)))["train/loss"].values.tolist() == [5, 4, 3]


def test_of_two_names_for_one_metric_the_one_with_more_points_counts(tmp_path) -> None:
    rows = [*({"step": n, "loss": 5 - n} for n in range(1, 4)), {"step": 3, "train_loss": 3.0}]
    history = read(written(tmp_path, "\n".join(map(json.dumps, rows))))
    assert history["train/loss"].values.tolist() == [4, 3, 2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("when,Value\n1,3.2\n", "no column of this CSV names steps, such as step, .*; it has when, Value"),
        ("step,speed\n1,3.2\n", "no column of this CSV names losses, .*; it has step, speed"),
        ('{"a": {"b": 1}}\n{"a": {"b": 2}}', "no column of this JSONL names steps, .*; it has a/b"),
        ('{"step": 1, "loss": 2}\nnot json\n{"step": 2}', "line 2 is no JSON: 'not json'"),
        ('{\n"a": 1\n}', "JSON without the log_history"),
        ("", "is empty"),
        ("\0\1\2", "holds no text"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_there_is(tmp_path, text, said) -> None:
    with pytest.raises(ValueError, match=said):
        read(written(tmp_path, text))
