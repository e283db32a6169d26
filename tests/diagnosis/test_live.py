"""Findings of a run that goes on are reported once."""

from harness.core.events import Diagnosis
from harness.diagnosis.history import Evidence
from harness.diagnosis.live import LiveDiagnosis


def make_spike(start: int, peak: int) -> Diagnosis:
    evidence: Evidence = {"last good step": start}
    return Diagnosis("spike", peak, 1.0, "the loss rose", evidence)


def test_a_kind_is_found_once() -> None:
    live = LiveDiagnosis()
    plateau = Diagnosis("plateau", 100, 0.96, "flat")
    assert live.keep_new([plateau]) == [plateau]
    assert not live.keep_new([Diagnosis("plateau", 200, 0.99, "still flat")])
    assert live.find_resolved([]) == [plateau]


def test_what_depends_on_an_unknown_length_has_to_last() -> None:
    live = LiveDiagnosis()
    for step in range(99):
        live.history.add_row(step, {"train/loss": 1.0})
    plateau, spike = Diagnosis("plateau", 100, 0.96, "flat"), make_spike(3, 9)
    for step, has_length, expected in (
        (100, False, [spike]), (149, False, [spike]), (149, True, [plateau, spike]), (150, False, [plateau, spike])
    ):  # fmt: skip
        live.history.add_row(step, {"train/loss": 1.0})
        assert live.select_settled([plateau, spike], has_length) == expected
    early = LiveDiagnosis()
    early.history.add_row(20, {"train/loss": 1.0})
    assert not early.select_settled([plateau], False)
    early.history.add_row(60, {"train/loss": 1.0})
    assert not early.select_settled([plateau], False)  # of two rows
    assert live.select_settled([], False) == []
    assert live.select_settled([plateau], False) == []  # it passed in between


def test_a_spike_that_rises_further_is_the_same_one() -> None:
    live = LiveDiagnosis()
    first, later, another = make_spike(103, 109), make_spike(106, 120), make_spike(300, 306)
    assert live.keep_new([first]) == [first]
    assert not live.keep_new([later])
    assert not live.keep_new([make_spike(115, 130)])
    assert live.keep_new([make_spike(103, 130), another]) == [another]
