"""JSON of any shape: columns as lists, objects by number, one after another, cut off, with text between."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.diagnosis.history import History
from harness.importers import read_histories, read_history

TRAIN, VAL = [2.0, 1.5, 1.25, 1.0], [2.1, 1.75, 1.5, 1.625]
EPOCHS = [1, 2, 3, 4]
ROWS = [{"epoch": at, "train_loss": loss, "val_loss": val} for at, loss, val in zip(EPOCHS, TRAIN, VAL, strict=True)]


def read_text(folder: Path, text: str) -> History:
    (folder / "history.json").write_text(text)
    return read_history(folder / "history.json")


def read_value(folder: Path, value: Any, indent: int | None = None) -> History:
    return read_text(folder, json.dumps(value, indent=indent))


KERAS = {"loss": TRAIN, "accuracy": [0.4, 0.5, 0.6, 0.7], "val_loss": VAL, "lr": [1e-3] * 4}
DOCUMENTS: dict[str, Any] = {
    "Keras": KERAS,
    "Keras with settings": {"params": {"epochs": 4}, "history": KERAS},
    "lists with an axis": {"epochs": EPOCHS, "train_losses": TRAIN, "val_losses": VAL},
    "nested lists": {"train": {"loss": TRAIN, "acc": TRAIN}, "val": {"loss": VAL}},
    "by row number, as pandas": {"loss": dict(enumerate(TRAIN)), "val_loss": dict(enumerate(VAL))},
    "by epoch": {str(row["epoch"]): {"train_loss": row["train_loss"], "val_loss": row["val_loss"]} for row in ROWS},
    "by name of the epoch": {f"epoch_{row['epoch']}": {"train": {"loss": row["train_loss"]}, "val": row["val_loss"]}
                             for row in ROWS},
    "list of objects": ROWS,
    "list in an object": {"model": "resnet", "args": {"lr": 1e-3, "sizes": [1, 2]}, "log": ROWS},
    "nested objects": [{"epoch": row["epoch"], "train": {"loss": row["train_loss"]}, "valid": {"loss": row["val_loss"]}}
                       for row in ROWS],
    "XGBoost": {"train": {"logloss": TRAIN}, "eval": {"logloss": VAL}},
    "numbers as text": [{name: str(value) for name, value in row.items()} for row in ROWS],
}  # fmt: skip


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("value", DOCUMENTS.values(), ids=DOCUMENTS)
def test_document_is_read_by_epochs(value: Any, indent: int | None, tmp_path: Path) -> None:
    history = read_value(tmp_path, value, indent)
    assert history["train/loss"].values.tolist() == TRAIN
    assert history["val/loss"].values.tolist() == VAL
    assert history["train/loss"].steps.tolist() == EPOCHS
    assert history.facts.steps_unit == "epochs"


def test_validation_losses_of_a_shorter_list_are_spread_and_said_to_be(tmp_path: Path) -> None:
    losses = [3 - at / 100 for at in range(100)]
    history = read_value(tmp_path, {"train_loss": losses, "val_loss": [3.1, 2.9, 2.7, 2.6]})
    assert history["val/loss"].steps.tolist() == [25, 50, 75, 100]
    assert "val_loss: 4 values spread evenly over 100" in history.facts.source


def test_a_long_list_holds_rows_and_no_epochs(tmp_path: Path) -> None:
    assert read_value(tmp_path, {"loss": [3 - at / 9000 for at in range(5000)]}).facts.steps_unit == "rows"
    assert read_value(tmp_path, {"step_losses": TRAIN}).facts.steps_unit == "rows"


LINES = [{"step": at, "loss": loss} for at, loss in zip(EPOCHS, TRAIN, strict=True)]
SEQUENCES = {
    "lines": "\n".join(map(json.dumps, LINES)),
    "indented": "\n".join(json.dumps(line, indent=2) for line in LINES),
    "without line ends": "".join(map(json.dumps, LINES)),
    "with commas": ",\n".join(map(json.dumps, LINES)) + ",",
    "text between": "\nsaved checkpoint.pt\n".join(map(json.dumps, LINES)),
    "text before": "start of the training\n" + "\n".join(map(json.dumps, LINES)),
    "indented, text between": "\nsaved checkpoint.pt\n".join(json.dumps(line, indent=2) for line in LINES),
    "an incomplete last line": "\n".join(map(json.dumps, LINES)) + '\n{"step": 5, "lo',
    "an incomplete last object": "\n".join(json.dumps(line, indent=2) for line in LINES) + '\n{\n  "step": 5,',
    "blank lines": "\n\n".join(map(json.dumps, LINES)) + "\n\n",
}


@pytest.mark.parametrize("text", SEQUENCES.values(), ids=SEQUENCES)
def test_objects_one_after_another(text: str, tmp_path: Path) -> None:
    history = read_text(tmp_path, text)
    assert history["train/loss"].steps.tolist() == EPOCHS
    assert history["train/loss"].values.tolist() == TRAIN


def test_lines_of_text_are_counted_in_the_source(tmp_path: Path) -> None:
    source = read_text(tmp_path, SEQUENCES["text between"]).facts.source
    assert "3 lines without JSON left out, such as line 2: 'saved checkpoint.pt'" in source


@pytest.mark.parametrize("spelling", ["NaN", "nan", "Infinity", "inf", "-nan", '"NaN"', '"nan"'])
def test_losses_that_are_not_finite(spelling: str, tmp_path: Path) -> None:
    text = f'{{"step": 1, "loss": 2.5}}\n{{"step": 2, "loss": {spelling}}}\n{{"step": 3, "loss": {spelling}}}'
    assert read_text(tmp_path, text)["train/loss"].values.tolist() == [2.5, float("inf"), float("inf")]


def test_config_above_a_text_log_is_no_document(tmp_path: Path) -> None:
    log = "\n".join(f"step {at} loss {3 - at / 10}" for at in range(1, 30))
    assert len(read_text(tmp_path, '{\n  "lr": 0.001,\n  "steps": 29\n}\n' + log)["train/loss"]) == 29


STATE = {"log_history": [{"step": at, "loss": 3 - at / 100, "epoch": at / 10} for at in range(1, 60)]}
TEXTS = [json.dumps(STATE, indent=2), json.dumps(ROWS * 9), json.dumps({"a": KERAS}, indent=1)]


@pytest.mark.parametrize("share", [0.3, 0.55, 0.551, 0.552, 0.553, 0.9, 0.999])
@pytest.mark.parametrize("text", TEXTS)
def test_document_that_is_cut_off_is_refused_with_the_place(text: str, share: float, tmp_path: Path) -> None:
    text = text[: int(share * len(text))]
    line = text.rstrip().count("\n") + 1
    with pytest.raises(ValueError, match=f"JSON that is cut off in line {line}, after [0-9,]+ bytes, at .*; copy"):
        read_text(tmp_path, text)


NO_CURVES: dict[str, tuple[Any, str]] = {
    "results": ({"epoch": 3.0, "train_loss": 1.2, "eval_loss": 1.3}, "it has only final values: epoch, train_loss"),
    "configuration": ({"model_type": "gpt2", "n_layer": 12, "vocab": {"a": 1}}, "it has the keys model_type, n_layer"),
    "accuracies": ({"acc": TRAIN, "epoch": EPOCHS}, "JSON without a curve of a loss"),
}


@pytest.mark.parametrize(("value", "message"), NO_CURVES.values(), ids=NO_CURVES)
def test_document_without_a_curve_is_refused(value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_value(tmp_path, value, indent=1)


def test_invalid_document_is_refused_with_the_place(tmp_path: Path) -> None:
    text = json.dumps(ROWS, indent=1).replace('"epoch": 2,', '"epoch": 2;')
    with pytest.raises(ValueError, match="invalid JSON: line 8, column 13: "):
        read_text(tmp_path, text)


def test_metrics_in_one_object_each(tmp_path: Path) -> None:
    """Read the metrics of MLflow's REST API and of an export from Comet."""
    metrics = [{"key": key, "value": value, "step": at, "timestamp": 9e9 + at}
               for key, values in (("loss", TRAIN), ("val_loss", VAL)) for at, value in enumerate(values)]  # fmt: skip
    history = read_value(tmp_path, {"run": {"id": 4}, "metrics": metrics})
    assert history["train/loss"].values.tolist() == TRAIN
    assert history["val/loss"].steps.tolist() == [0, 1, 2, 3]


def test_two_runs_in_json_lines(tmp_path: Path) -> None:
    runs = [{"run": name, "step": at, "loss": loss + bonus} for name, bonus in (("a", 0), ("b", 1))
            for at, loss in enumerate(TRAIN)]  # fmt: skip
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, runs)))
    assert [history.facts.name for history in read_histories(tmp_path / "log.jsonl")] == ["log a", "log b"]
