"""A program that calls `report()`: its values are the objective, and its next report raises Pruned."""

import json
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest

from harness.commands.sweep import _read_command_sweep, parse_sweep_arguments
from harness.record.trial_record import OUTPUT_LOG, TRIAL_FILE
from harness.sweep.programs.command.reports import REPORTS_FILE, ReportReader
from harness.sweep.programs.command.request import build_command_request
from harness.sweep.programs.command.runner import CommandRunner
from harness.sweep.study.pruning import TrialReporter
from harness.sweep.study.trial_attrs import TrialResult
from harness.sweep.trial_runner import TrialJob

SCRIPT = """
import argparse, sys, time
from harness.sweep import Pruned, report
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.1)
lr = parser.parse_args().lr
print("val_loss: 99", flush=True)
"""
LOOP = SCRIPT + "for step in range(1, 5):\n    report(lr / step, step=step, total_steps=4)\n"
ENDLESS = """
for step in range(1, 1000):
    {}
    time.sleep(0.05)
"""
REPORT = "report(lr, step=step, total_steps=1000)"


class AlwaysPrune(optuna.pruners.BasePruner):
    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return True


def run_script(folder: Path, code: str, *options: str, number: int = 0, pruner: Any = None) -> TrialResult:
    """Run a trial of `plateau sweep OPTIONS -- python train.py --lr 0.1,0.2`, in this process."""
    (folder / "train.py").write_text(code)
    arguments = [*options, "--no-mlflow", "--", sys.executable, "train.py", "--lr", "0.1,0.2"]
    args, words = parse_sweep_arguments(arguments)
    request = build_command_request(_read_command_sweep(args, words, arguments))
    study = optuna.create_study(pruner=pruner or optuna.pruners.NopPruner())
    reporter = TrialReporter(study.ask(), 0.0)
    job = TrialJob(number, {"lr": 0.2}, request.folder / str(number), None, request.study_name, "1")
    return CommandRunner(request.spec, request.program).run_trial(job, reporter, lambda: False)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def trial_folder(number: int = 0) -> Path:
    return Path("outputs/sweeps/train") / str(number)


@pytest.mark.parametrize(("options", "value", "step"), [
    ((), 0.05, 4),
    (("--best", "--maximize"), 0.2, 1),
    (("--metric", "val_loss"), 99.0, None),
    (("--read", "{out}/output.log"), 99.0, None),
])  # fmt: skip
def test_reported_values_are_the_objective_unless_another_is_named(
    options: tuple[str, ...], value: float, step: int | None, tmp_path: Path
) -> None:
    result = run_script(tmp_path, LOOP, *options)
    assert (result.status, result.values, result.fraction_done) == ("completed", (value,), 1.0)
    assert step is None or result.best_step == step
    record = [json.loads(line) for line in (trial_folder() / TRIAL_FILE).read_text().splitlines()]
    assert [entry["step"] for entry in record if entry.get("total_steps") == 4] == [1, 2, 3, 4]


@pytest.mark.parametrize("ending", [
    REPORT,
    f"try: {REPORT}\n    except Pruned: print('saved'); sys.exit(0)",
])  # fmt: skip
def test_a_pruned_program_gets_the_exception(ending: str, tmp_path: Path) -> None:
    result = run_script(tmp_path, SCRIPT + ENDLESS.format(ending), pruner=AlwaysPrune())
    assert result.status == "pruned"
    assert result.reason.startswith("loss 0.2 after ")
    log = (trial_folder() / OUTPUT_LOG).read_text()
    assert ("saved" in log) or ("harness.sweep.reporting.Pruned: by the pruner of the sweep" in log)


def test_a_program_that_catches_it_and_trains_on_is_ended(tmp_path: Path) -> None:
    code = SCRIPT + ENDLESS.format(f"try: {REPORT}\n    except Exception: pass")
    assert run_script(tmp_path, code, "--grace-seconds", "0.1", pruner=AlwaysPrune()).status == "pruned"


def test_reports_and_printed_metrics_are_not_mixed(tmp_path: Path) -> None:
    assert run_script(tmp_path, LOOP).status == "completed"
    other = run_script(tmp_path, SCRIPT, number=1)
    assert other.status == "failed"
    assert other.reason == "--metric: some trials call report() and others do not; add --metric NAME"


def test_only_the_program_reports_and_no_helper_of_it(tmp_path: Path) -> None:
    """Workers of a data loader, a second program that it starts, and processes of other ranks are silent."""
    code = (
        SCRIPT
        + """
import multiprocessing, os, subprocess
if os.environ.get("IS_SECOND"):
    report(3.0, step=3)
    sys.exit()
def help_out(method):
    report(2.0, step=1)
if __name__ == "__main__":
    for method in ("fork", "spawn"):
        worker = multiprocessing.get_context(method).Process(target=help_out, args=[method])
        worker.start()
        worker.join()
        assert worker.exitcode == 0
    report(lr, step=2)
    subprocess.run([sys.executable, __file__], env={**os.environ, "IS_SECOND": "1"}, check=True)
    os.environ["RANK"] = "1"
    report(4.0, step=4)
"""
    )
    assert run_script(tmp_path, code).values == (0.2,)
    assert len((trial_folder() / REPORTS_FILE).read_text().splitlines()) == 1


def test_a_shell_may_stand_between(tmp_path: Path) -> None:
    """Each program of a script reports while it runs; the last value counts."""
    code = LOOP.replace("(lr / step, step=step, total_steps=4)", "(lr / step, step=step)")
    code = f"import os, subprocess, sys\nopen('inner.py', 'w').write({code!r})\n"
    code += "for lr in '13': subprocess.run(['sh', '-c', f'{sys.executable} inner.py --lr {lr}; exit 0'], check=True)\n"
    assert run_script(tmp_path, code).values == (0.75,)


def test_lines_are_read_once_their_end_is_there(tmp_path: Path) -> None:
    reader = ReportReader(tmp_path)
    assert reader.read_new_points() == []
    with (tmp_path / REPORTS_FILE).open("w") as file:
        for text, values in [
            ('{"value": NaN, "step": 1, "tot', 0), ('al_steps": 10}\n', 1), ("broken\n[1]\n", 0),
            ('{"value": 1, "step": 0, "total_steps": 0}\n{"value": 2, "step": 3, "total_steps": null}\n', 1),
        ]:  # fmt: skip
            file.write(text)
            file.flush()
            assert len(reader.read_new_points()) == values
    assert [point.share for point in reader.curve.iterate_points()] == [0.1, None]
    assert not reader.has_raised
