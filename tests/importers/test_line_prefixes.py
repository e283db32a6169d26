"""Prefixes that all lines of a log begin with."""

import pytest

from harness.importers.line_prefixes import cut_prefixes, find_prefix


@pytest.mark.parametrize(
    "prefixes",
    [
        ("> ", "> ", ">", "> "),
        ("[rank3]: ", "[rank3]: ", "[rank3]:", "[rank3]: "),
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
        [],
    ],
)
def test_lines_without_a_common_prefix(lines: list[str]) -> None:
    assert find_prefix(lines) is None
    assert list(cut_prefixes(lines, None)) == lines
