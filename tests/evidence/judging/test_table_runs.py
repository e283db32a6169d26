import pytest

from harness.evidence.judging.table_runs import (
    is_baseline_text,
    is_seed_change_text,
    read_outcome,
    strip_repeat_marks,
)
from tests.evidence.judging.loops import read_log, write_table


@pytest.mark.parametrize(
    "text",
    ["baseline", "Baseline (repeat)", "baseline seed 1", "baseline_seed42", "baseline rerun #2",
     "noise floor: baseline run 3", "baseline (best from session 2)", "unchanged baseline, seed=1337",
     "baseline - no changes"],
)  # fmt: skip
def test_repeats_of_the_baseline(text: str) -> None:
    assert is_baseline_text(text)


@pytest.mark.parametrize(
    "text",
    ["baseline with all merged features", "combo didn't beat baseline", "baseline + warm-up", "wider", "",
     "baseline lr 3e-4", "new best"],
)  # fmt: skip
def test_changes_that_mention_the_baseline(text: str) -> None:
    assert not is_baseline_text(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed 42 to 137", True), ("random seed 42 -> 137", True), ("Change random seed", True),
        ("try seed 1337", True),
        ("exp12: different seed", True), ("set torch.manual_seed(137)", True),
        ("wider, seed 2", False), ("seed embeddings with word2vec", False), ("lower lr", False), ("", False),
    ],
)  # fmt: skip
def test_changes_of_the_seed_alone(text: str, expected: bool) -> None:
    assert is_seed_change_text(text) == expected


@pytest.mark.parametrize(
    "text", ["wider seed 3", "wider (seed=4)", "Wider, rerun", "wider run 2/3", "wider #2", "wider s7"]
)
def test_numbers_of_repeats_do_not_make_another_configuration(text: str) -> None:
    assert strip_repeat_marks(text) == "wider"


def test_a_name_that_is_nothing_but_a_number_of_a_run_stays() -> None:
    assert strip_repeat_marks("run 3") == "run 3"
    assert strip_repeat_marks("trial 7") == "trial 7"


@pytest.mark.parametrize(
    ("status", "outcome"),
    [("keep", "keep"), ("KEEP", "keep"), ("best", "keep"), ("ADOPTED-WIN", "keep"), ("early-win", "keep"),
     ("discard", "discard"), ("REVERT", "discard"), ("worse", "discard"), ("crash", "crash"), ("infra-fail", "crash"),
     ("FAILED", "crash"), ("oom", "crash"), ("reference", "baseline"), ("BASELINE", "baseline"), ("run", ""),
     ("tentative", ""), ("", "")],
)  # fmt: skip
def test_statuses_in_use(status: str, outcome: str) -> None:
    assert read_outcome(status) == outcome


@pytest.mark.parametrize("cell", ["", "nan", "inf", "-", "FAILED", "0.000000", "-999.000"])
def test_rows_without_a_result(tmp_path, cell: str) -> None:
    rows = ["a1b2c3d\t1.2\t4\tkeep\tbaseline", "b1b2c3d\t1.3\t4\tdiscard\twider", f"c1b2c3d\t{cell}\t4\tdiscard\tx"]
    path = tmp_path / "results.tsv"
    path.write_text("commit\tval_bpb\tmemory_gb\tstatus\tdescription\n" + "\n".join(rows) + "\n")
    log = read_log(path)
    assert log.runs[2].value is None
    assert log.runs[2].problem


def test_one_commit_with_several_descriptions_is_several_configurations(tmp_path) -> None:
    rows = [f"79b4126  1.87{k}  2.2  discard  {what}" for k, what in enumerate(["wider", "higher lr", "deeper"])]
    assert len(read_log(write_table(tmp_path, *rows)).configs) == 3


def test_one_description_of_several_commits_is_several_configurations(tmp_path) -> None:
    rows = [f"{commit}  1.87  2.2  discard  automatic iteration" for commit in ("a1b2c3d", "b1b2c3d", "c1b2c3d")]
    assert len(read_log(write_table(tmp_path, *rows)).configs) == 3


def test_ids_that_count_the_rows_do_not_separate_repeats(tmp_path) -> None:
    rows = [f"exp{k}  {1.2 + k / 100}  lr 0.1{mark}" for k, mark in enumerate(["", " rerun", " (rerun 2)"])]
    rows.append("exp3  1.1  lr 0.2")
    assert len(read_log(write_table(tmp_path, *rows, header="exp\tval_loss\tdescription")).configs) == 2


def test_names_with_seeds_are_repeats(tmp_path) -> None:
    rows = [f"{name}_seed{seed}  {1.2 + seed / 100}" for name in ("baseline", "bf16") for seed in (1, 2, 3)]
    log = read_log(write_table(tmp_path, *rows, header="run_name\tval_loss"))
    assert [len(config.runs) for config in log.configs] == [3, 3]
    assert log.configs[0].is_baseline


def test_columns_of_settings_decide_if_they_are_named(tmp_path) -> None:
    rows = ["a  0.10  1.2  1", "b  1e-1  1.3  2", "c  0.2  1.1  1"]
    path = write_table(tmp_path, *rows, header="id\tlr\tval_loss\tseed")
    assert [len(config.runs) for config in read_log(path, config=["lr"]).configs] == [2, 1]
    assert len(read_log(path).configs) == 3


def test_the_first_row_that_begins_with_baseline_is_the_baseline(tmp_path) -> None:
    rows = ["a1b2c3d  1.2  4  keep  baseline SwiGLU, 12 layers", "b1b2c3d  1.3  4  keep  baseline with all features"]
    log = read_log(write_table(tmp_path, *rows))
    assert [run.is_baseline for run in log.runs] == [True, False]
    assert any("row 2" in note and "--baseline" in note for note in log.notes)


def test_counted_rows_with_one_vague_description_are_no_repeats(tmp_path) -> None:
    rows = [f"exp{k}  {2 + k / 10}  keep  automatic iteration" for k in range(4)]
    assert len(read_log(write_table(tmp_path, *rows, header="exp\tscore\tstatus\tdescription")).configs) == 4
