"""Which runs can be compared by their validation loss."""

from dataclasses import replace
from functools import cache

import pytest

from harness.config.compose import compose_config, flatten_config, to_plain_dict
from harness.core.errors import ConfigError
from harness.core.objective_keys import is_objective_key, select_objective_settings
from harness.diagnosis.comparability import compare_runs
from harness.diagnosis.history import DataIdentity, History, RunFacts
from harness.run.resume import SettingChange, has_changed_validation
from harness.sweep.programs.training.validation import _check_objective_key
from harness.tracking.run_uploader import select_shown_params
from tests.observers.sample_events import make_effective_settings

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


MASKED, FIELDS, TEXT = ("task=masked_lm",), ("task=operator", "data=darcy"), ("data=text", "data.source.path=a.txt")


@cache
def params_of(*overrides: str) -> dict[str, str]:
    return flatten_config(to_plain_dict(compose_config(["experiment=smoke", *overrides])))


@pytest.mark.parametrize(
    ("change", "base", "is_other"),
    [
        ("data.sequence_length=32", (), True),
        ("data.layout=packed", (), True),
        ("task.of_mine=3", (), True),  # as of a task that nobody here knows
        ("task.mask_fraction=0.3", MASKED, True),
        ("task.mask=whole_word", MASKED, True),
        ("task.within_documents=false", MASKED, True),
        ("data.eval_batch_size=3", (), False),
        ("data.shuffle=false", (), False),
        ("data.val_fraction=0.2", (), False),  # the digest would differ
        ("task.blimp.per_paradigm=5", (), False),
        ("task.loss=l2", FIELDS, False),  # of the training alone
        ("data.train=500", FIELDS, False),
        ("optimizer.lr=0.1", (), False),
        ("loop.max_steps=7", (), False),
        ("seed=2", (), False),
    ],
)
def test_runs_whose_loss_measures_something_else_are_not_comparable(
    change: str, base: tuple[str, ...], is_other: bool
) -> None:
    """The digests agree, as they do for other rows of the same tokens."""
    key, _, value = change.partition("=")
    params = {key: "another", **params_of(*base)}
    runs = [make_run(name) for name in "ab"]
    for run, one in zip(runs, (params, {**params, key: value}), strict=True):
        run.facts = replace(run.facts, objective=select_objective_settings(one))
    found = compare_runs(runs)
    assert found.verdict == ("not comparable" if is_other else "comparable")
    assert [reason.partition(":")[0] for reason in found.reasons] == ([key] if is_other else [])


@pytest.mark.parametrize("options", [MASKED, FIELDS])
def test_a_run_is_comparable_with_what_mlflow_shows_of_it(options: tuple[str, ...]) -> None:
    params = params_of(*options)
    shown = select_shown_params({"params": params, "effective": vars(make_effective_settings())})
    assert "task.class" in select_objective_settings(params)
    assert select_objective_settings(shown) == select_objective_settings(params)


@pytest.mark.parametrize("options", [(), MASKED, FIELDS, TEXT])
def test_sweeps_and_resumed_runs_judge_keys_alike(options: tuple[str, ...]) -> None:
    """Every key that tells runs apart may not be searched, and discards the best loss of a resumed run."""
    for key in params_of(*options):
        is_refused = False
        try:
            _check_objective_key(key, ())
        except ConfigError:
            is_refused = True
        assert is_refused == is_objective_key(key) or key.startswith("loop.")
        change = SettingChange(key, "1", "2")
        assert not has_changed_validation([change]) or is_objective_key(key)
        if key in select_objective_settings({key: "1"}):
            assert is_refused
            assert has_changed_validation([change])


def test_foreign_logs_cannot_be_told() -> None:
    foreign = [make_run("log", None, None), make_run("log", None, None)]
    found = compare_runs(foreign)
    assert found.verdict == "cannot tell"
    assert list(found.reasons) == ["the logs do not say which data they were validated on"]
    mixed = compare_runs([make_run("a"), *foreign])
    assert mixed.verdict == "cannot tell"
    assert [reason.partition(":")[0] for reason in mixed.reasons] == ["log #2, log #3"]


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
