"""Each diagnosis is said where its fault is, rests on numbers, and stays said."""

import math
import re
from collections.abc import Iterator
from dataclasses import asdict, replace

import numpy as np
import pytest

from harness.config.compose import compose_config
from harness.core.events import Diagnosis
from harness.diagnosis import check_comparability, diagnose
from harness.diagnosis.history import History, RunFacts, SpikeRecord
from harness.diagnosis.thresholds import Thresholds
from tests.diagnosis import recorded_runs
from tests.diagnosis.curves import (
    FAMILIES,
    Curve,
    SimulatedRun,
    healthy_run,
    loss_bump,
    overfit_run,
    replace_facts,
    simulate_run,
)
from tests.diagnosis.documented_runs import gpt2, gpt2_resumed, list_documented_runs, operator

RECORDED = [recorded_runs.read_curve(path) for path in sorted(recorded_runs.FOLDER.glob("*.jsonl"))]
MISSED = {name: {"underfitting"} for name in ("short", "other_short", "short_constant")} | {
    "other_toy_idle": {"plateau"}
}
WRONG = {"other_lr_far_too_high": {"dominating layer"}}
"""Of the real runs, exactly what docs/diagnosis.md says is missed or wrong."""


def kinds(history: History, limits: Thresholds | None = None) -> set[str]:
    return {diagnosis.kind for diagnosis in diagnose(history, limits)}


def one(history: History, kind: str) -> Diagnosis:
    [diagnosis] = [diagnosis for diagnosis in diagnose(history) if diagnosis.kind == kind]
    return diagnosis


def as_it_grew(history: History) -> Iterator[History]:
    """What was known of the run after each evaluation but the one before training."""
    rows: dict[int, dict[str, float]] = {}
    for name in history.metric_names():
        for step, value in zip(*history[name], strict=True):
            rows.setdefault(int(step), {})[name] = float(value)
    grown = History(replace(history.facts, status=None), [], history.checkpoints)
    for step in sorted(rows):
        grown.add_row(step, rows[step])
        grown.spikes = [spike for spike in history.spikes if spike.step <= step]
        if step and "val/loss" in rows[step]:
            yield grown


@pytest.mark.parametrize("family", FAMILIES)
def test_of_a_curve_with_a_fault_that_is_said_and_nothing_else(family: str) -> None:
    make, labels, may = FAMILIES[family]
    said = kinds(make(1).history())
    assert labels <= said <= labels | may


@pytest.mark.parametrize("curve", [curve for curve in RECORDED if not curve.labels], ids=lambda curve: curve.name)
def test_of_a_healthy_run_made_here_nothing_is_said(curve: Curve) -> None:
    assert kinds(curve.history) <= curve.allowed


def test_of_ten_default_runs_nothing_is_said_at_any_evaluation() -> None:
    healthy = [curve.history for curve in RECORDED if curve.name.startswith("default_") and not curve.labels]
    assert len(healthy) == 10
    said = [kinds(grown) for history in healthy for grown in as_it_grew(history)]
    assert said == [set()] * 50


@pytest.mark.parametrize("curve", [curve for curve in RECORDED if curve.labels], ids=lambda curve: curve.name)
def test_of_a_real_run_with_a_planted_fault_that_is_said_and_no_other_but_for_what_the_page_admits(
    curve: Curve,
) -> None:
    said = kinds(curve.history)
    assert curve.labels - said == MISSED.get(curve.name, set())
    assert said - curve.labels - curve.allowed == WRONG.get(curve.name, set())


def test_of_a_default_run_at_far_too_low_an_lr_nothing_else_is_said_while_it_goes_on() -> None:
    [curve] = [curve for curve in RECORDED if curve.name == "default_lr_far_too_low"]
    assert all(kinds(grown) <= curve.labels for grown in as_it_grew(curve.history))


@pytest.mark.parametrize("status", ["interrupted", "pruned"])
def test_a_run_stopped_in_its_warmup_is_not_called_never_learnt(status: str) -> None:
    history = History(RunFacts(status=status, total_steps=1000, uniform=9.0, unigram=7.2))
    for step in range(0, 31, 5):
        history.add_row(step, {"val/loss": 9.0 - 0.002 * step})
    assert diagnose(history) == []
    history.facts = replace(history.facts, status="completed")
    assert kinds(history) == {"never learnt"}


@pytest.mark.parametrize("unigram", [None, 7.2])
def test_trained_weights_that_gain_less_than_a_hundredth_beyond_the_noise_have_learnt(unigram: float | None) -> None:
    history = FAMILIES["a small gain on trained weights"][0](3).history()
    history.facts = replace(history.facts, unigram=unigram)
    assert "never learnt" not in kinds(history)


def test_a_short_run_from_scratch_that_falls_is_on_its_way_to_the_guess() -> None:
    history = History(RunFacts(status="completed", total_steps=20, uniform=7.62, unigram=6.15))
    for step, loss in {0: 7.64, 10: 7.03, 20: 6.91}.items():
        history.add_row(step, {"val/loss": loss})
    assert diagnose(history) == []


def test_what_never_learnt_gets_no_lr_but_the_way_to_one() -> None:
    diagnosis = one(FAMILIES["at the unigram level"][0](1).history(), "never learnt")
    assert diagnosis.overrides == ()
    assert "python -m harness lr-range" in diagnosis.reason


def test_a_share_to_hold_out_is_proposed_only_where_there_is_one() -> None:
    run = FAMILIES["evaluations of few examples"][0](1)
    assert one(run.history(), "noisy evaluation").overrides == ()
    assert one(replace_facts(run, val_fraction=0.1).history(), "noisy evaluation").overrides == (
        "data.val_fraction=0.2",
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [({"confidence": 2}, "confidence: 2 must lie between 0 and 0.9999"), ({"fewest": 0}, "fewest: 0 must be 3 or more"),
     ({"spike_share": -0.1}, "spike_share: -0.1 must lie between 0 and 1")],
)  # fmt: skip
def test_a_threshold_that_cannot_be_one_is_refused(given: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        Thresholds(**given)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family.startswith("healthy")])
def test_a_healthy_run_hears_nothing_while_it_goes_on(family: str) -> None:
    history = FAMILIES[family][0](2).history()
    assert [kinds(grown) for grown in as_it_grew(history)] == [set()] * (len(history["val/loss"]) - 1)


@pytest.mark.parametrize("family", ["stalled, constant", "spike that comes back", "rise that stays", "clipped, AdamW",
                                    "evaluations of few examples", "a layer without gradient"])  # fmt: skip
def test_what_was_said_once_stays_said(family: str) -> None:
    make, labels, _ = FAMILIES[family]
    said: set[str] = set()
    for grown in as_it_grew(make(0).history()):
        assert said <= kinds(grown)
        said = kinds(grown) & labels
    assert said == labels


def test_every_verdict_carries_numbers_and_overrides_that_compose_together() -> None:
    for make, _, _ in FAMILIES.values():
        for diagnosis in diagnose(make(1).history()):
            assert diagnosis.evidence
            assert re.search(r"\d", diagnosis.reason) or diagnosis.kind == "scheduler misled"
            assert 0.5 <= diagnosis.confidence <= 1
            compose_config(["schedule=plateau", *diagnosis.overrides])


def test_asking_twice_gives_the_same_answer() -> None:
    history = loss_bump(3).history()
    assert diagnose(history) == diagnose(history)


def test_a_cosine_at_its_end_is_no_plateau_and_the_same_loss_at_a_constant_lr_is_one() -> None:
    run = healthy_run(4)
    assert "plateau" not in kinds(run.history())
    run.lr[:] = 1e-3
    run.clean = np.full(run.steps, 3.0) + 3 * np.exp(-np.arange(run.steps) / 150)
    run.val = run.clean[np.maximum(run.eval_steps - 1, 0)]
    assert "plateau" in kinds(replace_facts(run, schedule="Constant").history())


def test_a_loss_that_falls_when_the_lr_does_was_held_up_by_it_and_is_no_plateau() -> None:
    run = healthy_run(5)
    held_up = np.where(run.lr > 2e-4, 0.5, 0.5 * run.lr / 2e-4)
    run.clean = 3 + 3 * np.exp(-np.arange(run.steps) / 150) + held_up
    run.val = run.clean[np.maximum(run.eval_steps - 1, 0)]
    assert "plateau" not in kinds(run.history())
    run.val = 3.5 + 3 * np.exp(-run.eval_steps / 150)
    assert "plateau" in kinds(run.history())


def test_a_spike_names_what_fed_it_and_the_last_good_checkpoint() -> None:
    run = loss_bump(0)
    diagnosis = one(run.history(), "spike")
    began_at = diagnosis.evidence["began at"]
    assert diagnosis.evidence["from example"] == 32 * began_at
    assert diagnosis.evidence["from token"] == 4096 * began_at
    assert diagnosis.evidence["last good checkpoint"] == max(step for step in run.eval_steps if step <= began_at)
    assert diagnosis.evidence["recovered"] == "yes"
    assert diagnosis.evidence["z"] > 6


def test_a_spike_that_was_seen_live_is_not_told_again_from_the_curve() -> None:
    history = loss_bump(0).history()
    began_at = int(one(history, "spike").evidence["began at"])
    history.spikes.append(SpikeRecord(began_at + 5, began_at + 2, 5.0, 3.0, (640, 704), None))
    diagnosis = one(history, "spike")
    assert (diagnosis.evidence["from example"], diagnosis.evidence["to example"]) == (640, 704)


def test_what_comes_later_does_not_change_what_was_a_spike() -> None:
    first, *_, last = (diagnose(grown) for grown in as_it_grew(loss_bump(2).history()) if "spike" in kinds(grown))
    told = [[v.evidence["began at"] for v in diagnoses if v.kind == "spike"] for diagnoses in (first, last)]
    assert told[0] == told[1]


def test_a_validation_loss_that_falls_steeply_from_its_first_points_is_no_spike() -> None:
    history = History(RunFacts())
    for step, loss in enumerate([2.1, 1.74, 1.6, 1.54, 1.49, 1.45, 1.43]):
        history.add_row(44 * step, {"val/loss": loss})
    assert "spike" not in kinds(history)


def test_a_training_loss_far_below_the_guess_is_overfitting_and_not_never_learnt() -> None:
    run = overfit_run(1)
    run.val = run.val + 5
    run.train = run.train * np.linspace(1, 0.2, run.steps)
    assert "never learnt" not in kinds(run.history())
    assert "overfitting" in kinds(run.history())


@pytest.mark.parametrize(("optimizer", "says"), [("Muon+AdamW", "a clip of 1 or 2 changes little"),
                                                 ("AdamWScheduleFree", "a clip of 1 or 2 changes little"),
                                                 ("SGDScheduleFree", "LR times clip"),
                                                 ("SGD", "LR times clip")])  # fmt: skip
def test_what_a_clip_that_binds_means_depends_on_the_optimizer(optimizer: str, says: str) -> None:
    diagnosis = one(FAMILIES["clipped, AdamW"][0](1, optimizer).history(), "clipping binds")
    assert says in diagnosis.reason
    assert "before clipping" in diagnosis.reason
    assert diagnosis.overrides == (f"loop.grad_clip={diagnosis.evidence['norm p90']:.2g}",)


def test_a_warmup_shorter_than_asked_is_seen_in_the_lr_alone() -> None:
    run = replace_facts(healthy_run(1, warmup=0), warmup_asked=400.0, warmup_steps=None)
    assert one(run.history(), "warm-up truncated").overrides == (
        "schedule.warmup_ratio=null",
        "schedule.warmup_steps=400",
    )
    run = replace_facts(healthy_run(1, warmup=400), warmup_asked=400.0, warmup_steps=None)
    assert kinds(run.history()) == set()


def test_an_idle_schedule_is_told_when_it_could_have_acted() -> None:
    make = FAMILIES["plateau schedule that cannot act"][0]
    history = make(1).history()
    every = int(np.median(np.diff(history["val/loss"].steps)))
    assert one(history, "scheduler idle").evidence["earliest cut at"] == 22 * every


def test_losses_of_other_units_or_coverage_cannot_be_compared() -> None:
    per_token, per_character = healthy_run(1), replace_facts(healthy_run(2), unit="nats/character")
    assert check_comparability([per_token.history(), healthy_run(3).history()]) == []
    [diagnosis] = check_comparability([per_token.history(), per_character.history()])
    assert (diagnosis.kind, diagnosis.evidence["units"]) == ("incomparable", "nats/character, nats/token")
    whole, part = with_coverage(1, 1.0), with_coverage(2, 0.94)
    assert [diagnosis.kind for diagnosis in check_comparability([whole.history(), part.history()])] == ["incomparable"]


def with_coverage(seed: int, share: float) -> SimulatedRun:
    run = healthy_run(seed)
    run.coverage = np.full(len(run.eval_steps), share)
    return run


def test_nothing_is_said_of_a_run_of_which_nothing_is_known() -> None:
    assert diagnose(History()) == []
    history = History()
    history.add_row(1, {"train/loss": 3.0})
    assert diagnose(history) == []


def test_infinite_and_missing_values_are_borne() -> None:
    run = simulate_run(1)
    run.train[100:110] = math.inf
    run.val[3] = math.inf
    assert "divergence" not in kinds(run.history())


def test_the_yaml_holds_the_same_numbers_as_the_code_each_with_its_source() -> None:
    cfg = compose_config(["thresholds=default"])
    assert dict(cfg.thresholds) == asdict(Thresholds())
    lines = (recorded_runs.FOLDER.parents[2] / "conf/thresholds/default.yaml").read_text().splitlines()[1:]
    assert all(re.fullmatch(r"\w+: \S+ # .{10,}", line) for line in lines)


def test_the_rules_of_the_documents_are_a_preset_that_calls_their_curves_what_they_did() -> None:
    preset = Thresholds(**compose_config(["thresholds=documents"]).thresholds)
    assert (preset.spike_rise, preset.norm_limit, preset.plateau_drop, preset.plateau_steps) == (0.3, 3.0, 0.01, 1500)
    assert "plateau" in kinds(gpt2().history, preset)
    assert "spike" in kinds(gpt2_resumed().history, preset)
    assert "high gradient norm" in kinds(operator().history, preset)
    assert "high gradient norm" not in kinds(operator().history)


def test_the_page_counts_the_families_and_the_real_runs() -> None:
    page = (recorded_runs.FOLDER.parents[2] / "docs/diagnosis.md").read_text()
    held_out = sum(curve.is_held_out for curve in RECORDED)
    assert f"{len(FAMILIES)} families" in page
    assert f"real, looked at ({len(RECORDED) - held_out}) | real, held out ({held_out})" in page


def test_what_is_said_of_the_documents_is_what_the_page_says() -> None:
    page = (recorded_runs.FOLDER.parents[2] / "docs/diagnosis.md").read_text()
    for document in list_documented_runs():
        said = ", ".join(diagnosis.kind for diagnosis in diagnose(document.history)) or "nothing"
        assert f"| {document.name} | {said} |" in page, (document.name, said)
