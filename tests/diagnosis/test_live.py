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


def test_a_spike_that_rises_further_is_the_same_one() -> None:
    live = LiveDiagnosis()
    first, later, another = make_spike(103, 109), make_spike(106, 120), make_spike(300, 306)
    assert live.keep_new([first]) == [first]
    assert not live.keep_new([later])
    assert not live.keep_new([make_spike(115, 130)])
    assert live.keep_new([make_spike(103, 130), another]) == [another]
