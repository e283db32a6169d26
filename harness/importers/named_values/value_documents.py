"""Named values in documents that are read as a whole: trainer_state.json, results and histories as JSON or YAML."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.importers.named_values.curves import Moment, NamedCurves
from harness.importers.named_values.output_reader import OutputReader, name_field
from harness.importers.tables.cells import parse_cell
from harness.importers.tables.json_lines import flatten_object, parse_json

YAML_SUFFIXES = (".yaml", ".yml")
MAX_DEPTH = 6


def read_document(text: str, path: Path) -> NamedCurves | None:
    """Return the values in the text of a file; None if it is no document, or is cut off."""
    content = parse_json(text)
    if content is None and path.suffix.lower() in YAML_SUFFIXES:
        content = _parse_yaml(text)
    if not isinstance(content, dict | list):
        return None
    reader = OutputReader()
    if isinstance(content, dict) and isinstance(content.get("log_history"), list):
        _add_trainer_state(reader, content)
    elif isinstance(content, list) and content and all(parse_cell(number) is not None for number in content):
        _add_list(reader.curves, path.stem, content)
    else:
        _add_content(reader, content, "", 0)
    return reader.curves


def _add_trainer_state(reader: OutputReader, state: Mapping[str, Any]) -> None:
    """Add the log entries of the transformers Trainer, with the length of the run."""
    for entry in state["log_history"]:
        if isinstance(entry, dict):
            reader.add_record({"max_steps": state.get("max_steps"), **entry})
    if parse_cell(state.get("best_metric")) is not None:
        reader.add_record({"best_metric": state["best_metric"]})


def _add_content(reader: OutputReader, content: Any, prefix: str, depth: int) -> None:
    """Add numbers by their path, lists of numbers as curves, and lists of objects as rows."""
    if depth > MAX_DEPTH:
        return
    if isinstance(content, list):
        for entry in content:
            if isinstance(entry, dict):
                reader.add_record(flatten_object(entry))
        return
    flat = {f"{prefix}{key}": value for key, value in flatten_object(content).items()}
    reader.add_record({name: value for name, value in flat.items() if not isinstance(value, list)})
    for name, value in flat.items():
        if not isinstance(value, list) or not value:
            continue
        if all(isinstance(entry, dict) for entry in value):
            _add_content(reader, value, f"{name}/", depth + 1)
        elif all(parse_cell(number) is not None or number is None for number in value):
            _add_list(reader.curves, name, value)


def _add_list(curves: NamedCurves, name: str, numbers: Sequence[Any]) -> None:
    curve = curves.find_or_add(name_field(name))
    for at, number in enumerate(numbers, 1):
        value = parse_cell(number)
        if curve is not None and value is not None:
            curve.add(value, Moment(at))


def _parse_yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None
