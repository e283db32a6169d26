"""Prefixes that all lines of a log begin with."""

import pytest

from harness.importers.text.line_prefixes import cut_prefixes, find_prefix


@pytest.mark.parametrize(
    "prefixes",
    [
        ("> ", "> ", ">", "> "),
        ("[rank3]: ", "[rank3]: ", "[rank3]:", "[rank3]: "),
        ("node-7 | 10:00:01: ", "node-7 | 10:00:02: ", "node-7 | 10:00:02:", "node-7 | 10:00:03: "),
        tuple(f"2031-06-07 09:59:{second:02},120 - INFO - " for second in (57, 58, 59, 60)),
        tuple(f"2031-06-07T09:59:5{second}.12041Z stdout F " for second in range(4)),
    ],
)
def test_prefix_is_cut_off_all_lines(prefixes: tuple[str, ...]) -> None:
    rows = ["step  loss  val_loss", "10    2.9   3.0", "", "20    2.8   2.9"]
    lines = [prefix + row for prefix, row in zip(prefixes, rows, strict=True)]
    assert list(cut_prefixes(lines, find_prefix(lines))) == rows


@pytest.mark.parametrize(
    "lines",
    [
        ["step  loss", "10    2.9", "20    2.8"],
        ["| step | loss |", "| ---- | ---- |", "| 10   | 2.9  |", "| 20   | 2.8  |"],
        ["2031-06-07 10:00:00 - INFO - step loss", "10 2.9", "20 2.8"],
        ["> step loss", "> 10 2.9"],
        ["Epoch 1: 10 batches, loss 2.9", "Epoch 1: 20 batches, loss 2.8", "Epoch 1: 30 batches, loss 2.7"],
        ["[rank0]: loss 2.9", "[rank1]: loss 2.8", "[rank0]: loss 2.7"],
        [],
    ],
)
def test_lines_without_a_prefix(lines: list[str]) -> None:
    assert find_prefix(lines) is None
    assert list(cut_prefixes(lines, None)) == lines


def test_step_in_brackets_is_no_prefix() -> None:
    lines = [f"0607 10:00:0{n}.1204 logging.py:48] [{n}00] loss=2.{n}" for n in (1, 2, 3)]
    assert list(cut_prefixes(lines, find_prefix(lines))) == [f"[{n}00] loss=2.{n}" for n in (1, 2, 3)]


def test_counter_and_name_with_an_underscore_are_no_prefix() -> None:
    lines = [f"[{n:03d}/050] train_loss: 1.{90 - n} | valid_loss: 2.{90 - n}" for n in range(1, 10)]
    assert find_prefix(lines) is None
