"""The end of a trial in a training of several processes."""

import pytest

from harness.integrations.trial_reports import report_in_all_processes
from harness.sweep import Paused, Pruned
from harness.sweep.reporting import receive_reports
from tests.sweep.test_reporting import Notes


def test_another_process_leaves_without_an_error_when_the_first_one_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as left:
        report_in_all_processes(1.0, 1, 10, lambda is_over: True)
    assert left.value.code == 0


@pytest.mark.parametrize("kind", [Pruned, Paused])
def test_the_first_process_raises_after_it_has_told_the_others(kind: type[Exception]) -> None:
    notes, told = Notes(), list[bool]()
    notes.end = 2, kind("why")
    with receive_reports(notes):
        report_in_all_processes(1.0, 1, 10, lambda is_over: bool(told.append(is_over)) or is_over, "/out/1.pt")
        with pytest.raises(kind, match="why"):
            report_in_all_processes(1.0, 2, 10, lambda is_over: bool(told.append(is_over)) or is_over)
    assert told == [False, True]
    assert notes.checkpoints == ["/out/1.pt", None]
