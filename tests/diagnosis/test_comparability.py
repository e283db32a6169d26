"""Which runs can be compared by their validation loss."""

from dataclasses import replace

import pytest

from harness.diagnosis.comparability import compare_runs
from harness.diagnosis.history import DataIdentity, History, RunFacts

DATA = DataIdentity("TextFiles", "d" * 16, "v" * 16, "900 bytes", "t" * 16, 2048)


def make_run(name: str, data: DataIdentity | None = DATA, unit: str | None = "nats/token", **rows: float) -> History:
    history = History(RunFacts(name=name, unit=unit, data=data))
    history.add_row(1, {"val/loss": 3.0, **{name.replace("_", "/"): value for name, value in rows.items()}})
    return history


def test_runs_on_the_same_data_are_comparable_whatever_they_trained_on() -> None:
    runs = [make_run("a"), make_run("b"), make_run("c", replace_data(digest="e" * 16), val_coverage=1.0)]
    found = compare_runs(runs)
    assert (found.verdict, found.reasons) == ("comparable", ())
    assert str(found).startswith("these runs are comparable: same validation data, tokenizer")


def replace_data(**changes: object) -> DataIdentity:
    return DATA._replace(**changes)


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (make_run("b", replace_data(validation="w" * 16)), "validation data: TextFiles vvvvvvvv (a), TextFiles wwww"),
        (make_run("b", replace_data(validation=None, digest="e" * 16)), "validation data: "),
        (make_run("b", replace_data(tokenizer="u" * 16, validation="x")), "tokenizer: tttttttt (a), uuuuuuuu (b)"),
        (make_run("b", replace_data(vocabulary=4096)), "vocabulary: 2048 tokens (a), 4096 tokens (b)"),
        (make_run("b", unit="nats/character"), "unit of val/loss: nats/token (a), nats/character (b)"),
        (make_run("b", val_coverage=0.94), "part of the validation set that is scored: 100.0% (a), 94.0% (b)"),
    ],
)
def test_a_difference_is_named(run: History, reason: str) -> None:
    found = compare_runs([make_run("a"), run])
    assert found.verdict == "not comparable"
    [only] = found.reasons
    assert only.startswith(reason)


def test_other_text_and_tokenizer_are_both_named() -> None:
    other = DataIdentity("PydocText", "x" * 16, "w" * 16, "8000 bytes", "u" * 16, 50257)
    parts = [reason.partition(":")[0] for reason in compare_runs([make_run("a"), make_run("b", other)]).reasons]
    assert parts == ["tokenizer", "vocabulary", "validation data"]


def test_foreign_logs_cannot_be_told() -> None:
    foreign = [make_run("log", None, None), make_run("log", None, None)]
    found = compare_runs(foreign)
    assert found.verdict == "cannot tell"
    assert [reason.partition(":")[0] for reason in found.reasons] == ["log #1", "log #2"]
    assert compare_runs([make_run("a"), foreign[0]]).verdict == "cannot tell"


def test_a_known_difference_outweighs_an_unknown_run() -> None:
    runs = [make_run("a"), make_run("b", replace_data(validation="w" * 16)), make_run("log", None, None)]
    assert compare_runs(runs).verdict == "not comparable"


def test_a_run_without_evaluation_has_no_unit() -> None:
    found = compare_runs([make_run("a"), make_run("b", unit=None)])
    assert (found.verdict, found.reasons) == ("cannot tell", ("b: it has no evaluation, so no unit",))


def test_fields_without_tokens_are_comparable() -> None:
    fields = DataIdentity("Darcy", "d" * 16, "v" * 16, None, "", None)
    runs = [make_run(name, fields, "relative L2 of physical fields") for name in "ab"]
    assert str(compare_runs(runs)) == "these runs are comparable: same validation data, unit and coverage"
    assert replace(runs[0].facts).data == fields
