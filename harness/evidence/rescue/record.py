"""rescue.json: what a rescue was asked, what each of its stages found, and how it ended."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.core.digests import read_json
from harness.core.errors import ConfigError, DamageError
from harness.record.metrics_file import write_json

RESCUE_FILE = "rescue.json"
DIAGNOSIS = "diagnosis"
"""The stage that is another one for a study than for our own training."""
SCHEMA = 1


@dataclass(frozen=True)
class Ending:
    """The end of a rescue: "fault", "better" or "not shown", in a sentence.

    `command` trains with the configuration that is recommended; it is empty if there is none.
    """

    result: str
    sentence: str
    command: str = ""


@dataclass(frozen=True)
class StageResult:
    """Findings of a stage: a sentence, plain data for later stages and for programs, and the command that comes next.

    With an `ending` no stage follows.
    """

    summary: str
    details: Mapping[str, Any] = field(default_factory=dict)
    next_command: str = ""
    ending: Ending | None = None


class RescueRecord:
    """The file RESCUE_FILE in a rescue's folder, written atomically after every stage."""

    def __init__(self, folder: Path, command: str, inputs: Mapping[str, Any]) -> None:
        """Read the record of an earlier command, if there is one.

        Raises:
            ConfigError: If it was asked something else, or is damaged.
        """
        self.path, self.inputs, self._command = folder / RESCUE_FILE, inputs, command
        self._stages: dict[str, StageResult] = {}
        if self.path.exists():
            self._read()

    def get_result(self, stage: str) -> StageResult | None:
        """Return the result of a stage that is finished, else None."""
        return self._stages.get(stage)

    def get_details(self, stage: str) -> Mapping[str, Any]:
        """Return the details of a stage that is finished; empty if it is not."""
        return self._stages[stage].details if stage in self._stages else {}

    def finish_stage(self, stage: str, result: StageResult) -> None:
        """Record the result of a stage."""
        self._stages[stage] = result
        write_json(self.path, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return the content of the file."""
        ending = next((one.ending for one in self._stages.values() if one.ending), None)
        return {
            "schema": SCHEMA,
            "folder": str(self.path.parent),
            "command": self._command,
            "inputs": dict(self.inputs),
            "stages": {name: asdict(result) for name, result in self._stages.items()},
            "ending": asdict(ending) if ending else None,
        }

    def _read(self) -> None:
        try:
            content = read_json(self.path)
            recorded = dict(content["inputs"])
            stages = {name: _read_stage(result) for name, result in content["stages"].items()}
        except (OSError, DamageError, LookupError, TypeError, ValueError, AttributeError) as error:
            problem = str(error) if isinstance(error, OSError | DamageError) else f"{self.path}: not such a record"
            raise ConfigError(f"--to: {problem}; move it away to start again, or choose another folder") from error
        changes = [
            f"{key}: {_format_input(recorded.get(key))} -> {_format_input(self.inputs.get(key))}"
            for key in {**recorded, **self.inputs}
            if recorded.get(key) != self.inputs.get(key)
        ]
        if changes:
            raise ConfigError(
                f"--to: {self.path.parent} holds another rescue ({'; '.join(changes)}); choose another folder, or "
                f"continue that one with {content.get('command')}"
            )
        self._stages = stages


def _read_stage(content: Mapping[str, Any]) -> StageResult:
    ending = content["ending"]
    return StageResult(**{**content, "ending": Ending(**ending) if ending else None})


def _format_input(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
