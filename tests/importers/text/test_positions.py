"""Positions in lines of a log, and values whose place is unusual."""

import math
from pathlib import Path

import pytest

from harness.importers import read_histories, read_history
from tests.importers.text.test_labels import TRAIN, VAL, read_curves

MATLAB = """|=======================================================|
| Epoch | Iteration | Time Elapsed | Mini-batch | Mini-batch | Base Learning |
|       |           |  (hh:mm:ss)  |  Accuracy  |    Loss    |     Rate      |
|=======================================================|
"""


@pytest.mark.parametrize(("total", "unit"), [("050", "epochs"), ("200", "epochs"), ("90000", "steps")])
@pytest.mark.parametrize("line", ["[{at}/{total}] train_loss: {value}", "{at}/{total} | loss {value} | 3.1s"])
def test_fraction_at_the_start_counts_epochs(tmp_path: Path, line: str, total: str, unit: str) -> None:
    path = tmp_path / "run.log"
    path.write_text("".join(line.format(at=f"{n:03d}", total=total, value=v) + "\n" for n, v in enumerate(TRAIN, 1)))
    history = read_history(path)
    assert history.facts.steps_unit == unit
    assert history["train/loss"].values.tolist() == TRAIN


@pytest.mark.parametrize("arrow", ["->", "-->", "=>", "→"])
def test_value_behind_an_arrow_is_that_of_the_line(tmp_path: Path, arrow: str) -> None:
    assert read_curves(tmp_path, f"step {{n}} loss {{v}} {arrow} {{t}}") == {"train/loss": TRAIN}


def test_improvement_of_the_best_loss_is_no_reading(tmp_path: Path) -> None:
    line = "epoch {n} train loss {t} val loss {v}\nValidation loss decreased (9.5 --> {t}).  Saving model ..."
    assert read_curves(tmp_path, line) == {"train/loss": TRAIN, "val/loss": VAL}


def test_header_of_two_lines_is_read(tmp_path: Path) -> None:
    curves = read_curves(tmp_path, "| {n} | {n}0 | 00:00:01 | 50.00% | {t} | 0.0100 |", MATLAB)
    assert curves == {"train/loss": TRAIN, "train/lr": [0.01] * len(TRAIN)}


def test_one_number_a_line_is_a_loss(tmp_path: Path) -> None:
    path, losses = tmp_path / "losses.txt", [3 / (n + 1) for n in range(12)]
    path.write_text("\n".join(map(str, losses)))
    assert read_history(path)["train/loss"].values.tolist() == losses
    for other in ("\n".join(map(str, losses[:8])), "\n".join(map(str, range(40))), f"{losses[0]}\n" * 11 + "done\n9.5"):
        path.write_text(other)
        with pytest.raises(ValueError, match=r"losses\.txt"):
            read_history(path)


def test_named_step_goes_before_records(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    path.write_text("".join(f"[Epoch 1 {n * 128}/2560][Iteration {n}] Loss is {v}\n" for n, v in enumerate(TRAIN, 1)))
    assert read_history(path)["train/loss"].steps.tolist() == [1, 2, 3, 4]


def test_broken_number_is_not_finite(tmp_path: Path) -> None:
    line = "step {n}, loss: {t}, batch_cost: 0.4\nstep 9{n}, loss: nanxxx, batch_cost: 0.41"
    assert read_curves(tmp_path, line)["train/loss"].count(math.inf) == len(TRAIN)


SOURCE = "import torch\n" + "".join(
    f"class Block{n}(torch.nn.Module):\n    def forward(self, x):\n        val_loss = 0.0\n"
    f"        for step in range({n}):\n            loss = 1.5  # step {n}: loss 9.5\n"
    f'        print(f"step {{step}}/{{steps}} val_loss:{{val_loss:.4f}}")\n        return x\n'
    for n in range(70)
)


@pytest.mark.parametrize("between", ["", "=" * 80 + "\n", SOURCE])
@pytest.mark.parametrize("n_runs", [1, 2])
def test_source_code_above_runs_is_no_run(tmp_path: Path, n_runs: int, between: str) -> None:
    path = tmp_path / "run.log"
    run = "".join(f"step:{10 * n}/40 val_loss:{9 / (n + 1):.4f}\n" for n in range(5))
    path.write_text(SOURCE + between.join([run] * 1 + [run.replace("9.0000", "9.1000")] * (n_runs - 1)))
    histories = read_histories(path)
    assert [history["val/loss"].steps.tolist() for history in histories] == [[0, 10, 20, 30, 40]] * n_runs
    assert all(len(history.metric_names()) == 1 for history in histories)


@pytest.mark.parametrize(("every", "unit"), [(1, "epochs"), (100, "steps")])
def test_counter_beside_mean_losses_is_the_epoch_if_it_grows_by_one(tmp_path: Path, every: int, unit: str) -> None:
    path = tmp_path / "train.log"
    path.write_text("".join(f"[{n * every}] time=2.1, mean_loss={3 - n / 10:.4f}\n" for n in range(12)))
    history = read_history(path)
    assert (history.facts.steps_unit, len(history["train/loss"])) == (unit, 12)
