"""The house keeps its rules: who imports whom, where heavy libraries live, how long things get."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "run.py", *sorted((ROOT / "harness").rglob("*.py"))]

ROWS = [
    {"task", "events", "state", "seeding"},
    {"losses", "schedules", "optimizers", "lora", "models", "data", "verdicts"},
    {"loop", "checkpoint", "policies", "processes", "norms"},
    {"tasks"},
    {"observers"},
    {"readers"},
    {"preflight"},
    {"config", "locked", "targets", "explain", "build", "folders", "starts", "provenance", "recorded"}
    | {"resume", "retyped", "runner", "rehearsal", "subjects"},
    {"run", "cli", "commands", "__main__", "sweeping", "evidence"},
]
CONTRACTS = {"task", "events", "state", "seeding"}
MAY_IMPORT = {
    **dict.fromkeys(ROWS[1], CONTRACTS | ROWS[1]),
    **dict.fromkeys(ROWS[2], CONTRACTS | ROWS[2]),
    "tasks": CONTRACTS | ROWS[1],
    "observers": CONTRACTS | {"verdicts", "observers"},
}
HOMES = {
    "mlflow": {"observers/client.py", "readers/mlflow.py"},
    "hydra": {"run.py", "build.py", "config.py", "locked.py", "explain.py", "sweeping/"},
    "optuna": {"sweeping/"},
    "transformers": {"models/pretrained.py", "models/portable.py", "data/tokenizers.py", "lora.py"},
    "peft": {"lora.py"},
    "datasets": {"data/sources.py"},
    "tokenizers": {"data/tokenizers.py"},
    "tensorboard": {"observers/tensorboard.py", "readers/tensorboard.py"},
    "matplotlib": {"observers/figures.py", "sweeping/figures.py", "tasks/pictures.py"},
    "neuralop": {"models/fno.py"},
}
LONG_FUNCTIONS, LONG_FILES = 60, 320


def component(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return parts[0] if len(parts) == 1 else parts[1]


def imports(file: Path) -> set[str]:
    """Dotted names of everything a file imports, at any depth."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def own_imports(file: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(file) if name.startswith("harness.")} - {component(file)}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_go_to_earlier_rows_only(file: Path) -> None:
    own = component(file)
    if own == "__init__":
        assert not imports(file)
        return
    row = next(index for index, names in enumerate(ROWS) if own in names)
    allowed = MAY_IMPORT.get(own, set().union(*ROWS[: row + 1]))
    assert own_imports(file) <= allowed


def test_no_component_imports_itself_by_way_of_others() -> None:
    graph: dict[str, set[str]] = {}
    for file in FILES:
        graph.setdefault(component(file), set()).update(own_imports(file))
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name not in done:
            for other in sorted(graph.get(name, ())):
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("library", HOMES)
def test_every_heavy_library_has_its_named_homes(library: str) -> None:
    users = {
        str(file.relative_to(ROOT)).removeprefix("harness/")
        for file in FILES
        if any(name.split(".")[0] == library for name in imports(file))
    }
    assert not [user for user in users if not user.startswith(tuple(HOMES[library]))]


@pytest.mark.parametrize("module", ["harness", "run", "harness.cli", "harness.sweeping.crew"])
def test_starting_up_loads_nothing_heavy(module: str) -> None:
    heavy = ("torch", "transformers", "mlflow", "peft")
    code = f"import {module}; import sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_functions_and_files_stay_short() -> None:
    for file in FILES:
        source = file.read_text()
        assert len(source.splitlines()) <= LONG_FILES, file
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno < LONG_FUNCTIONS, f"{file}: {node.name}"


def test_every_yaml_opens_with_the_command_that_uses_it_and_is_short() -> None:
    for file in sorted((ROOT / "conf").rglob("*.yaml")):
        lines = file.read_text().removeprefix("# @package _global_\n").splitlines()
        assert lines[0].startswith("# python run.py"), file
        is_table = file.parent.name == "thresholds"  # a number and its source a line, which no one reads on one screen
        assert len(lines) < 20 or file.name == "config.yaml" or is_table, file
