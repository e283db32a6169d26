"""Metrics of programs of all kinds, by name and by default, at the end and while they run."""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from harness.importers.named_values import value_sources
from harness.importers.named_values.metric_lookup import MetricError
from harness.sweep.programs.command.metrics import MetricReader, MetricSpec, trial_environment
from tests.sweep.programs.command.outputs import CONFIGS, CSV, EPOCHS, ERRORS, FOUND, KERAS, MNIST, STEPS, TRAINER_BARS

MAXIMIZED = ("acc", "f1", "bleu", "reward", "map", "准确率")


@pytest.mark.parametrize("case", FOUND)
def test_metric_is_found(case: str, tmp_path: Path) -> None:
    text, metric, final, best, n_points, share = FOUND[case]
    output = tmp_path / "output.log"
    output.write_text(text)
    direction: Any = "maximize" if any(word in (metric or "").lower() for word in MAXIMIZED) else "minimize"
    assert MetricReader(MetricSpec(metric), output).read_final_value().value == final
    assert MetricReader(MetricSpec(metric, (), "best", direction), output).read_final_value().value == best
    if metric is None and case in ("bare number", "numpy", "training loss only", "sum of parts"):
        return  # these are known at the end only
    points = MetricReader(MetricSpec(metric), output).read_new_points()
    assert len(points) == n_points
    assert points[-1].value == final
    assert points[-1].share == (None if share is None else pytest.approx(share))


@pytest.mark.parametrize("case", [case for case, row in FOUND.items() if row[1] is None])
def test_metric_found_by_default_can_be_named(case: str, tmp_path: Path) -> None:
    output = tmp_path / "output.log"
    output.write_text(FOUND[case][0])
    found = MetricReader(MetricSpec(), output).read_final_value()
    again = MetricReader(MetricSpec(found.name), output).read_final_value()
    assert (again.value, again.step) == (found.value, found.step)


@pytest.mark.parametrize("case", ERRORS)
def test_error_says_what_there_is(case: str, tmp_path: Path) -> None:
    text, metric, message = ERRORS[case]
    output = tmp_path / "output.log"
    output.write_text(text)
    reader = MetricReader(MetricSpec(metric), output)
    assert reader.read_new_points() == []
    with pytest.raises(MetricError) as caught:
        reader.read_final_value()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "word", ["nan", "NaN", "-nan", "NAN", "nan(ind)", "-nan(ind)", "1.#QNAN", "-1.#IND", "tensor(nan)"]
)
def test_nan_is_a_value(word: str, tmp_path: Path) -> None:
    output = tmp_path / "output.log"
    output.write_text(f"val_loss: 0.3\nval_loss: {word}\n")
    assert math.isnan(MetricReader(MetricSpec(), output).read_final_value().value)
    assert MetricReader(MetricSpec(pick="best"), output).read_final_value().value == 0.3


@pytest.mark.parametrize("word", ["inf", "Infinity", "1.#INF", "+inf"])
def test_infinity_is_a_value(word: str, tmp_path: Path) -> None:
    output = tmp_path / "output.log"
    output.write_text(f"val_loss={word}\n")
    assert MetricReader(MetricSpec(), output).read_final_value().value == math.inf


def test_half_written_line_waits_for_its_end(tmp_path: Path) -> None:
    output = tmp_path / "output.log"
    reader = MetricReader(MetricSpec("val_loss"), output)
    assert reader.read_new_points() == []  # the program has not begun
    for piece, expected in (("step 1/4 val_loss 0.", []), ("123", []), ("\nstep 2/4 val", [0.123]), ("_loss 0.1", [])):
        with output.open("a") as file:
            file.write(piece)
        assert [point.value for point in reader.read_new_points()] == expected
    assert reader.read_final_value().value == 0.1


def test_every_cut_of_an_output_gives_the_same(tmp_path: Path) -> None:
    content = (KERAS + TRAINER_BARS + MNIST + CSV).encode()
    output, whole = tmp_path / "output.log", tmp_path / "whole.log"
    whole.write_bytes(content)
    expected = MetricReader(MetricSpec("val_accuracy"), whole)
    expected_points = expected.read_new_points()
    for size in (1, 7, 64):
        output.write_bytes(b"")
        reader, points = MetricReader(MetricSpec("val_accuracy"), output), []
        for start in range(0, len(content), size):
            with output.open("ab") as file:
                file.write(content[start : start + size])
            points += reader.read_new_points()
        assert points == expected_points
        assert reader.read_final_value() == expected.read_final_value()


def test_all_curves_are_read_once_for_the_record(tmp_path: Path) -> None:
    output = tmp_path / "output.log"
    output.write_text(
        "parameters: 12345\nseed 7\nstep 10/40 loss 2.5 lr 1e-3 gnorm 0.7\nstep 10 val_loss 2.6 acc 0.4\n"
    )
    reader = MetricReader(MetricSpec("acc"), output)
    curves = reader.read_new_curves()
    assert {name: [tuple(point) for point in points] for name, points in curves.items()} == {
        "train/loss": [(10, 2.5, 0.25)],
        "train/lr": [(10, 1e-3, 0.25)],
        "train/grad_norm": [(10, 0.7, 0.25)],
        "val/loss": [(10, 2.6, 0.25)],
        "acc": [(10, 0.4, 0.25)],
    }
    assert reader.read_new_curves() == {}
    assert [point.value for point in reader.read_new_points()] == [0.4]


@pytest.mark.parametrize("case", CONFIGS)
def test_settings_are_no_curves_and_no_steps(case: str, tmp_path: Path) -> None:
    config, share = CONFIGS[case]
    output = tmp_path / "output.log"
    output.write_text(config)
    reader = MetricReader(MetricSpec(), output)
    assert reader.read_new_curves() == {}
    with output.open("a") as file:
        file.write(STEPS)
    curves = reader.read_new_curves()
    assert set(curves) == {"train/loss", "val/loss", "loss", "time"}
    assert [(point.step, point.value) for point in curves["val/loss"]] == [(0, 3.0), (20, 2.5), (40, 2.0)]
    assert curves["val/loss"][-1].share == share
    assert reader.read_final_value().value == 2.0


def test_names_of_files_are_no_metrics(tmp_path: Path) -> None:
    output = tmp_path / "output.log"
    saving = "saving checkpoint to /tmp/x/3/ck\nsaved to ckpt/step/4.pt\nloaded 3 files, with 4 cores\n"
    again = "test loss 0.4 is the best test loss so far, saving model to /out/sweeps/7/model.pt\n"
    output.write_text("".join(f"{line}{saving}{again}" for line in EPOCHS))
    curves = MetricReader(MetricSpec(), output).read_new_curves()
    assert set(curves) <= {"train/loss", "val/loss", "train acc", "val acc", "test_loss", "test loss"}


SCRIPT = """
import sys, time
for epoch in range(1, 5):
    print(f"epoch {epoch}/4 train_loss {1 / epoch:.3f} val_acc", end=" ")
    time.sleep(0.05)
    print(f"{epoch / 5:.2f}", flush=True)
    if epoch == 2:
        sys.stdin.read()
"""


def test_a_program_is_read_while_it_runs(tmp_path: Path) -> None:
    output = tmp_path / "output.log"
    reader = MetricReader(MetricSpec("val_acc"), output)
    points: list[tuple[int, float, float | None]] = []
    command = [sys.executable, "-c", SCRIPT]
    with output.open("wb") as file, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file) as process:
        while len(points) < 2:
            points += [tuple(point) for point in reader.read_new_points()]
            time.sleep(0.01)
        process.communicate()
    points += [tuple(point) for point in reader.read_new_points()]
    assert points == [(1, 0.2, 0.25), (2, 0.4, 0.5), (3, 0.6, 0.75), (4, 0.8, 1.0)]
    assert reader.read_final_value().value == 0.8


def test_lines_of_any_length_are_read(tmp_path: Path) -> None:
    output = tmp_path / "output.log"
    weights = "0.123456789 " * 400_000
    output.write_text(
        f"weights {weights}val_loss 9\nval_loss 0.5 {'x' * 30_000}\n{{'a': [{'1, ' * 9_000}1], 'val_loss': 0.4}}\n"
    )
    reader = MetricReader(MetricSpec("val_loss"), output)
    assert [point.value for point in reader.read_new_points()] == [0.5, 0.4]


def test_a_replaced_file_begins_again(tmp_path: Path) -> None:
    table = tmp_path / "metrics.csv"
    reader = MetricReader(MetricSpec("acc", (str(table),)), tmp_path / "output.log")
    table.write_text("epoch,acc\n1,0.5\n2,0.6\n")
    assert [point.value for point in reader.read_new_points()] == [0.5, 0.6]
    table.write_text("epoch,acc\n1,0.7\n")
    assert [point.value for point in reader.read_new_points()] == [0.7]


STATE: dict[str, Any] = {
    "global_step": 200,
    "max_steps": 400,
    "log_history": [
        {"epoch": 0.5, "loss": 1.9, "step": 100},
        {"epoch": 0.5, "eval_loss": 1.8, "eval_accuracy": 0.5, "step": 100},
        {"epoch": 1.0, "eval_loss": 1.7, "eval_accuracy": 0.6, "step": 200},
    ],
}
FILES: dict[str, tuple[str, str, str | None, float, int]] = {
    "trainer state": ("trainer_state.json", json.dumps(STATE, indent=1), "eval_accuracy", 0.6, 2),
    "trainer state, default": ("trainer_state.json", json.dumps(STATE), None, 1.7, 2),
    "one result": ("result.json", '{"val_loss": 0.3, "metrics": {"acc": 0.9}}', "metrics.acc", 0.9, 1),
    "one result, default": ("result.json", '{"val_loss": 0.3, "metrics": {"acc": 0.9}}', None, 0.3, 1),
    "keras history": ("history.json", '{"loss": [1, 0.5], "val_loss": [1.1, NaN, 0.7], "lr": [1]}', None, 0.7, 3),
    "rows": ("log.json", '[{"epoch": 1, "psnr": 20.5}, {"epoch": 2, "psnr": 21.5}]', "PSNR", 21.5, 2),
    "rows below a key": ("log.json", '{"name": "x", "history": [{"f1": 0.5}, {"f1": 0.7}]}', "f1", 0.7, 2),
    "json lines": ("log.jsonl", '{"step": 1, "wer": 0.5}\n{"step": 2, "wer": 0.4}\n', "wer", 0.4, 2),
    "yaml": ("result.yaml", "val:\n  iou: 0.4\ntest:\n  iou: 0.3\n", "val/iou", 0.4, 1),
    "text": ("score.txt", "0.77", None, 0.77, 1),
    "tabs": ("log.tsv", "epoch\tValid Loss\tTop-1\n1\t0.5\t70.1\n2\t0.4\t71.3\n", "top1", 71.3, 2),
    "long table": ("log.csv", "step,metric,value\n1,val_loss,0.5\n1,acc,0.8\n2,acc,0.9\n", "acc", 0.9, 2),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_metric_of_a_file(case: str, tmp_path: Path) -> None:
    name, content, metric, final, n_points = FILES[case]
    (tmp_path / name).write_text(content)
    spec = MetricSpec(metric, (str(tmp_path / name),))
    assert MetricReader(spec, tmp_path / "output.log").read_final_value().value == final
    if metric is not None or "val" in content:
        assert len(MetricReader(spec, tmp_path / "output.log").read_new_points()) == n_points


def test_trainer_state_knows_the_length_and_may_be_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(value_sources, "WAIT_FACTOR", 0)
    (tmp_path / "checkpoint-200").mkdir()
    path = tmp_path / "checkpoint-200" / "trainer_state.json"
    path.write_text(json.dumps(STATE)[:-30])
    reader = MetricReader(MetricSpec("eval_loss", (str(tmp_path),)), tmp_path / "output.log")
    assert reader.read_new_points() == []
    path.write_text(json.dumps(STATE))
    assert [tuple(point) for point in reader.read_new_points()] == [(100, 1.8, 0.25), (200, 1.7, 0.5)]
    (tmp_path / "checkpoint-300").mkdir()
    longer = STATE | {"log_history": [*STATE["log_history"], {"eval_loss": 1.6, "step": 300}]}
    (tmp_path / "checkpoint-300" / "trainer_state.json").write_text(json.dumps(longer))
    assert [tuple(point) for point in reader.read_new_points()] == [(300, 1.6, 0.75)]
    (tmp_path / "checkpoint-300" / "trainer_state.json").write_text(json.dumps(longer)[:-30])
    with pytest.raises(ValueError, match="cut off"):
        reader.read_new_points(is_final=True)


ONE_LINE, PRETTY = json.dumps({"lr": 0.1}), json.dumps({"lr": 0.1}, indent=2)


@pytest.mark.parametrize("first", ['{"epoch": 1, "val_loss": 1.0}', ONE_LINE, PRETTY], ids=["row", "config", "pretty"])
def test_lines_after_a_document_are_read_as_text(first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value_sources, "WAIT_FACTOR", 0)
    path = tmp_path / "log.jsonl"
    path.write_text(f"{first}\n")
    reader = MetricReader(MetricSpec("val_loss", (str(path),)), tmp_path / "output.log")
    n_points = len(reader.read_new_points())
    for epoch in (2, 3):
        with path.open("a") as file:
            print(json.dumps({"epoch": epoch, "val_loss": 1 / epoch}), file=file)
        n_points += len(reader.read_new_points())
    assert n_points == (3 if "epoch" in first else 2)
    final = reader.read_final_value()
    assert (final.step, final.value) == (3, 1 / 3)


def test_wildcards_name_the_latest_file(tmp_path: Path) -> None:
    folder = tmp_path / "lightning_logs" / "version_0"
    folder.mkdir(parents=True)
    spec = MetricSpec("val_acc", (str(tmp_path / "lightning_logs" / "version_*" / "metrics.csv"),))
    with pytest.raises(ValueError, match="no such file or folder"):
        MetricReader(spec, tmp_path / "output.log").read_final_value()
    (folder / "metrics.csv").write_text("epoch,step,train_loss,val_acc\n0,9,0.5,\n0,9,,0.7\n")
    assert MetricReader(spec, tmp_path / "output.log").read_final_value().value == 0.7


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(bytes(range(256)) * 4)
    (tmp_path / "empty").mkdir()
    for name, problem in (("model.bin", "not a text file"), ("empty", "no event files or trainer_state.json")):
        with pytest.raises(ValueError, match=problem):
            MetricReader(MetricSpec("acc", (str(tmp_path / name),)), tmp_path / "output.log").read_final_value()


def test_several_sources_are_one(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"acc": 0.9}')
    (tmp_path / "b.csv").write_text("epoch,val_loss\n1,0.5\n")
    spec = MetricSpec("val_loss", (str(tmp_path / "a.json"), str(tmp_path / "b.csv")))
    assert MetricReader(spec, tmp_path / "output.log").read_final_value().value == 0.5


def test_training_loss_is_noted(tmp_path: Path) -> None:
    output = tmp_path / "output.log"
    output.write_text("step 1 loss 3.0\nstep 2 loss 2.0\n")
    found = MetricReader(MetricSpec(), output).read_final_value()
    assert found.note == "the objective is 'loss', a training loss: no validation loss was found"
    assert (found.name, found.step) == ("loss", 2)


def test_event_files_by_tag(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    writer = tensorboard.SummaryWriter(str(tmp_path / "tb"))
    spec = MetricSpec("val/acc", (str(tmp_path / "tb"),))
    reader = MetricReader(spec, tmp_path / "output.log")
    for step in range(3):
        writer.add_scalar("val/acc", step / 4, step)
        writer.add_scalars("loss", {"val": 1 - step / 4}, step)
    writer.flush()
    assert [tuple(point) for point in reader.read_new_points()] == [(0, 0.0, None), (1, 0.25, None), (2, 0.5, None)]
    writer.add_scalar("val/acc", 0.75, 3)
    writer.close()
    assert reader.read_final_value().value == 0.75
    with pytest.raises(MetricError, match="found val/acc"):
        MetricReader(MetricSpec("bleu", spec.sources), tmp_path / "output.log").read_final_value()


MLFLOW_SCRIPT = """
import mlflow
with mlflow.start_run():
    mlflow.log_param("max_steps", 4)
    for step in range(3):
        mlflow.log_metrics({"val_acc": 0.5 + step / 8, "loss": 1.0}, step=step)
"""


def test_mlflow_is_read_in_a_folder_with_a_quote(tmp_path: Path) -> None:
    folder = tmp_path / "o'neil" / "0"
    added = trial_environment(("mlflow",), folder, {})
    client = MlflowClient(added["MLFLOW_TRACKING_URI"])
    run = client.create_run("0", tags=json.loads(added["MLFLOW_RUN_CONTEXT"]))
    client.log_metric(run.info.run_id, "val_acc", 0.5)
    assert (
        MetricReader(MetricSpec("val_acc", ("mlflow",)), folder / "output.log", added).read_final_value().value == 0.5
    )


@pytest.mark.slow
def test_mlflow_run_of_an_unadapted_script(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    trials = [tmp_path / "0", tmp_path / "1"]
    for store in ("own", "shared"):
        if store == "shared":
            environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{tmp_path}/shared.db"
        for folder in [*trials, trials[1]]:  # the last one is run again
            added = trial_environment(("mlflow",), folder, environment)
            command = [sys.executable, "-c", MLFLOW_SCRIPT]
            subprocess.run(command, env=environment | added, cwd=tmp_path, check=True, capture_output=True)
            spec = MetricSpec("val_acc", ("mlflow",))
            reader = MetricReader(spec, folder / "output.log", environment | added)
            points = [tuple(point) for point in reader.read_new_points()]
            assert points == [(0, 0.5, 0.0), (1, 0.625, 0.25), (2, 0.75, 0.5)]
            assert reader.read_final_value().value == 0.75
    assert not (tmp_path / "mlruns").exists()


def test_mlflow_environment_keeps_what_the_user_set(tmp_path: Path) -> None:
    assert trial_environment(("{out}/metrics.csv",), tmp_path, {}) == {}
    user = {"MLFLOW_TRACKING_URI": "http://host:5000", "MLFLOW_RUN_CONTEXT": '{"team": "a"}'}
    added = trial_environment(("mlflow",), tmp_path, user)
    assert added["MLFLOW_TRACKING_URI"] == "http://host:5000"
    context = json.loads(added["MLFLOW_RUN_CONTEXT"])
    assert context["team"] == "a"
    assert context["plateau.trial"].startswith(f"{tmp_path} ")
    assert trial_environment(("mlflow",), tmp_path, user) != added  # another attempt
    named = trial_environment(("mlflow:http://other:5000",), tmp_path, user)
    assert named["MLFLOW_TRACKING_URI"] == "http://other:5000"


def read_page_rows() -> list[tuple[str, str, float]]:
    """Return (line, metric, value) of the table in docs/metrics.md."""
    page = (Path(__file__).parents[4] / "docs" / "metrics.md").read_text()
    rows = [line.replace("\\|", "\0").split("|")[1:4] for line in page.splitlines() if line.startswith("| `")]
    cells = [[cell.strip().strip("`").replace("\0", "|") for cell in row] for row in rows if len(row) == 3]
    return [(line, metric, float(value)) for line, metric, value in cells if value]


@pytest.mark.parametrize("row", read_page_rows(), ids=lambda row: row[0][:30])
def test_the_page_tells_the_truth(row: tuple[str, str, float], tmp_path: Path) -> None:
    line, metric, value = row
    (tmp_path / "output.log").write_text(f"{line}\n")
    found = MetricReader(MetricSpec(metric), tmp_path / "output.log").read_final_value().value
    assert found == pytest.approx(value, nan_ok=True)
