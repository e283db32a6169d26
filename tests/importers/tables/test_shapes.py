"""Tables besides one row per step of one run: one metric per row, splits, ranks, runs side by side, one run per row."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.diagnosis.history import History
from harness.importers import read_histories


def write_table(folder: Path, rows: Sequence[Sequence[object]], name: str = "table.csv") -> Path:
    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)
    (folder / name).write_text(buffer.getvalue())
    return folder / name


def read_runs(folder: Path, rows: Sequence[Sequence[object]], name: str = "table.csv") -> dict[str, History]:
    return {history.facts.name: history for history in read_histories(write_table(folder, rows, name))}


def points(history: History, name: str) -> list[tuple[int, float]]:
    return list(zip(history[name].steps.tolist(), history[name].values.tolist(), strict=True))


@pytest.mark.parametrize("words", [("train", "valid"), ("Training", "Validation"), ("TRAIN", "eval"), ("tr", "dev")])
@pytest.mark.parametrize("column", ["split", "phase", "mode", "Stage", "subset"])
def test_a_column_of_splits_makes_two_curves(words: tuple[str, str], column: str, tmp_path: Path) -> None:
    rows: list[Sequence[object]] = [("epoch", column, "loss", "acc", "lr")]
    for epoch in range(1, 6):
        rows += [(epoch, words[0], 2 / epoch, 0.5, 1e-3), (epoch, words[1], 2.1 / epoch, 0.4, 0)]
    (history,) = read_runs(tmp_path, rows).values()
    assert points(history, "train/loss") == [(epoch, 2 / epoch) for epoch in range(1, 6)]
    assert points(history, "val/loss") == [(epoch, 2.1 / epoch) for epoch in range(1, 6)]
    assert history["train/lr"].values.tolist() == [1e-3] * 5


def test_a_test_split_is_left_out_beside_a_validation_split(tmp_path: Path) -> None:
    rows: list[Sequence[object]] = [("step", "set", "nll")]
    rows += [(step, name, step + at) for step in (1, 2, 3) for at, name in enumerate(("train", "val", "test"))]
    (history,) = read_runs(tmp_path, rows).values()
    assert points(history, "val/loss") == [(1, 2), (2, 3), (3, 4)]


@pytest.mark.parametrize("column", ["run", "run_name", "Name", "seed", "version", "experiment"])
def test_a_column_of_runs_separates_them(column: str, tmp_path: Path) -> None:
    rows: list[Sequence[object]] = [("step", column, "train_loss")]
    rows += [(step, run, 3 - 0.1 * step * (run + 1)) for step in range(8) for run in range(3)]
    runs = read_runs(tmp_path, rows)
    assert list(runs) == ["table 0", "table 1", "table 2"]
    assert points(runs["table 1"], "train/loss")[-1] == (7, pytest.approx(1.6))


def test_a_column_with_one_run_changes_nothing(tmp_path: Path) -> None:
    rows: list[Sequence[object]] = [("step", "run", "loss"), *((step, "mine", 3 - step) for step in range(4))]
    assert list(read_runs(tmp_path, rows)) == ["table"]


@pytest.mark.parametrize("column", ["rank", "local_rank", "host", "process", "device"])
def test_rows_of_several_processes_are_averaged(column: str, tmp_path: Path) -> None:
    rows: list[Sequence[object]] = [("step", column, "loss")]
    rows += [(step, f"p{rank}", 3 - step / 10 + rank) for step in range(1, 6) for rank in (0, 1)]
    rows += [(6, "p0", 2.4), (6, "p1", math.nan)]
    (history,) = read_runs(tmp_path, rows).values()
    assert history["train/loss"].steps.tolist() == [1, 2, 3, 4, 5, 6]
    assert history["train/loss"].values[0] == pytest.approx(3.4)
    assert history["train/loss"].values[-1] == math.inf


def test_runs_side_by_side_with_their_minima(tmp_path: Path) -> None:
    metrics = ("train/loss", "eval/loss")
    names = [
        f"{run} - {metric}{end}" for run in ("big lr - 1", "small lr") for metric in metrics for end in ("", "__MIN")
    ]
    rows: list[Sequence[object]] = [("Step", *names)]
    for step in range(0, 50, 10):
        rows.append((step, 3 - step / 100, 9, "", "", 2 - step / 100, 9, 2.5 if step == 40 else "", ""))
    runs = read_runs(tmp_path, rows)
    assert list(runs) == ["table big lr - 1", "table small lr"]
    assert points(runs["table big lr - 1"], "train/loss")[-1] == (40, pytest.approx(2.6))
    assert points(runs["table small lr"], "val/loss") == [(40, 2.5)]


TABLES_OF_RUNS: dict[str, list[Sequence[object]]] = {
    "names": [("Name", "State", "steps", "loss"), *((f"run-{at}", "finished", 900, 3 - at / 9) for at in range(6))],
    "names and other lengths": [("run_id", "epoch", "val_loss"), ("a1", 9, 2.2), ("b7", 12, 2.1), ("c3", 7, 2.4)],
    "settings": [("lr", "batch_size", "val_loss"), (1e-3, 8, 2.0), (1e-3, 16, 2.1), (1e-4, 8, 2.3), (1e-4, 16, 2.2)],
    "the same last step": [("global_step", "train_loss", "val_loss"), *((5000, 1 + at, 1.5) for at in range(4))],
    "one fold per row": [("fold", "train_loss", "val_loss"), *((at, 0.3, 0.4 + at / 10) for at in range(5))],
}  # fmt: skip


@pytest.mark.parametrize("rows", TABLES_OF_RUNS.values(), ids=TABLES_OF_RUNS)
def test_table_of_runs_is_refused_with_the_reason(rows: list[Sequence[object]], tmp_path: Path) -> None:
    path = write_table(tmp_path, rows)
    with pytest.raises(ValueError, match="a table of runs: each row has the final numbers of one run") as error:
        read_histories(path)
    assert str(error.value).startswith(f"{path}: ")


def test_checkpoint_names_are_no_runs(tmp_path: Path) -> None:
    rows: list[Sequence[object]] = [("model", "step", "loss"), *((f"ckpt-{at}", at, 3 - at / 900) for at in (100, 200))]
    assert list(read_runs(tmp_path, rows)) == ["table"]


@pytest.mark.parametrize("is_by_metric", [True, False])
@pytest.mark.parametrize(("key", "value"), [("key", "value"), ("metric", "value"), ("metricName", "metricValue")])
def test_one_row_per_metric(key: str, value: str, is_by_metric: bool, tmp_path: Path) -> None:
    names = ("train_loss", "val_loss", "accuracy")
    rows = [(name, step, 3 - step / 10 + at) for step in range(1, 9) for at, name in enumerate(names)]
    if is_by_metric:
        rows.sort(key=lambda row: row[0])
    (history,) = read_runs(tmp_path, [(key, "step", value), *rows]).values()
    assert points(history, "train/loss") == [(step, 3 - step / 10) for step in range(1, 9)]
    assert points(history, "val/loss") == [(step, 3 - step / 10 + 1) for step in range(1, 9)]


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("run-fine_tune-tag-train_loss.csv", "train/loss"),
        ("run-.-tag-Loss_val.csv", "val/loss"),
        ("train_loss.csv", "train/loss"),
    ],
)
def test_chart_of_tensorboard_is_named_by_its_file(name: str, metric: str, tmp_path: Path) -> None:
    rows: list[Sequence[object]] = [("Wall time", "Step", "Value"), *((9e8 + at, at, 3 - at) for at in range(4))]
    (history,) = read_runs(tmp_path, rows, name).values()
    assert points(history, metric) == [(at, 3 - at) for at in range(4)]


def test_chart_of_tensorboard_without_a_name_is_refused(tmp_path: Path) -> None:
    path = write_table(tmp_path, [("Wall time", "Step", "Value"), (9e8, 1, 3.2), (9e8, 2, 3.1)], "download.csv")
    with pytest.raises(ValueError, match="does not say which metric it shows; rename it to tag"):
        read_histories(path)


PARTS = {
    "YOLO": (("train/box_loss", "train/cls_loss", "train/dfl_loss"), "the sum of train/box_loss"),
    "older YOLO": (("train/box_loss", "train/obj_loss", "train/cls_loss"), "the sum of train/box_loss"),
    "detectron2": (("loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"), "the sum of loss_cls"),
    "one other loss": (("contrastive_loss",), "train/loss is 'contrastive_loss'"),
}


@pytest.mark.parametrize(("parts", "note"), PARTS.values(), ids=PARTS)
def test_parts_of_a_loss_are_added(parts: tuple[str, ...], note: str, tmp_path: Path) -> None:
    rows: list[Sequence[object]] = [
        ("epoch", *parts),
        *((at, *(at + n for n in range(len(parts)))) for at in (1, 2, 3)),
    ]
    (history,) = read_runs(tmp_path, rows).values()
    assert history["train/loss"].values.tolist() == [sum(at + n for n in range(len(parts))) for at in (1, 2, 3)]
    assert note in history.facts.source


def test_a_total_is_preferred_to_its_parts(tmp_path: Path) -> None:
    rows: list[Sequence[object]] = [("iteration", "loss_cls", "loss_box_reg", "total_loss")]
    (history,) = read_runs(tmp_path, [*rows, *((at, 9, 9, 3 - at) for at in (1, 2))]).values()
    assert history["train/loss"].values.tolist() == [2, 1]


def test_losses_that_are_not_known_to_add_up_are_refused(tmp_path: Path) -> None:
    path = write_table(tmp_path, [("step", "generator_loss", "discriminator_loss"), (1, 2, 3), (2, 3, 4)])
    with pytest.raises(ValueError, match="several losses and no total: generator_loss, discriminator_loss;"):
        read_histories(path)
