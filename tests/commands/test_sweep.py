"""plateau sweep: its arguments, what it would run, and its errors. Whole sweeps are in tests/sweep/programs/command."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from harness import cli
from harness.sweep.programs.command.command_line import ProgramCommandLine
from harness.sweep.programs.command.template import read_command
from tests.conftest import ROOT

COMMAND = "-- python train.py --lr 'log(1e-5,1e-3)' --rank 8,16,32 --max_steps 20"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with a script."""
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text("print('val_loss: 1')\n")
    return tmp_path


def run_line(line: str) -> int:
    return cli.main(["sweep", *shlex.split(line)])


def test_dry_run_prints_commands_and_writes_nothing(project, capsys) -> None:
    assert run_line(f"--dry-run --n-trials 7 {COMMAND}") == 0
    assert capsys.readouterr().out.splitlines() == [
        "Searching lr in log(1e-5,1e-3), rank in 8,16,32, to minimize the final validation loss in the output",
        f"Study train: 7 trials by 1 worker, in {project}/outputs/sweeps/train",
        "trial 0, the command as it stands:",
        "  python train.py --max_steps 20",
        "one end of every range:",
        "  python train.py --lr 0.00001 --rank 8 --max_steps 20",
        "the other end:",
        "  python train.py --lr 0.001 --rank 32 --max_steps 20",
    ]
    assert [path.name for path in project.iterdir()] == ["train.py"]


def test_dry_run_for_programs(project, capsys) -> None:
    assert run_line(f"--dry-run --json --metric acc --maximize --baseline lr=3e-4 {COMMAND}") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {
        "status": "dry run",
        "study": "train",
        "folder": f"{project}/outputs/sweeps/train",
        "n_trials": 24,
        "n_jobs": 1,
        "objectives": {"acc": "maximize"},
        "space": {"lr": "log(1e-5,1e-3)", "rank": "8,16,32"},
        "commands": [
            "python train.py --lr 0.0003 --max_steps 20",
            "python train.py --lr 0.00001 --rank 8 --max_steps 20",
            "python train.py --lr 0.001 --rank 32 --max_steps 20",
        ],
    }
    assert "to maximize the final acc in the output" in printed.err


def test_the_separator_may_come_first(capsys) -> None:
    """argparse drops the first `--` of a command's arguments."""
    assert run_line("-- python train.py --lr 1e-4") == 2
    assert capsys.readouterr().err.startswith("nothing to search: no value of the command is a range")


@pytest.mark.parametrize("line", ["", "python train.py --lr 1e-4,1e-3", "--n-trials 3 python train.py --lr 1e-4,1e-3"])
def test_a_missing_separator_is_explained(line, capsys) -> None:
    assert run_line(line) == 2
    assert capsys.readouterr().err == (
        "plateau sweep: write -- before the command, as in plateau sweep -- python train.py --lr 1e-4,1e-3; "
        "`plateau sweep --help` lists the options\n"
    )


def test_help_has_examples_for_every_door(capsys) -> None:
    with pytest.raises(SystemExit, match="0"):
        run_line("--help")
    printed = capsys.readouterr().out
    examples = [line.strip() for line in printed.splitlines() if re.search(r"^ .*plateau sweep .*-- ", line)]
    assert len(examples) == 4
    for example in examples:  # as they stand, with a program that exists
        words = shlex.split(example)
        variables = [word for word in words[: words.index("plateau")] if "=" in word]
        options = words[words.index("sweep") + 1 : words.index("--")]
        command = ["python", "train.py", *words[words.index("--") + 1 :]]
        assert cli.main(["sweep", "--dry-run", *options, "--", *variables, *command]) == 0


@pytest.mark.parametrize(
    ("line", "problem"),
    {
        f"--n-trials 0 {COMMAND}": "--n-trials: 0 must be at least 1",
        f"--max-seconds=-1 {COMMAND}": "--max-seconds: -1.0 must be above 0",
        f"--study '' {COMMAND}": "--study: '' must be a name in one line",
        f"--sampler foo {COMMAND}": "--sampler: foo: must be one of cmaes, curve, gp, grid",
        f"--pruner foo {COMMAND}": "--pruner: foo: must be one of halving, hyperband",
        f"--sampler grid {COMMAND}": "lr: a grid cannot run log(1e-05,0.001), which has no steps; list values",
        f"--storage foo:bar {COMMAND}": "--storage: 'foo:bar' is not a database URL; leave it out for a journal file",
        f"--max-failure-rate 3 {COMMAND}": "--max-failure-rate: 3.0 must be a share from 0 to 1",
        f"--mlflow-uri foo:bar {COMMAND}": "--mlflow-uri: 'foo:bar' is not a tracking store; use sqlite:///FILE",
        f"--trial-seconds 0 {COMMAND}": "--trial-seconds: 0.0 must be above 0",
        f"--grace-seconds=-1 {COMMAND}": "--grace-seconds: -1.0 must not be below 0",
        f"--baseline lr {COMMAND}": "--baseline lr: write key=value, such as 'lr=3e-4 rank=8'",
        f"--baseline \"lr='\" {COMMAND}": "--baseline lr=': no closing quotation; write 'lr=3e-4 rank=8'",
        f"--baseline l=3 {COMMAND}": "--baseline l=3: l is not searched; did you mean 'lr'?",
        f"--baseline lr=3 --no-baseline {COMMAND}": "--baseline: --no-baseline leaves out trial 0; leave out one of",
        "--baseline lr=3 --sampler grid -- python train.py --lr 1,2": "--baseline: a grid runs its own points only",
        f"--baseline sampler=ddim {COMMAND}": "--baseline sampler=ddim: sampler is not searched",
        f"--env 3 {COMMAND}": "--env 3: write NAME=VALUE",
        f"--one-value foo {COMMAND}": "--one-value foo: the command has no such option",
        f"--metrc acc {COMMAND}": "plateau sweep: unrecognized arguments: --metrc acc; did you mean '--metric'?",
        "-- pythonn train.py --lr 1,2": "pythonn: there is no such program on PATH; check its name",
        "-- train.py --lr 1,2": "train.py: there is no such program on PATH; for the one in this folder write ./",
        "-- python trian.py --lr 1,2": "trian.py: there is no such file; check its path",
        "-- python sweep.py --lr 1,2": "sweep.py: there is no such file; check its path",
        "-- ./prog --lr 1,2": "./prog: there is no such program; check its name",
        "-- --lr 1,2": "--lr: there is no such program on PATH",
        "--": "plateau sweep: there is no command to run; write plateau sweep -- python train.py",
        "-- python train.py --lr 'log(1e-3,1e-5)'": "lr: log(1e-3,1e-5): the lower bound is above the upper bound",
    }.items(),
)  # fmt: skip
def test_invalid_input_is_one_line_and_leaves_nothing_behind(line, problem, project, capsys) -> None:
    assert run_line(line) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(problem)
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert [path.name for path in project.iterdir()] == ["train.py"]


def test_neither_a_dry_run_nor_a_worker_loads_heavy_libraries() -> None:
    code = """
import sys
from harness import cli
from tests.conftest import ROOT
assert cli.main(["sweep", "--dry-run", "--", "python", "train.py", "--lr", "log(1e-5,1e-3)"]) == 0
import harness.sweep.programs.worker, harness.sweep.programs.command.runner
print(*{"torch", "transformers", "peft", "mlflow", "matplotlib", "scipy", "pandas"} & set(sys.modules))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""


def test_notes_on_what_may_be_meant_otherwise(capsys, monkeypatch) -> None:
    monkeypatch.setenv("LR", "log(1e-5,1e-3)")
    monkeypatch.setenv("BATCH_SIZE", "8,32")
    assert run_line("--dry-run --metric accuracy -- python train.py") == 0
    printed = capsys.readouterr().out.replace("\n", " ")
    assert "note: the sweep is to minimize accuracy: if more is better, add --maximize" in printed
    assert "note: BATCH_SIZE is not searched: 8,32 is passed as one value; --env BATCH_SIZE=8,32 searches" in printed
    assert "note: variables of your shell also reach the program" in printed


@pytest.mark.parametrize("line", [f"--json --n-trials 0 {COMMAND}", f"--json --metrc acc {COMMAND}", "--json python"])
def test_invalid_input_has_a_document_too(line, capsys) -> None:
    assert run_line(line) == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"status": "invalid", "reason": printed.err.rstrip("\n")}
    assert run_line("-- python train.py --json") == 2  # an option of the program
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("options", "text"),
    {
        "--metric final_score": "final_score", "--metric finalist": "final finalist",
        "--best --metric best_acc": "best_acc", "--metric best_acc": "final best_acc",
    }.items(),
)  # fmt: skip
def test_a_metric_is_not_final_twice(options, text, capsys) -> None:
    assert run_line(f"--dry-run {options} {COMMAND}") == 0
    assert f" to minimize the {text} in the output\n" in capsys.readouterr().out


def test_a_command_to_paste_creates_its_folder() -> None:
    template = read_command(["cp", "a", "{out}/b", "--lr", "1,2"], {"N": "{trial}"}, {})
    assert ProgramCommandLine(template, {}).format_command({"lr": 1}) == "mkdir -p out && N=out cp a out/b --lr 1"
    template = read_command(["cp", "a", "--lr", "1,2"], {"N": "{trial}"}, {})
    assert ProgramCommandLine(template, {}).format_command({"lr": 1}) == "N=out cp a --lr 1"
