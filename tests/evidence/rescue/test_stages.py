"""The stages of a rescue run once each, and continue where an earlier command ended."""

from pathlib import Path

import pytest

from harness.core.errors import ConfigError, RunFailedError
from harness.core.files import FileLock
from harness.evidence.rescue.record import Ending, RescueRecord, StageResult
from harness.evidence.rescue.stages import LOCK_FILE, RunStage, run_stages

COMMAND = "plateau rescue experiment=smoke"


class Stages:
    """Three stages that note when they are run, one of which may raise or end the rescue."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.errors: dict[str, BaseException] = {}
        self.endings: dict[str, Ending] = {}

    def run(self, folder: Path) -> Ending | None:
        self.ran = []
        stages = {name: self._make_stage(name) for name in ("first", "second", "third")}
        return run_stages(stages, RescueRecord(folder, COMMAND, {}), COMMAND)

    def _make_stage(self, name: str) -> RunStage:
        def run_stage(record: RescueRecord) -> StageResult:
            self.ran.append(name)
            if name in self.errors:
                raise self.errors.pop(name)
            return StageResult(f"{name} is done", next_command=f"step after {name}", ending=self.endings.get(name))

        return run_stage


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyboardInterrupt("interrupted"), f"interrupted in stage second; to continue: {COMMAND}"),
        (KeyboardInterrupt("interrupted: by hand"), f"interrupted in stage second: by hand; to continue: {COMMAND}"),
        (RunFailedError("failed: disk"), f"stage second: failed: disk; to continue: {COMMAND}"),
    ],
)
def test_rescue_continues_with_the_stage_that_did_not_end(error, message, tmp_path, capsys) -> None:
    stages = Stages()
    stages.errors["second"] = error
    with pytest.raises(type(error)) as raised:
        stages.run(tmp_path)
    assert str(raised.value) == message
    capsys.readouterr()
    assert stages.run(tmp_path) is None
    assert stages.ran == ["second", "third"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == ["[1/3] first", "done before: first is done", "by hand, the next step is", "  step after first"]
    assert lines[4:6] == ["[2/3] second", "second is done"]


def test_ending_leaves_out_later_stages_and_is_kept(tmp_path) -> None:
    stages = Stages()
    stages.endings["second"] = Ending("not shown", "no better config was shown")
    for ran in (["first", "second"], []):
        assert stages.run(tmp_path) == stages.endings["second"]
        assert stages.ran == ran


def test_stage_that_found_a_fault_is_run_again(tmp_path) -> None:
    stages = Stages()
    stages.endings["second"] = Ending("fault", "your training has a fault")
    stages.run(tmp_path)
    stages.endings.clear()
    assert stages.run(tmp_path) is None
    assert stages.ran == ["second", "third"]


def test_two_processes_do_not_run_one_rescue(tmp_path) -> None:
    with FileLock(tmp_path / LOCK_FILE), pytest.raises(ConfigError, match="another process runs this rescue"):
        Stages().run(tmp_path)
