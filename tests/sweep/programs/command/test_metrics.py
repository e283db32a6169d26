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

from harness.importers.named_values.metric_lookup import MetricError
from harness.sweep.programs.command.metrics import MetricReader, MetricSpec, trial_environment

MNIST = (
    "Train Epoch: 1 [0/60000 (0%)]\tLoss: 2.300039\nTrain Epoch: 1 [640/60000 (1%)]\tLoss: 2.213470\n"
    "\nTest set: Average loss: 0.0512, Accuracy: 9830/10000 (98%)\n\n"
    "Train Epoch: 2 [0/60000 (0%)]\tLoss: 0.120039\n"
    "\nTest set: Average loss: 0.0412, Accuracy: 9912/10000 (99%)\n\n"
)
KERAS = (
    "Epoch 1/5\n"
    " 50/100 ━━━━━━━━━━ 1s 30ms/step - accuracy: 0.70 - loss: 0.81\r100/100 ━━━━━━━━━━━━━━━━━━━━ 3s 30ms/step"
    " - accuracy: 0.80 - loss: 0.63 - val_accuracy: 0.91 - val_loss: 0.44\n"
    "Epoch 2/5\n"
    "100/100 ━━━━━━━━━━━━━━━━━━━━ 3s 30ms/step - accuracy: 0.90 - loss: 0.43 - val_accuracy: 0.85 -"
    " val_loss: 0.34\n"
)
TRAINER = (
    "{'loss': 2.95, 'grad_norm': 1.8, 'learning_rate': 4.8e-05, 'epoch': 0.5}\n"
    "{'eval_loss': 2.81, 'eval_accuracy': 0.61, 'eval_runtime': 3.1, 'epoch': 1.0}\n"
    "{'loss': 2.55, 'grad_norm': 1.8, 'learning_rate': 2e-05, 'epoch': 1.5}\n"
    "{'eval_loss': 2.85, 'eval_accuracy': 0.64, 'eval_runtime': 3.1, 'epoch': 2.0}\n"
    "{'train_runtime': 81.5, 'train_samples_per_second': 9.1, 'train_steps_per_second': 0.6, 'train_loss':"
    " 2.661, 'epoch': 2.0}\n"
)
TRAINER_BARS = (
    "Map: 100%|██████████| 500/500 [00:01<00:00, 400 examples/s]\n  0%|          | 0/300 [00:00<?, ?it/s]"
    "\r 33%|███▎      | 100/300 [00:41<01:22,  2.43it/s]{'loss': '3.112', 'grad_norm': '0.9', 'epoch': '1'}\n"
    "  0%|          | 0/10 [00:00<?, ?it/s]\r100%|██████████| 10/10 [00:04<00:00,  2.4it/s]\n"
    "{'eval_loss': '2.953', 'eval_runtime': '1.2', 'epoch': '1'}\n"
    "\r100%|██████████| 300/300 [02:03<00:00,  2.43it/s]{'loss': '2.745', 'grad_norm': '0.8', 'epoch': '3'}\n"
    "100%|██████████| 10/10 [00:04<00:00,  2.4it/s]\n{'eval_loss': '2.853', 'eval_runtime': '1.2', 'epoch': '3'}\n"
)
LIGHTNING = (
    "Epoch 0: 100%|██████████| 50/50 [00:01<00:00, 40.1it/s, v_num=3, train_loss=0.71, val_loss=0.80, val_acc=0.6]\n"
    "Epoch 1: 100%|██████████| 50/50 [00:01<00:00, 40.1it/s, v_num=3, train_loss=0.51, val_loss=0.70, val_acc=0.7]\n"
    "┏━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━┓\n┃   Test metric    ┃   DataLoader 0   ┃\n"
    "┡━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━┩\n"
    "│     test_acc     │ 0.65100002262604 │\n│    test_loss     │     0.7554       │\n"
    "└──────────────────┴──────────────────┘\n"
)
FASTAI = (
    "epoch     train_loss  valid_loss  accuracy  time\n"
    "0         0.489001    0.412002    0.831      00:05\n"
    "1         0.389001    0.312002    0.851      00:05\n"
)
CSV = "epoch,train_loss,val_loss,f1\n0,0.5,0.6,0.30\n1,0.4,0.65,0.44\n2,0.3,0.7,0.40\n"
NANOCHAT = (
    "step 00010/00200 (5%) | loss: 5.02 | lrm: 1.0\nStep 00010 | Validation bpb: 1.74\n"
    "step 00020/00200 | loss: 4.9 | lrm: 1.0\nStep 00020 | Validation bpb: 1.70\n"
)
SPLITS = (
    "Epoch 1/4\ntrain loss 0.5 acc 0.80\nval loss 0.6 acc 0.70\nEpoch 2/4\ntrain loss 0.4 acc 0.85\n"
    "val loss 0.5 acc 0.75\n"
)
HEADINGS = "Training:\nloss: 0.3\nacc: 0.9\nValidation:\nloss: 0.4\nacc: 0.8\n"
PRETTY = '{\n  "val": {"acc": 0.9, "loss": 0.2},\n  "test": {\n    "acc": 0.8\n  }\n}\n'
PRETTY_TABLE = "+----+----+\n| split | f1 |\n+----+----+\n| val | 0.91 |\n| test | 0.89 |\n+----+----+\n"
SKLEARN = (
    "              precision    recall  f1-score   support\n\n           0       0.90      0.80      0.85       100\n\n"
    "    accuracy                           0.88       200\n   macro avg       0.87      0.86      0.86       200\n"
)
JSON_LINES = (
    '{"step": 10, "total_steps": 40, "metrics": {"acc": 0.5}}\n'
    '{"step": 20, "total_steps": 40, "metrics": {"acc": 0.7}}\n'
)
FAIRSEQ = (
    "| epoch 001 | valid on 'valid' subset | loss 5.1 | ppl 34.3 | num_updates 100\n"
    "| epoch 002 | valid on 'valid' subset | loss 4.1 | ppl 17.15 | num_updates 200\n"
)

STEPS_IN_EPOCHS = "epoch 1/2 step 50/100 val_loss 0.5\nepoch 2/2 step 50/100 val_loss 0.4\n"
STEPS_OF_RUN = "epoch 1/2 step 50/200 val_loss 0.5\nepoch 2/2 step 150/200 val_loss 0.4\n"

# output, metric, final value, best value (of the direction below), number of points, share of the run of the last one
FOUND: dict[str, tuple[str, str | None, float, float, int, float | None]] = {
    "words and bars": ("epoch 3 | acc=0.91 | loss 0.3\n", "acc", 0.91, 0.91, 1, None),
    "another spelling": ("epoch 3 | acc=0.91 | loss 0.3\n", "Accuracy", 0.91, 0.91, 1, None),
    "mnist, default": (MNIST, None, 0.0412, 0.0412, 2, None),
    "mnist, ratio rather than its rounded percentage": (MNIST, "accuracy", 0.9912, 0.9912, 2, None),
    "mnist, as it is written": (MNIST, "average loss", 0.0412, 0.0412, 2, None),
    "keras, default": (KERAS, None, 0.34, 0.34, 2, 0.4),
    "keras, accuracy": (KERAS, "val_accuracy", 0.85, 0.91, 2, 0.4),
    "keras, short": (KERAS, "val/acc", 0.85, 0.91, 2, 0.4),
    "trainer, default": (TRAINER, None, 2.85, 2.81, 2, None),
    "trainer, accuracy": (TRAINER, "eval_accuracy", 0.64, 0.64, 2, None),
    "trainer, val/loss": (TRAINER, "val/loss", 2.85, 2.81, 2, None),
    "trainer, training loss": (TRAINER, "loss", 2.55, 2.55, 2, None),
    "trainer, summary": (TRAINER, "train_loss", 2.661, 2.661, 1, None),
    "trainer, bars": (TRAINER_BARS, "eval_loss", 2.853, 2.853, 2, 1.0),
    "lightning, not the test set": (LIGHTNING, None, 0.70, 0.70, 2, None),
    "lightning, accuracy": (LIGHTNING, "val_acc", 0.7, 0.7, 2, None),
    "lightning, test table": (LIGHTNING, "test_acc", 0.65100002262604, 0.65100002262604, 1, None),
    "fastai": (FASTAI, "accuracy", 0.851, 0.851, 2, None),
    "csv, default": (CSV, None, 0.7, 0.6, 3, None),
    "csv, f1": (CSV, "F1", 0.40, 0.44, 3, None),
    "nanochat": (NANOCHAT, "bpb", 1.70, 1.70, 2, 0.1),
    "splits on the line": (SPLITS, "val acc", 0.75, 0.75, 2, 0.5),
    "split first or last": (SPLITS, "acc/val", 0.75, 0.75, 2, 0.5),
    "headings": (HEADINGS, "val_acc", 0.8, 0.8, 1, None),
    "object over several lines": (PRETTY, "test.acc", 0.8, 0.8, 1, None),
    "object, default": (PRETTY, None, 0.2, 0.2, 1, None),
    "classification report": (SKLEARN, "accuracy", 0.88, 0.88, 1, None),
    "classification report, a cell": (SKLEARN, "macro avg f1-score", 0.86, 0.86, 1, None),
    "json lines": (JSON_LINES, "metrics.acc", 0.7, 0.7, 2, 0.5),
    "json lines, last key": (JSON_LINES, "acc", 0.7, 0.7, 2, 0.5),
    "fairseq": (FAIRSEQ, "valid ppl", 17.15, 17.15, 2, None),
    "bare number": ("loading\n0.9\nseed 3\n0.3125\n", None, 0.3125, 0.3125, 1, None),
    "tutorial of torch": ("Accuracy of the network on the 10000 test images: 91 %\n", "accuracy", 91.0, 91.0, 1, None),
    "percentage": ("accuracy: 91.2%\n", "accuracy", 91.2, 91.2, 1, None),
    "name behind": ("91.2% accuracy\n", "accuracy", 91.2, 91.2, 1, None),
    "digits in names": (" * Acc@1 75.33 Acc@5 92.10\n", "acc@5", 92.1, 92.1, 1, None),
    "range in a name": ("all 128 929 mAP50: 0.71 mAP50-95: 0.45\n", "mAP50-95", 0.45, 0.45, 1, None),
    "awk": ("reading data.csv\nrmse 0.4321\n", "RMSE", 0.4321, 0.4321, 1, None),
    "yaml": ("val_loss: 0.3\nbleu: 31.2\n", "BLEU", 31.2, 31.2, 1, None),
    "log prefix": ("2031-01-01 10:00:00,123 INFO root: eval/reward=12.5 step=10\n", "eval/reward", 12.5, 12.5, 1, None),
    "prefix of its own": ("RESULT val_loss=0.31\n", "val_loss", 0.31, 0.31, 1, None),
    "tensors": ("val_loss: tensor(0.31, device='cuda:0')\n", None, 0.31, 0.31, 1, None),
    "training loss only": ("step 1 loss 3.0\nstep 2 loss 2.0\n", None, 2.0, 2.0, 2, None),
    "best so far is another": ("epoch 1 val_loss 0.5\nBest val_loss: 0.1 (epoch 7)\n", "val_loss", 0.5, 0.5, 1, None),
    "pretty table": (PRETTY_TABLE, "val f1", 0.91, 0.91, 1, None),
    "other language": ("第3轮 验证集损失 0.4 准确率 0.9\n", "准确率", 0.9, 0.9, 1, None),
    "settings do not count": ("Namespace(val_loss=9, epochs=10)\nval_loss 0.5\n", "val_loss", 0.5, 0.5, 1, None),
    "epochs and steps": (STEPS_IN_EPOCHS, None, 0.4, 0.4, 2, 0.75),
    "steps over the run": (STEPS_OF_RUN, None, 0.4, 0.4, 2, 0.75),
}  # fmt: skip
MAXIMIZED = ("acc", "f1", "bleu", "reward", "map", "准确率")


@pytest.mark.parametrize("case", FOUND)
def test_metric_is_found(case: str, tmp_path: Path) -> None:
    text, metric, final, best, n_points, share = FOUND[case]
    output = tmp_path / "output.log"
    output.write_text(text)
    direction: Any = "maximize" if any(word in (metric or "").lower() for word in MAXIMIZED) else "minimize"
    assert MetricReader(MetricSpec(metric), output).read_final_value().value == final
    assert MetricReader(MetricSpec(metric, (), "best", direction), output).read_final_value().value == best
    if metric is None and case in ("bare number", "training loss only"):
        return  # these are known at the end only
    points = MetricReader(MetricSpec(metric), output).read_new_points()
    assert len(points) == n_points
    assert points[-1].value == final
    assert points[-1].share == (None if share is None else pytest.approx(share))


ERRORS = {
    "nothing named": ("hello\nworld\n", "acc", "no metric 'acc' in the output; it has no named numbers; print a line"),
    "no output": ("", None, "no loss in the output; it has no named numbers"),
    "missing": (
        "epoch 1 loss 0.5 lr 0.1\nepoch 2 loss 0.4 lr 0.1\naccuracy 0.9\n",
        "val/acc",
        "--metric: no metric 'val/acc' in the output; found loss (2 values), accuracy (1), lr (2): use --metric"
        " accuracy",
    ),
    "two splits": (SPLITS, "acc", "--metric: 'acc' may be 'train acc' or 'val acc' in the output; give one of these"),
    "split left out": (TRAINER, "accuracy", "use --metric eval_accuracy"),
    "two validation losses": (
        "epoch 1 val_loss 0.5 eval_loss 0.4\n",
        None,
        "the validation loss may be 'val_loss' or 'eval_loss'; name one of these",
    ),
    "several training losses": (
        "step 1 mse_loss 0.5 l1_loss 0.3\n",
        None,
        "no validation loss in the output; choose one of 'mse_loss' or 'l1_loss'",
    ),
    "no loss": ("accuracy 0.9\nf1 0.8\n", None, "no loss in the output; found accuracy (1 value), f1 (1): name one"),
    "bare number, but named": ("0.31\n", "rmse", "its last line is the number 0.31: leave out --metric to use it"),
    "half of the name": ("style_loss 0.5\ncontent_loss 0.5\n", "tv_loss", "found style_loss (1 value), content_loss"),
    "two paths": ('{"a": {"acc": 0.9}, "b": {"acc": 0.8}}\n', "acc", "'acc' may be 'a/acc' or 'b/acc' in the output"),
    "best alone": ("best val_loss: 0.3\n", "val_loss", "use --metric 'best val_loss'"),
    "nearly": ("val_accuracy: 0.9\n", "val_acuracy", "use --metric val_accuracy"),
}


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
    expected = MetricReader(MetricSpec("accuracy"), whole)
    expected_points = expected.read_new_points()
    for size in (1, 7, 64):
        output.write_bytes(b"")
        reader, points = MetricReader(MetricSpec("accuracy"), output), []
        for start in range(0, len(content), size):
            with output.open("ab") as file:
                file.write(content[start : start + size])
            points += reader.read_new_points()
        assert points == expected_points
        assert reader.read_final_value() == expected.read_final_value()


def test_all_curves_are_read_once_for_the_record(tmp_path: Path) -> None:
    output = tmp_path / "output.log"
    output.write_text("step 10/40 loss 2.5 lr 1e-3 gnorm 0.7\nstep 10 val_loss 2.6 acc 0.4\n")
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


def test_a_replaced_file_begins_again(tmp_path: Path) -> None:
    table = tmp_path / "metrics.csv"
    reader = MetricReader(MetricSpec("acc", (str(table),)), tmp_path / "output.log")
    table.write_text("epoch,acc\n1,0.5\n2,0.6\n")
    assert [point.value for point in reader.read_new_points()] == [0.5, 0.6]
    table.write_text("epoch,acc\n1,0.7\n")
    assert [point.value for point in reader.read_new_points()] == [0.7]


STATE = {
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


def test_trainer_state_knows_the_length_and_may_be_half_written(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-200").mkdir()
    path = tmp_path / "checkpoint-200" / "trainer_state.json"
    path.write_text(json.dumps(STATE)[:-30])
    reader = MetricReader(MetricSpec("eval_loss", (str(tmp_path),)), tmp_path / "output.log")
    assert reader.read_new_points() == []
    path.write_text(json.dumps(STATE))
    time.sleep(0.05)  # reading takes at most a tenth of the time
    assert [tuple(point) for point in reader.read_new_points()] == [(100, 1.8, 0.25), (200, 1.7, 0.5)]


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
    for step in range(3):
        mlflow.log_metrics({"val_acc": 0.5 + step / 8, "loss": 1.0}, step=step)
"""


@pytest.mark.slow
def test_mlflow_run_of_an_unadapted_script(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    trials = [tmp_path / "0", tmp_path / "1"]
    for store in ("own", "shared"):
        if store == "shared":
            environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{tmp_path}/shared.db"
        for folder in trials:
            added = trial_environment(("mlflow",), folder, environment)
            command = [sys.executable, "-c", MLFLOW_SCRIPT]
            subprocess.run(command, env=environment | added, cwd=tmp_path, check=True, capture_output=True)
            spec = MetricSpec("val_acc", ("mlflow",))
            reader = MetricReader(spec, folder / "output.log", environment | added)
            assert [tuple(point)[:2] for point in reader.read_new_points()] == [(0, 0.5), (1, 0.625), (2, 0.75)]
            assert reader.read_final_value().value == 0.75
    assert not (tmp_path / "mlruns").exists()


def test_mlflow_environment_keeps_what_the_user_set(tmp_path: Path) -> None:
    assert trial_environment(("{out}/metrics.csv",), tmp_path, {}) == {}
    user = {"MLFLOW_TRACKING_URI": "http://host:5000", "MLFLOW_RUN_CONTEXT": '{"team": "a"}'}
    added = trial_environment(("mlflow",), tmp_path, user)
    assert added["MLFLOW_TRACKING_URI"] == "http://host:5000"
    assert json.loads(added["MLFLOW_RUN_CONTEXT"]) == {"team": "a", "plateau.trial": str(tmp_path)}
    named = trial_environment(("mlflow:http://other:5000",), tmp_path, user)
    assert named["MLFLOW_TRACKING_URI"] == "http://other:5000"
