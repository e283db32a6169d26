"""Plain text logs, as training scripts print them."""

import time
from pathlib import Path

import pytest

from harness.diagnosis.history import History
from harness.importers import read_history
from harness.importers.text.line_rows import build_rows
from harness.importers.text.lines import collect_lines


def points(history: History, name: str) -> list[tuple[int, float]]:
    return list(zip(history[name].steps.tolist(), history[name].values.tolist(), strict=True))


def read_numbers(line: str) -> dict[str, float]:
    """Return the numbers of the only row in a line, by the names in it."""
    path = Path("a log")
    rows, _ = build_rows(collect_lines([line], path), path)
    position = {"step": rows[0].step, "epoch": rows[0].epoch} if rows else {}
    return {name: value for name, value in position.items() if value is not None} | (rows[0].values if rows else {})


def read_log(tmp_path: Path, *lines: str) -> History:
    path = tmp_path / "train.log"
    path.write_text("\n".join(lines))
    return read_history(path)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Step 1500: train loss 6.65, val loss 6.74", {"train/loss": 6.65, "val/loss": 6.74}),
        ("Step 1500: train loss ~6.65, val loss ~6.74 (starting point)", {"train/loss": 6.65, "val/loss": 6.74}),
        ("Step 1500: train 6.67, val 6.71", {"train/loss": 6.67, "val/loss": 6.71}),
        (
            "step 1500 | loss 3.21 | lr 1e-4 | grad norm 1.2",
            {"train/loss": 3.21, "train/lr": 1e-4, "train/grad_norm": 1.2},
        ),
        (
            "[2025-11-22 15:01:19] INFO iter=1500 loss=3.21 tok/s=12,345.5",
            {"train/loss": 3.21, "perf/tokens_per_second": 12345.5},
        ),
        ('{"no json": step: 1500, "train_loss": 3.21', {"train/loss": 3.21}),
        ("iteration 1500/2000 - training loss: -.5E+1", {"train/loss": -5.0}),
        ("global_step: 1,500; Validation Loss: 6.7; best val loss 6.1 at step 900", {"val/loss": 6.7}),
        ("step 1500: loss 3.2, eval_steps_per_second 180, best_loss 1.0", {"train/loss": 3.2}),
        ("step 1500: train loss nan, val loss inf", {"train/loss": float("inf"), "val/loss": float("inf")}),
    ],
)
def test_line_formats(tmp_path: Path, line: str, expected: dict[str, float]) -> None:
    history = read_log(tmp_path, "loading", line)
    assert {name: points(history, name) for name in history.metric_names()} == {
        name: [(1500, value)] for name, value in expected.items()
    }
    assert history.facts.source.endswith("train.log: 1 of 2 lines parsed")


def test_commas_in_numbers_are_not_delimiters(tmp_path: Path) -> None:
    history = read_log(tmp_path, *(f"step {n} | loss 3.2 | tok/s 12,345" for n in (1, 2)))
    assert points(history, "perf/tokens_per_second") == [(1, 12345), (2, 12345)]


def test_progress_bar_before_the_rows_of_a_trainer_is_no_header(tmp_path: Path) -> None:
    history = read_log(
        tmp_path,
        "\rLoading weights:   0%|          | 0/28 [00:00<?, ?it/s]\rLoading: 100%|##| 28/28 [00:00<00:0, 9it/s]",
        "{'loss': '6.227', 'grad_norm': '1.284', 'learning_rate': '0.0012', 'epoch': '0.25'}",
        "{'eval_loss': '4.605', 'eval_runtime': '0.3548', 'epoch': '0.5'}",
    )
    assert points(history, "train/loss") == [(25, 6.227)]
    assert points(history, "val/loss") == [(50, 4.605)]


def test_line_without_a_step_belongs_to_the_previous_step(tmp_path: Path) -> None:
    history = read_log(tmp_path, "lr 3e-4", "step 10 loss 3.5", "  validation loss: 3.6", "step 20 loss 3.4")
    assert points(history, "val/loss") == [(10, 3.6)]
    assert points(history, "train/loss") == [(10, 3.5), (20, 3.4)]


@pytest.mark.parametrize("total", ["/200", ""])
def test_steps_that_restart_in_every_epoch(tmp_path: Path, total: str) -> None:
    lines = [f"epoch {epoch} iter {step}{total} loss: {5 - epoch}" for epoch in (1, 2, 3) for step in (100, 200)]
    history = read_log(tmp_path, *lines)
    assert history["train/loss"].steps.tolist() == [100, 200, 300, 400, 500, 600]
    assert history.facts.steps_per_epoch == 200


def test_batches_counted_from_0(tmp_path: Path) -> None:
    history = read_log(tmp_path, *(f"epoch {epoch} batch {step} loss: 3.5" for epoch in (0, 1) for step in (0, 1, 2)))
    assert history["train/loss"].steps.tolist() == [0, 1, 2, 3, 4, 5]


def test_nan_step_is_ignored(tmp_path: Path) -> None:
    assert points(read_log(tmp_path, "step nan loss 9.5", "step 2 loss 3.5"), "train/loss") == [(2, 3.5)]


def test_epochs_are_the_steps_of_a_log_without_steps(tmp_path: Path) -> None:
    history = read_log(tmp_path, *(f"Epoch {n}: train_err 0.8{n} val_err 0.7{n}" for n in (1, 2, 3)))
    assert points(history, "val/loss") == [(1, 0.71), (2, 0.72), (3, 0.73)]
    assert history.facts.steps_per_epoch == 1


def test_fractions_of_epochs_become_100_steps_per_epoch(tmp_path: Path) -> None:
    lines = ["{'loss': '3.2', 'learning_rate': '1e-4', 'epoch': '0.5'}", "{'eval_loss': '3.4', 'epoch': '1.0'}"]
    summary = "{'train_runtime': '4.8', 'train_steps_per_second': '6.1', 'train_loss': '3.3', 'epoch': '1.0'}"
    history = read_log(tmp_path, *lines, summary)
    assert points(history, "train/loss") == [(50, 3.2)]
    assert points(history, "val/loss") == [(100, 3.4)]
    assert history.facts.steps_per_epoch == 100


def test_log_without_losses_is_rejected_with_an_example(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no step and loss found in 2 lines; expected e.g. 'step 100 \|") as error:
        read_log(tmp_path, "epoch one went well", "loss went down")
    assert "the first line is 'epoch one went well'" in str(error.value)


HOSTILE_LINES = {
    "spaces": ("loss" + " " * 30_000, None),
    "quotes": ("train loss" + '"' * 30_000, None),
    "brackets": ("val loss: " + "(" * 30_000, None),
    "digits": ("loss " + "1" * 30_000 + "x", None),
    "a table": ("step" + " " * 30_000 + "7 | loss" + " " * 30_000 + "3.5", {"step": 7.0, "loss": 3.5}),
    "names": ("train " * 5_000 + "loss 3.5", {"train_loss": 3.5}),
}


@pytest.mark.parametrize(("line", "expected"), HOSTILE_LINES.values(), ids=HOSTILE_LINES)
def test_long_line_takes_no_time(line: str, expected: dict[str, float] | None) -> None:
    start = time.process_time()
    assert read_numbers(line) == (expected or {})
    assert time.process_time() - start < 1  # with backtracking: minutes


def test_number_that_continues_as_a_word_is_no_value() -> None:
    assert read_numbers("step 5 loss 3.2abc val_loss 3.5 lr 1e-3") == {"step": 5.0, "val_loss": 3.5, "lr": 0.001}
