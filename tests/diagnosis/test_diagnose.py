"""Diagnoses of synthetic, recorded and published curves."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from harness.config.compose import compose_config
from harness.core.events import Diagnosis, Suggestion
from harness.diagnosis import diagnose
from harness.diagnosis.dialects import to_override
from harness.diagnosis.history import History, RunFacts, SpikeRecord
from harness.diagnosis.prescription import prescribe
from harness.diagnosis.suggestions import CHECK_FOR_BUG, CHECK_LR, round_digits
from harness.diagnosis.thresholds import Thresholds, parse_thresholds
from tests.diagnosis import recorded_runs
from tests.diagnosis.curves import FAMILIES, Curve, healthy_run, loss_bump, overfit_run, replace_facts
from tests.diagnosis.documented_runs import list_documented_runs

ROOT = Path(__file__).parents[2]
RECORDED = [recorded_runs.read_curve(path) for path in sorted(recorded_runs.FOLDER.glob("*.jsonl"))]
# exactly what docs/diagnosis.md says is missed and wrong
MISSED = {name: {"underfitting"} for name in ("short", "other_short", "short_constant")}
MISSED |= {"other_toy_idle": {"plateau"}}
WRONG = {"other_lr_far_too_high": {"dominating layer"}}


def kinds_of(history: History) -> set[str]:
    return {diagnosis.kind for diagnosis in diagnose(history)}


def get_diagnosis(history: History, kind: str) -> Diagnosis:
    [found] = [diagnosis for diagnosis in diagnose(history) if diagnosis.kind == kind]
    return found


def replay(history: History) -> Iterator[History]:
    """Yield what was known of the run after each evaluation, except the one before training."""
    rows: dict[int, dict[str, float]] = {}
    for name in history.metric_names():
        for step, value in zip(*history[name], strict=True):
            rows.setdefault(int(step), {})[name] = float(value)
    partial = History(replace(history.facts, status=None), [], history.checkpoints)
    for step in sorted(rows):
        partial.add_row(step, rows[step])
        partial.spikes = [spike for spike in history.spikes if spike.step <= step]
        if step and "val/loss" in rows[step]:
            yield partial


@pytest.mark.parametrize("family", FAMILIES)
def test_synthetic_fault_is_diagnosed_and_nothing_else(family: str) -> None:
    make, labels, allowed = FAMILIES[family]
    found = diagnose(make(1).to_history())
    kinds = {diagnosis.kind for diagnosis in found}
    assert labels <= kinds <= labels | allowed
    for diagnosis in found:
        assert diagnosis.evidence
        assert re.search(r"\d", diagnosis.reason) or diagnosis.kind == "scheduler misled"
        assert 0.5 <= diagnosis.confidence <= 1
        compose_config(["schedule=plateau", *(to_override(one) for one in diagnosis.suggestions if one.is_setting)])


@pytest.mark.parametrize("curve", RECORDED, ids=lambda curve: curve.name)
def test_recorded_run_is_diagnosed_as_documented(curve: Curve) -> None:
    kinds = kinds_of(curve.history)
    assert curve.labels - kinds == MISSED.get(curve.name, set())
    assert kinds - curve.labels - curve.allowed == WRONG.get(curve.name, set())


def test_ten_healthy_default_runs_have_no_diagnosis_at_any_evaluation() -> None:
    healthy = [curve.history for curve in RECORDED if curve.name.startswith("default_") and not curve.labels]
    assert len(healthy) == 10
    assert [kinds_of(partial) for history in healthy for partial in replay(history)] == [set()] * 50


def test_default_run_with_a_low_lr_has_no_other_diagnosis_at_any_evaluation() -> None:
    [curve] = [curve for curve in RECORDED if curve.name == "default_lr_far_too_low"]
    assert all(kinds_of(partial) <= curve.labels for partial in replay(curve.history))


@pytest.mark.parametrize("family", [family for family in FAMILIES if family.startswith("healthy")])
def test_healthy_run_has_no_diagnosis_at_any_evaluation(family: str) -> None:
    history = FAMILIES[family][0](2).to_history()
    assert [kinds_of(partial) for partial in replay(history)] == [set()] * (len(history["val/loss"]) - 1)


@pytest.mark.parametrize("family", ["stalled, constant", "spike that comes back", "rise that stays", "clipped, AdamW",
                                    "evaluations of few examples", "a layer without gradient"])  # fmt: skip
def test_diagnosis_persists_until_the_end(family: str) -> None:
    make, labels, _ = FAMILIES[family]
    previous: set[str] = set()
    for partial in replay(make(0).to_history()):
        kinds = kinds_of(partial)
        assert previous <= kinds
        previous = kinds & labels
    assert previous == labels


@pytest.mark.parametrize("status", ["interrupted", "pruned"])
def test_never_learnt_needs_half_of_the_run(status: str) -> None:
    history = History(RunFacts(status=status, total_steps=1000, uniform_loss=9.0, unigram_loss=7.2))
    for step in range(0, 31, 5):
        history.add_row(step, {"val/loss": 9.0 - 0.002 * step})
    assert diagnose(history) == []
    history.facts = replace(history.facts, status="completed")
    assert kinds_of(history) == {"never learnt"}


@pytest.mark.parametrize("unigram_loss", [None, 7.2])
def test_small_gain_beyond_the_noise_is_not_never_learnt(unigram_loss: float | None) -> None:
    history = FAMILIES["a small gain on trained weights"][0](3).to_history()
    history.facts = replace(history.facts, unigram_loss=unigram_loss)
    assert "never learnt" not in kinds_of(history)


def test_short_run_from_scratch_that_still_falls_is_not_never_learnt() -> None:
    history = History(RunFacts(status="completed", total_steps=20, uniform_loss=7.62, unigram_loss=6.15))
    for step, loss in {0: 7.64, 10: 7.03, 20: 6.91}.items():
        history.add_row(step, {"val/loss": loss})
    assert diagnose(history) == []


def test_never_learnt_suggests_a_range_test_instead_of_an_lr() -> None:
    diagnosis = get_diagnosis(FAMILIES["at the unigram level"][0](1).to_history(), "never learnt")
    assert diagnosis.suggestions == (CHECK_FOR_BUG, CHECK_LR)


def make_log(train: Sequence[float] = (), val: Sequence[float] = (), first: int = 0, **facts: object) -> History:
    """Return a log of a row every step, and of evaluations every 10 steps, from step `first` on."""
    history = History(RunFacts(**facts))
    for step, loss in enumerate(train, start=first + 1):
        history.add_row(step, {"train/loss": loss})
    for index, loss in enumerate(val):
        history.add_row(first + 10 * index, {"val/loss": loss})
    return history


ZERO_LOGS = {
    "training rows": ([0.0] * 49, []),
    "evaluations": ([], [0.0] * 4),
    "both": ([0.0] * 40, [0.0] * 5),
    "evaluations of a model that learns": (list(np.linspace(5, 3, 40)), [0.0] * 5),
    "evaluations with a NaN": ([], [0.0, 0.0, math.nan, 0.0, 0.0]),
}


@pytest.mark.parametrize("unigram_loss", [None, 7.2])
@pytest.mark.parametrize("log", ZERO_LOGS)
def test_loss_of_exactly_zero_is_a_bug_and_not_a_loss_that_falls(log: str, unigram_loss: float | None) -> None:
    train, val = ZERO_LOGS[log]
    history = make_log(train, val, unigram_loss=unigram_loss)
    assert kinds_of(history) == {"never learnt"}
    diagnosis = get_diagnosis(history, "never learnt")
    assert "exactly 0 at all" in diagnosis.reason
    assert diagnosis.suggestions == (CHECK_FOR_BUG,)
    params = {"optimizer.lr": "0.001", "start.kind": "scratch"}
    assert prescribe(history, [diagnosis], params).refusal.startswith("never learnt: ")


@pytest.mark.parametrize(("train", "val"), [([3.0] * 40, [0.0, 0.0, 0.0]), ([0.0] * 40, [5.0, 4.0, 3.5, 3.2, 3.1])])
def test_zeros_in_a_loss_that_does_not_decide_are_ignored(train: list[float], val: list[float]) -> None:
    assert all("exactly 0" not in diagnosis.reason for diagnosis in diagnose(make_log(train, val)))


@pytest.mark.parametrize(
    ("train", "val", "is_enough"),
    [(4, 1, False), (4, 0, False), (9, 3, False), (0, 3, False), (0, 2, False), (10, 1, True), (0, 4, True)],
)
@pytest.mark.parametrize("unigram_loss", [None, 6.15])
def test_never_learnt_needs_four_evaluations_or_ten_rows(
    train: int, val: int, is_enough: bool, unigram_loss: float | None
) -> None:
    """The short rest of a resumed run shows nothing either, a longer one a plateau if no guess is known."""
    for first, kind in ((0, "never learnt"), (30, "never learnt" if unigram_loss else "plateau")):
        losses = ([7.17] * train, [7.18] * val)
        history = make_log(*losses, first=first, status="completed", unigram_loss=unigram_loss)
        assert kinds_of(history) == ({kind} if is_enough else set())


def test_never_learnt_names_the_loss_that_it_quotes() -> None:
    reason = get_diagnosis(make_log([7.17] * 12, [7.18], unigram_loss=6.15), "never learnt").reason
    assert reason.startswith("the best train/loss, 7.17, is no better than ")
    reason = get_diagnosis(make_log([7.3] * 12, [4.0, 7.2, 7.3, 7.3], unigram_loss=6.15), "never learnt").reason
    assert reason.startswith("the best val/loss after the start, 7.2, is no better than ")


RISING = [3.0, 3.2, 3.5, 3.9, 4.3, 4.8, 5.2, 5.7, 6.1]
# validation loss, training loss, and whether it is overfitting
OVERFITTING_LOGS = {
    "rises from its first point": (RISING, [], False),
    "rises from a first point that noise lowers": ([3.005, *RISING], [], False),
    "falls before, without a training loss": ([6.0, 4.0, *RISING], [], True),
    "rises from its first point, while the training loss falls": (RISING, list(np.linspace(3, 1, 80)), True),
    "rises from its first point, as the training loss does": (RISING, list(np.linspace(3, 6, 80)), False),
}


@pytest.mark.parametrize("first", [0, 100])
@pytest.mark.parametrize("log", OVERFITTING_LOGS)
def test_overfitting_needs_a_loss_that_fell(log: str, first: int) -> None:
    val, train, is_overfitting = OVERFITTING_LOGS[log]
    kinds = kinds_of(make_log(train, val, first))
    assert ("overfitting" in kinds) == is_overfitting
    assert is_overfitting or kinds & {"rising loss", "divergence"}


@pytest.mark.parametrize("family", FAMILIES)
def test_suggestions_set_what_they_change_and_nothing_to_null(family: str) -> None:
    suggested = [one for found in diagnose(FAMILIES[family][0](3).to_history()) for one in found.suggestions]
    assert {one.key for one in suggested if one.value is None and one.factor is None} <= {"loop.grad_clip"}


@pytest.mark.parametrize(
    ("length", "override"),
    [
        (None, "loop.max_steps=2000"),  # twice what was run, which is more than total_steps
        (("loop.epochs", 2.5), "loop.epochs=5"),
        (("loop.max_tokens", 1e9), "loop.max_tokens=2000000000"),
    ],
)
def test_longer_run_is_suggested_in_the_unit_of_the_run(length: tuple[str, float] | None, override: str) -> None:
    history = replace_facts(FAMILIES["short, constant"][0](1), length=length, total_steps=500).to_history()
    assert [to_override(one) for one in get_diagnosis(history, "underfitting").suggestions] == [override]


def test_low_training_loss_is_overfitting_and_not_never_learnt() -> None:
    run = overfit_run(1)
    run.val = run.val + 5
    run.train = run.train * np.linspace(1, 0.2, run.steps)
    assert "never learnt" not in kinds_of(run.to_history())
    assert "overfitting" in kinds_of(run.to_history())


def test_plateau_depends_on_the_lr() -> None:
    run = healthy_run(4)
    assert "plateau" not in kinds_of(run.to_history())  # flat at the end of its cosine
    run.lr[:] = 1e-3
    run.clean = np.full(run.steps, 3.0) + 3 * np.exp(-np.arange(run.steps) / 150)
    run.val = run.clean[np.maximum(run.eval_steps - 1, 0)]
    assert "plateau" in kinds_of(replace_facts(run, schedule="Constant").to_history())


def test_loss_that_falls_with_the_lr_is_not_a_plateau() -> None:
    run = healthy_run(5)
    lr_penalty = np.where(run.lr > 2e-4, 0.5, 0.5 * run.lr / 2e-4)
    run.clean = 3 + 3 * np.exp(-np.arange(run.steps) / 150) + lr_penalty
    run.val = run.clean[np.maximum(run.eval_steps - 1, 0)]
    assert "plateau" not in kinds_of(run.to_history())
    run.val = 3.5 + 3 * np.exp(-run.eval_steps / 150)
    assert "plateau" in kinds_of(run.to_history())


def test_spike_has_its_examples_and_the_last_good_checkpoint() -> None:
    run = loss_bump(0)
    evidence = get_diagnosis(run.to_history(), "spike").evidence
    last_good_step = evidence["last good step"]
    assert evidence["from example"] == 32 * last_good_step
    assert evidence["from token"] == 4096 * last_good_step
    assert evidence["last good checkpoint"] == max(step for step in run.eval_steps if step <= last_good_step)
    assert evidence["recovered"] == "yes"
    assert evidence["z"] > 6


def test_spike_seen_during_training_is_not_reported_twice() -> None:
    history = loss_bump(0).to_history()
    last_good_step = int(get_diagnosis(history, "spike").evidence["last good step"])
    history.spikes.append(SpikeRecord(last_good_step + 5, last_good_step + 2, 5.0, 3.0, (640, 704), None))
    evidence = get_diagnosis(history, "spike").evidence
    assert (evidence["from example"], evidence["to example"]) == (640, 704)


def test_later_rows_do_not_change_earlier_spikes() -> None:
    found = [diagnose(partial) for partial in replay(loss_bump(2).to_history()) if "spike" in kinds_of(partial)]
    steps = [[one.evidence["last good step"] for one in each if one.kind == "spike"] for each in (found[0], found[-1])]
    assert steps[0] == steps[1]


def test_steep_initial_fall_is_not_a_spike() -> None:
    history = History()
    for step, loss in enumerate([2.1, 1.74, 1.6, 1.54, 1.49, 1.45, 1.43]):
        history.add_row(44 * step, {"val/loss": loss})
    assert "spike" not in kinds_of(history)


@pytest.mark.parametrize(("optimizer", "meaning"), [("Muon+AdamW", "another clip changes little"),
                                                    ("AdamWScheduleFree", "another clip changes little"),
                                                    ("SGDScheduleFree", "LR times clip"),
                                                    ("SGD", "LR times clip")])  # fmt: skip
def test_meaning_of_a_binding_clip_depends_on_the_optimizer(optimizer: str, meaning: str) -> None:
    diagnosis = get_diagnosis(FAMILIES["clipped, AdamW"][0](1, optimizer).to_history(), "clipping binds")
    assert meaning in diagnosis.reason
    suggestion = Suggestion("loop.grad_clip", round_digits(float(diagnosis.evidence["norm p90"])))
    assert diagnosis.suggestions == (() if "changes little" in meaning else (suggestion,))


def test_truncated_warmup_shows_in_the_lr_curve_alone() -> None:
    run = replace_facts(healthy_run(1, warmup=0), requested_warmup=400.0, warmup_steps=None)
    diagnosis = get_diagnosis(run.to_history(), "warm-up truncated")
    assert diagnosis.suggestions == (Suggestion("schedule.warmup_steps", 400),)
    run = replace_facts(healthy_run(1, warmup=400), requested_warmup=400.0, warmup_steps=None)
    assert kinds_of(run.to_history()) == set()


def test_idle_scheduler_reports_its_earliest_cut() -> None:
    history = FAMILIES["plateau schedule that cannot act"][0](1).to_history()
    interval = int(np.median(np.diff(history["val/loss"].steps)))
    assert get_diagnosis(history, "scheduler idle").evidence["earliest cut at"] == 22 * interval


def test_noisy_evaluation_suggests_a_larger_validation_set_if_there_is_a_setting() -> None:
    run = FAMILIES["evaluations of few examples"][0](1)
    assert get_diagnosis(run.to_history(), "noisy evaluation").suggestions == ()
    history = replace_facts(run, val_fraction=0.1).to_history()
    assert get_diagnosis(history, "noisy evaluation").suggestions == (Suggestion("data.val_fraction", 0.2),)


def test_empty_histories_and_infinite_values() -> None:
    assert diagnose(History()) == []
    history = History()
    history.add_row(1, {"train/loss": 3.0})
    assert diagnose(history) == []
    run = healthy_run(1)
    run.train[100:110] = math.inf
    run.val[3] = math.inf
    assert "divergence" not in kinds_of(run.to_history())


def test_parse_thresholds() -> None:
    assert parse_thresholds([]) == Thresholds()
    assert parse_thresholds(["spike_z=8", "clip_fraction=0.5"]) == Thresholds(spike_z=8, clip_fraction=0.5)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("confidence=2", "confidence: 2 must be between 0 and 0.9999"),
        ("min_points=0", "min_points: 0 must be 3 or more"),
        ("spike_fraction=-0.1", "spike_fraction: -0.1 must be between 0 and 1"),
        ("spike_z=high", "spike_z: 'high' must be a number"),
        ("strict", "strict: unknown threshold; must be one of confidence, min_points"),
    ],
)
def test_parse_thresholds_rejects_invalid_values(assignment: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_thresholds([assignment])


def test_threshold_yaml_has_the_defaults_of_the_code_with_their_sources() -> None:
    assert dict(compose_config([]).thresholds) == asdict(Thresholds())
    lines = (ROOT / "conf/thresholds/default.yaml").read_text().splitlines()[1:]
    assert all(re.fullmatch(r"\w+: \S+ # .{10,}", line) for line in lines)


def test_docs_state_the_number_of_curves_and_the_diagnoses_of_published_runs() -> None:
    page = (ROOT / "docs/diagnosis.md").read_text()
    held_out = sum(curve.is_held_out for curve in RECORDED)
    assert f"{len(FAMILIES)} families" in page
    assert f"real, looked at ({len(RECORDED) - held_out}) | real, held out ({held_out})" in page
    for history in list_documented_runs():
        found = ", ".join(diagnosis.kind for diagnosis in diagnose(history)) or "nothing"
        assert f"| {history.facts.name} | {found} |" in page
