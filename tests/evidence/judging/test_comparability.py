import pytest

from tests.evidence.judging.loops import judge_table, write_table

VALUES = (1.285, 1.2862, 1.2841)


def judge_with_column(folder, column: str, known: str, tested: str, **options: object):
    rows = [f"aaaaaa1  {value}  {known}  baseline run {k}" for k, value in enumerate(VALUES)]
    path = write_table(
        folder, *rows, f"bbbbbb2  1.1  {tested}  wider", header=f"commit\tval_bpb\t{column}\tdescription"
    )
    return judge_table(path, **options)


@pytest.mark.parametrize(
    ("column", "known", "tested"),
    [
        ("val_data", "shard_9", "shard_8"), ("dataset", "climbmix", "fineweb"), ("eval_set", "v1", "v2"),
        ("split", "val", "train"), ("val_digest", "ab12", "cd34"), ("eval_tokens", "21000000", "1000000"),
        ("val_examples", "500", "100"), ("unit", "bits/byte", "nats"), ("denominator", "bytes", "tokens"),
        ("vocab_size", "8192", "4096"), ("tokenizer", "gpt2", "mine"), ("eval_version", "1", "2"),
        ("eval_commit", "a1b2c3d", "b1b2c3d"), ("time_budget", "300", "600"), ("budget_sec", "300s", "600s"),
        ("max_steps", "1000", "2000"), ("training_seconds", "300.1", "412.0"), ("total_tokens_M", "50", "60"),
        ("num_steps", "953", "1300"),
    ],
)  # fmt: skip
def test_what_makes_values_comparable_must_not_change(tmp_path, column: str, known: str, tested: str) -> None:
    found = judge_with_column(tmp_path, column, known, tested)
    assert (found.verdict, found.exit_status) == ("not comparable", 2)
    assert column in found.reasons[0]
    assert tested in found.reasons[0]
    assert known in found.reasons[0]


@pytest.mark.parametrize(
    ("column", "known", "tested"),
    [
        ("memory_gb", "4.0", "6.0"), ("lr", "0.1", "0.2"), ("train_loss", "3.0", "2.9"), ("mfu", "50", "55"),
        ("tok_per_sec", "30000", "40000"), ("num_params_M", "162", "200"), ("training_seconds", "300.1", "301.0"),
        ("training_seconds", "300.1", "250"), ("timestamp", "2026-01-01", "2026-01-02"), ("depth", "12", "14"),
        ("vocab_size", "8192", "8192"), ("val_acc", "0.5", "0.6"), ("model", "a", "b"),
    ],
)  # fmt: skip
def test_what_a_change_may_change(tmp_path, column: str, known: str, tested: str) -> None:
    assert judge_with_column(tmp_path, column, known, tested, metric="val_bpb").verdict == "keep"


def test_a_cost_that_differs_among_the_runs_before_is_no_budget(tmp_path) -> None:
    rows = [f"aaaaaa1  {value}  {900 + 50 * k}  baseline run {k}" for k, value in enumerate(VALUES)]
    path = write_table(tmp_path, *rows, "bbbbbb2  1.1  1300  wider", header="commit\tval_bpb\tnum_steps\tdescription")
    assert judge_table(path).verdict == "keep"


@pytest.mark.parametrize("description", ["seed 42 to 137", "random seed 137", "try a different seed"])
def test_a_win_whose_only_change_is_the_seed(tmp_path, description: str) -> None:
    rows = [f"aaaaaa1  {value}  4  keep  baseline run {k}" for k, value in enumerate(VALUES)]
    found = judge_table(write_table(tmp_path, *rows, f"bbbbbb2  1.1  4  keep  {description}"))
    assert found.verdict == "not comparable"
    assert "seed" in found.reasons[0]


def test_a_seed_that_differs_where_its_noise_is_unknown(tmp_path) -> None:
    header = "commit\tval_bpb\tseed\tdescription"
    rows = [f"aaaaaa1  {value}  42  baseline" for value in VALUES]
    found = judge_table(write_table(tmp_path, *rows, "bbbbbb2  1.1  137  wider", header=header))
    assert found.verdict == "not comparable"
    assert "137 against 42" in found.reasons[0]
    varied = [f"aaaaaa1  {value}  {seed}  baseline" for seed, value in enumerate(VALUES)]
    assert judge_table(write_table(tmp_path, *varied, "bbbbbb2  1.1  137  wider", header=header)).verdict == "keep"


@pytest.mark.parametrize("row", ["bbbbbb2  0.0  0  crash  wider", "bbbbbb2  nan  4  run  wider"])
def test_a_candidate_without_a_result(tmp_path, row: str) -> None:
    rows = [f"aaaaaa1  {value}  4  keep  baseline run {k}" for k, value in enumerate(VALUES)]
    found = judge_table(write_table(tmp_path, *rows, row))
    assert found.verdict == "not comparable"
    assert "row 4" in found.reasons[0]
