"""The command that starts an app again: from what Python was started with, and in real processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from harness.sweep.programs.hydra_app.app_command import explain_missing_command, find_app_command
from tests.conftest import ROOT

APP = """
import json, sys
import hydra
from hydra.experimental.callback import Callback
from harness.sweep.programs.hydra_app.app_command import find_app_command

class Shown(Callback):
    def on_multirun_start(self, config, **kwargs):
        print("COMMAND", json.dumps(find_app_command(config).to_list()))

@hydra.main(version_base=None, config_path=".", config_name="settings")
def main(cfg):
    pass

if __name__ == "__main__":
    main()
"""
SETTINGS = "lr: 0.1\nhydra: {{callbacks: {{shown: {{_target_: {module}.Shown}}}}, sweep: {{dir: /dev/null}}}}\n"


def find_command(monkeypatch, argv: list[str], command: list[str], main_file: str, overrides: list[str]):
    """Return what `find_app_command` finds in a process with this sys.argv, sys.orig_argv and main file."""
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", command)
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__file__=main_file))
    hydra = [one for one in overrides if one.startswith("hydra")]
    task = [one for one in overrides if not one.startswith("hydra")]
    found = find_app_command(OmegaConf.create({"hydra": {"overrides": {"hydra": hydra, "task": task}}}))
    return found and found.to_list()


GIVEN = ["-m", "lr=log(1e-4,1e-1)", "hydra/sweeper=harness"]
OVERRIDES = ["lr=log(1e-4,1e-1)", "hydra/sweeper=harness", "hydra.mode=MULTIRUN"]


@pytest.mark.parametrize(
    ("before", "script", "main_file", "started_again"),
    [
        ([], "app.py", "/w/app.py", ["/w/app.py"]),
        (["-X", "dev", "-u"], "src/app.py", "/w/src/app.py", ["-X", "dev", "-u", "/w/src/app.py"]),
        (["-Wignore", "-Xdev"], "app.py", "/w/app.py", ["-Wignore", "-Xdev", "/w/app.py"]),
        (["-W", "ignore"], "app.py", "/w/app.py", ["-W", "ignore", "/w/app.py"]),
        ([], "/env/bin/train", "/env/bin/train", ["/env/bin/train"]),
        ([], "/w/folder", "/w/folder/__main__.py", ["/w/folder"]),
    ],
)
def test_a_script_is_started_again_as_it_was(monkeypatch, before, script, main_file, started_again) -> None:
    command = find_command(monkeypatch, [script, *GIVEN], ["python", *before, script, *GIVEN], main_file, OVERRIDES)
    assert command == [sys.executable, *started_again, *GIVEN]


@pytest.mark.parametrize(
    ("written", "started_again"),
    [
        (["-m", "pkg.app"], ["-m", "pkg.app"]),
        (["-mpkg.app"], ["-m", "pkg.app"]),
        (["-um", "pkg.app"], ["-u", "-m", "pkg.app"]),
        (["-X", "dev", "-I", "-m", "pkg.app"], ["-X", "dev", "-I", "-m", "pkg.app"]),
    ],
)
def test_a_module_is_started_again_as_a_module(monkeypatch, written, started_again) -> None:
    file = "/w/pkg/app.py"
    command = find_command(monkeypatch, [file, *GIVEN], ["python", *written, *GIVEN], file, OVERRIDES)
    assert command == [sys.executable, *started_again, *GIVEN]


@pytest.mark.parametrize(
    "given",
    [
        [*GIVEN[1:], "-m"],
        ["--multirun", *GIVEN[1:]],
        [*GIVEN, "--config-dir=conf", "-cn", "other"],
        [*GIVEN[1:], "hydra.mode=MULTIRUN"],
        GIVEN[1:],  # the configuration has hydra.mode: MULTIRUN
    ],
)
def test_options_of_hydra_are_kept(monkeypatch, given) -> None:
    command = find_command(monkeypatch, ["app.py", *given], ["python", "app.py", *given], "/w/app.py", OVERRIDES)
    assert command == [sys.executable, "/w/app.py", *given]


INTERPOLATED = [
    "drop=${lr}",
    "out=${missing.key}",
    "hydra.sweep.dir=outs/${now:%Y}",
    "hydra.sweep.subdir=${hydra.job.num}",
]


def test_interpolations_are_compared_as_they_were_typed(monkeypatch) -> None:
    given, overrides = [*GIVEN, *INTERPOLATED], [*OVERRIDES, *INTERPOLATED]
    command = find_command(monkeypatch, ["app.py", *given], ["python", "app.py", *given], "/w/app.py", overrides)
    assert command == [sys.executable, "/w/app.py", *given]


@pytest.mark.parametrize(
    ("argv", "command", "reason"),
    [
        (["app.py", *GIVEN], ["python", "/env/ipython"], "app.py was started by another program"),
        (["-c", *GIVEN], ["python", "-c", "import app", *GIVEN], "Python was started with no script or module"),
        (["app.py", "-m", "lr=1"], ["python", "app.py", "-m", "lr=1"],
         "hydra/sweeper=harness, lr=1, lr=log(1e-4,1e-1): not in both the command line and the configuration"),
    ],
)  # fmt: skip
def test_the_reason_to_start_no_workers_is_told(monkeypatch, argv, command, reason) -> None:
    assert find_command(monkeypatch, argv, command, "/w/app.py", OVERRIDES) is None
    config = OmegaConf.create({"hydra": {"overrides": {"hydra": OVERRIDES[1:], "task": OVERRIDES[:1]}}})
    assert explain_missing_command(config) == reason


def test_an_app_may_change_its_arguments_and_will_do_so_again(monkeypatch) -> None:
    command = ["python", "app.py", *GIVEN]
    added = ["app.py", *GIVEN, "hydra.job.chdir=true"]
    found = find_command(monkeypatch, added, command, "/w/app.py", [*OVERRIDES, "hydra.job.chdir=true"])
    assert found == [sys.executable, "/w/app.py", *GIVEN]
    command = ["python", "app.py", "--rank", "0", *GIVEN]
    found = find_command(monkeypatch, ["app.py", *GIVEN], command, "/w/app.py", OVERRIDES)
    assert found == [sys.executable, "/w/app.py", "--rank", "0", *GIVEN]


@pytest.mark.parametrize(
    ("argv", "command", "main_file"),
    [
        (["/env/pytest", "-q", "tests"], ["python", "/env/pytest", "-q", "tests"], "/env/pytest"),
        (["/env/pytest", *GIVEN], ["python", "/env/pytest", "-q", "tests"], "/env/pytest"),
        (["/env/pytest", *GIVEN], ["python", "/env/pytest"], "/env/pytest"),
        (["/env/pytest"], ["python", "/env/pytest"], "/env/pytest"),
        (["app.py", *GIVEN], ["python", "-m", "pytest", "-q"], "/env/pytest/__main__.py"),
        (["app.py", *GIVEN], ["python", "-m", "cProfile", "app.py", *GIVEN], "/w/app.py"),
        (["app.py", *GIVEN], ["python", "/env/ipython"], "/w/app.py"),
        (["launcher.py", "-f", "kernel.json"], ["python", "-m", "launcher", "-f", "kernel.json"], "launcher.py"),
        (["-c", *GIVEN], ["python", "-c", "import app; app.main()", *GIVEN], "/w/app.py"),
        (["-", *GIVEN], ["python", "-", *GIVEN], "/w/app.py"),
        ([""], ["python"], "/w/app.py"),
        (["app.py", "-m", "lr=1,2"], ["python", "app.py", "-m", "lr=1,2"], "/w/app.py"),  # composed with others
        (["app.py", "--unknown", *GIVEN], ["python", "app.py", "--unknown", *GIVEN], "/w/app.py"),
    ],
)
def test_another_program_is_not_started_again(monkeypatch, argv, command, main_file) -> None:
    assert find_command(monkeypatch, argv, command, main_file, OVERRIDES) is None


def test_a_process_without_a_main_file_is_not_started_again(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace())
    assert find_app_command(OmegaConf.create({"hydra": {"overrides": {"hydra": [], "task": []}}})) is None


def run_and_repeat(command: list[str], folder: Path, pythonpath: Path) -> list[str]:
    """Run an app, then the command that it says it was started with; return the latter's."""
    env = {**os.environ, "PYTHONPATH": f"{pythonpath}:{ROOT}"}
    for _ in range(2):
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60)
        shown = [line for line in done.stdout.splitlines() if line.startswith("COMMAND ")]
        assert shown, done.stdout + done.stderr
        command = json.loads(shown[0].removeprefix("COMMAND "))
    return command


def write_package(folder: Path) -> None:
    (folder / "pkg").mkdir()
    (folder / "pkg/__init__.py").touch()
    (folder / "pkg/app.py").write_text(APP)
    (folder / "pkg/settings.yaml").write_text(SETTINGS.format(module="pkg.app"))


@pytest.mark.slow
def test_a_module_in_another_folder_is_found_again(tmp_path) -> None:
    write_package(tmp_path)
    command = [sys.executable, "-m", "pkg.app", "-m", "lr=1,2", "hydra.job.chdir=false"]
    assert run_and_repeat(command, Path("/"), tmp_path) == command


@pytest.mark.slow
def test_scripts_and_console_scripts_are_found_again(tmp_path) -> None:
    write_package(tmp_path)
    script = [sys.executable, "-X", "dev", "pkg/app.py", "--multirun", "lr=1,2"]
    assert run_and_repeat(script, tmp_path, tmp_path)[3] == str(tmp_path / "pkg/app.py")
    console = tmp_path / "train"
    console.write_text(f"#!{sys.executable}\nimport sys\nfrom pkg.app import main\nsys.exit(main())\n")
    console.chmod(0o755)
    command = run_and_repeat([str(console), "-m", "lr=1,2"], Path("/"), tmp_path)
    assert command == [sys.executable, str(console), "-m", "lr=1,2"]
