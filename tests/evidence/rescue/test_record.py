"""rescue.json keeps what was found, and refuses other inputs and damage."""

import pytest

from harness.core.errors import ConfigError
from harness.evidence.rescue.record import Ending, RescueRecord, StageResult

INPUTS = {"overrides": ["experiment=smoke"], "run": None, "budget_runs": 12}
ENDING = Ending("not shown", "no better config was shown", "python run.py")
RESULT = StageResult("two trials", {"n": 2, "ratio": float("nan")}, "plateau confirm X", ENDING)


def test_what_a_stage_found_is_read_back(tmp_path) -> None:
    RescueRecord(tmp_path, "plateau rescue", INPUTS).finish_stage("sweep", RESULT)
    record = RescueRecord(tmp_path, "plateau rescue", INPUTS)
    found = record.get_result("sweep")
    assert found is not None
    assert (found.summary, found.next_command, found.ending) == ("two trials", "plateau confirm X", ENDING)
    assert record.get_details("sweep") == {"n": 2, "ratio": "NaN"}
    assert record.get_result("report") is None
    assert record.to_json()["ending"]["sentence"] == "no better config was shown"


def test_other_inputs_are_refused_with_what_differs(tmp_path) -> None:
    RescueRecord(tmp_path, "plateau rescue experiment=smoke", INPUTS).finish_stage("sweep", RESULT)
    with pytest.raises(ConfigError) as raised:
        RescueRecord(tmp_path, "plateau rescue", {**INPUTS, "overrides": [], "budget_runs": 3})
    message = str(raised.value)
    assert message.startswith(f"--to: {tmp_path} holds another rescue (")
    assert "overrides: experiment=smoke -> none; budget_runs: 12 -> 3" in message
    assert message.endswith("continue that one with plateau rescue experiment=smoke")


@pytest.mark.parametrize(
    "damage", ["", "[]", "{}", '{"inputs": 1, "stages": {}}', '{"inputs": {}, "stages": {"a": 1}}']
)
def test_damage_is_refused_by_name(damage, tmp_path) -> None:
    (tmp_path / "rescue.json").write_text(damage)
    with pytest.raises(ConfigError, match=r"rescue\.json.*move it away"):
        RescueRecord(tmp_path, "plateau rescue", INPUTS)


def test_changed_file_is_refused(tmp_path) -> None:
    RescueRecord(tmp_path, "plateau rescue", INPUTS).finish_stage("sweep", RESULT)
    file = tmp_path / "rescue.json"
    file.write_text(file.read_text().replace("two trials", "ten trials"))
    with pytest.raises(ConfigError, match="differs from the one in its key sha256"):
        RescueRecord(tmp_path, "plateau rescue", INPUTS)
