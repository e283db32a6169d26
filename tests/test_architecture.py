"""Import rules, homes of heavy libraries, size limits."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli import PROGRAM_COMMANDS

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "run.py", *sorted((ROOT / "harness").rglob("*.py"))]

ROWS = [
    {"core"},
    {"training.operator_losses", "training.schedules", "training.optimizers", "training.lora"}
    | {"models", "data", "diagnosis", "plotting"},
    {
        "training.loop",
        "training.evaluation",
        "training.checkpoint",
        "training.checkpointer",
        "training.sharded_checkpoint",
    }
    | {"training.parallel", "training.fully_shard"}
    | {"training.policies", "training.spikes", "training.grad_norms"},
    {"record"},
    {"tasks", "observers", "tracking", "importers"},
    {"preflight"},
    {"config"},
    {"run"},
    {"sweep", "integrations", "evidence"},
    {"run.py", "cli", "commands", "__main__"},
]
HOMES = {
    "mlflow": {"tracking/mlflow_client.py", "tracking/sqlite_store.py", "importers/programs/mlflow.py"},
    "hydra": {"config/", "commands/run.py", "run/build.py", "sweep/"},
    "optuna": {"sweep/"},
    "transformers": {
        "models/pretrained.py",
        "models/hf_export.py",
        "data/tokenizers.py",
        "training/lora.py",
        "integrations/transformers",
    },
    "accelerate": {"integrations/transformers"},
    "peft": {"training/lora.py"},
    "datasets": {"data/sources.py"},
    "tokenizers": {"data/tokenizers.py"},
    "tensorboard": {"observers/tensorboard.py", "importers/programs/tensorboard.py"},
    "matplotlib": {"plotting.py", "sweep/results/figures.py"},
    "neuralop": {"models/fno.py", "integrations/neuralop.py"},
    "lightning": {"integrations/lightning"},
    "h5py": {"data/field_files.py"},
}
LONG_FUNCTIONS, LONG_FILES = 60, 350
TRAINING_LIBRARIES = {
    "torch", "transformers", "tokenizers", "peft", "datasets", "safetensors", "pytorch_optimizer", "accelerate",
}  # fmt: skip
"""Those of the extra `train`, which sweeps of other programs do without."""
STEPS_INTO_OWN_TRAINING = {
    ("commands.confirm", "evidence.confirm.from_overrides"),
    ("commands.rescue", "evidence.rescue.from_training"),
    ("sweep.programs.rerun", "sweep.programs.training.rerun"),
    ("sweep.programs", "sweep.programs.training.runner"),
    ("sweep.plugin", "sweep.programs.training.sweep"),
    ("sweep.study.recorded_result", "run.unrecorded_end"),
    ("sweep.study.recorded_result", "training.checkpoint"),
}
"""Imports that only sweeps of our own training reach."""
OPTIONAL_TORCH = {
    "core.task",  # for types
    "run.provenance",  # for types, and the name of a GPU
    "importers.programs.lr_schedules",  # scheduler.pt of a checkpoint
}


def imported_names(file: Path) -> set[str]:
    """Return the dotted names of everything a file imports, at any depth."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def module_of(file: Path) -> str:
    """Return the module's dotted name below `harness`; "run.py" for the script, "" for `harness` itself."""
    if file == ROOT / "run.py":
        return "run.py"
    parts = file.relative_to(ROOT / "harness").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file): file for file in FILES}


def imported_modules(file: Path) -> set[str]:
    """Return the modules of `harness` that a file imports."""
    found = set()
    for name in imported_names(file):
        if name.startswith("harness."):
            name = name.removeprefix("harness.")
            while name not in MODULES:
                name = name.rpartition(".")[0]
            found.add(name)
    return found - {module_of(file)}


def row_of(module: str) -> int:
    parts = module.split(".")
    prefixes = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    if module == "run.py":
        prefixes = [module]
    return next(index for prefix in prefixes for index, names in enumerate(ROWS) if prefix in names)


@pytest.mark.parametrize("module", [name for name in MODULES if name and name != "training"])
def test_imports_go_to_earlier_rows_only(module: str) -> None:
    later = {other for other in imported_modules(MODULES[module]) if other and row_of(other) > row_of(module)}
    assert not later


def test_importing_the_package_imports_nothing_else() -> None:
    """`harness.watch` is imported when it is first used."""
    statements = ast.parse(MODULES[""].read_text()).body
    imports = [node for node in statements if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [node.module for node in imports if isinstance(node, ast.ImportFrom)] == ["typing"]
    assert len(imports) == 1


def test_there_are_no_import_cycles() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name not in done:
            for other in sorted(imported_modules(MODULES[name])):
                visit(other, (*path, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())


@pytest.mark.parametrize("library", HOMES)
def test_every_heavy_library_has_its_named_homes(library: str) -> None:
    users = {
        str(file.relative_to(ROOT)).removeprefix("harness/")
        for file in FILES
        if any(name.split(".")[0] == library for name in imported_names(file))
    }
    assert not [user for user in users if not user.startswith(tuple(HOMES[library]))]


@pytest.mark.parametrize(
    "module", ["harness", "run", "harness.cli", "harness.sweep.workers.worker_pool", "harness.integrations.watch"]
)
def test_starting_up_loads_nothing_heavy(module: str) -> None:
    heavy = ("torch", "transformers", "mlflow", "peft")
    code = f"import {module}; import sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def find_program_modules() -> set[str]:
    """Return the modules that sweeps of other programs and the commands for their studies import, now or later."""
    found: set[str] = set()
    queue = ["cli", "sweep", "sweep.plugin", *(f"commands.{command}" for command in PROGRAM_COMMANDS)]
    while queue:
        module = queue.pop()
        if module not in found:
            found.add(module)
            others = imported_modules(MODULES[module])
            queue += [other for other in others if (module, other) not in STEPS_INTO_OWN_TRAINING]
    return found


def test_sweeps_of_other_programs_do_without_training_libraries() -> None:
    modules = find_program_modules()
    assert {"sweep.programs.command.runner", "sweep.programs.hydra_app.runner", "tracking.sweep_uploader"} <= modules
    users = {
        module
        for module in modules
        if any(name.split(".")[0] in TRAINING_LIBRARIES for name in imported_names(MODULES[module]))
    }
    assert users == OPTIONAL_TORCH
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({TRAINING_LIBRARIES})); from importlib import import_module\n"
        f"for module in {modules}: import_module('harness.' + module)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_reporting_to_a_sweep_loads_nothing_but_the_standard_library() -> None:
    code = "import sys; from harness.sweep import report, Pruned; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {"torch", "numpy", "optuna", "hydra", "omegaconf", "sqlalchemy", "rich", "mlflow", "transformers"}
    assert "harness" in done.stdout.split()
    assert not heavy & {*done.stdout.split()}


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
