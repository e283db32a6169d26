import pytest

from harness.core.errors import ConfigError
from harness.evidence.judging.selection import join_baseline, select_config, select_runs
from tests.evidence.judging.loops import baseline_rows, judge_log, read_log, write_table

ROWS = [*baseline_rows(), "bbbbbb2  1.2650  4.1  keep  wider", "ccccccc  1.2600  4.2  discard  deeper"]


@pytest.mark.parametrize(
    ("selector", "numbers"),
    [("bbbbbb2", [6]), ("bbbbb", [6]), ("row=6", [6]), ("row=1-3,7", [1, 2, 3, 7]), ("memory_gb=4.2", [7]),
     ("status=keep", [1, 2, 3, 4, 5, 6])],
)  # fmt: skip
def test_runs_by_id_row_and_cell(tmp_path, selector: str, numbers: list[int]) -> None:
    log = read_log(write_table(tmp_path, *ROWS))
    assert [run.number for run in select_runs(log, selector, "--candidate")] == numbers


def test_what_is_not_there_or_not_one_configuration_is_refused(tmp_path) -> None:
    log = read_log(write_table(tmp_path, *ROWS))
    with pytest.raises(ConfigError, match="--candidate: ddd: no row is called so"):
        select_runs(log, "ddd", "--candidate")
    with pytest.raises(ConfigError, match="stands for 2 configurations"):
        select_config(log, "row=6-7")


def test_rows_chosen_as_the_baseline_are_repeats_and_no_others(tmp_path) -> None:
    rows = ["aaaaaa1  1.2850  4  keep  start", "bbbbbb2  1.2862  4  run  warm", "ccccccc  1.2841  4  run  cold",
            "ddddddd  1.2  4  run  wider"]  # fmt: skip
    log = join_baseline(read_log(write_table(tmp_path, *rows)), "row=1-3")
    found = judge_log(log)
    assert found.reference is not None
    assert found.reference.runs == (1, 2, 3)
    assert found.verdict == "keep"
