"""Text at the width of the terminal: no word, override or command is broken."""

import io
import re
import shlex
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from harness.commands.lr_range import format_bar_chart
from harness.commands.run_reports import print_report
from harness.core import terminal
from harness.core.events import Diagnosis, FinalDiagnosis, Suggestion
from harness.core.terminal import fit_record, format_labeled, wrap_parts, wrap_text
from harness.diagnosis.assessment import assess
from harness.diagnosis.lr_band import compute_lr_band
from harness.diagnosis.render import RunReport
from harness.importers.programs.native import read_native
from harness.observers.console import ConsolePrinter
from harness.observers.metrics_writer import MetricsWriter
from harness.preflight.render import format_finding
from harness.preflight.report import failed
from harness.sweep.results.final_report import format_sweep_summary
from harness.sweep.results.summary import summarize_trials
from harness.sweep.results.table import ProgressTable
from harness.sweep.study.budget import Budget
from tests.observers.sample_events import eval_end, run_end, run_start, sample_run, send_events, step_end
from tests.sweep.studies import COMMAND_LINE, complete_outside_trial, fail_trial, new_study, summarize

LONG_KEY = "optimizer.parameter_groups.a_setting_with_quite_a_long_name"
SUGGESTIONS = (
    Suggestion("optimizer.lr", 3e-5),
    Suggestion("data.source.path", f"/{'folder-of-texts/' * 8}text.txt"),
    Suggestion("expect", "['step 9: loss < 3']"),
)
COPIED = shlex.join(["optimizer.lr=3e-5", *(f"{one.key}={one.value}" for one in SUGGESTIONS[1:])])
QUOTED = "'optimizer.lr=tag(log, interval(1e-05, 1e-03))'"
DIAGNOSIS = Diagnosis("learning rate too low", 100, 0.9, f"the peak LR is low; a range such as {QUOTED} would do " * 3,
                      suggestions=SUGGESTIONS)  # fmt: skip
WIDTHS = pytest.mark.parametrize("width", [80, 200])


@pytest.fixture(autouse=True)
def columns(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    width = request.node.callspec.params.get("width", 80) if hasattr(request.node, "callspec") else 80
    monkeypatch.setenv("COLUMNS", str(width))
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def plain_text(screen: str) -> str:
    """Return what was shown, without colors; a frame that was erased ends like a line."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", re.sub(r"\x1b\[\d*[AK]", "\n", screen)).replace("\r", "")


def check_lines(text: str, width: int, whole: Iterable[str], copied: Iterable[str] = ()) -> None:
    """Check the width of all lines, that `whole` are unbroken, and that `copied` have lines of their own."""
    lines = [line.strip() for line in text.splitlines()]
    for line in text.splitlines():
        assert len(line) <= width or line.strip() in copied or " " not in line.strip(), line
    for unit in whole:
        assert any(unit in line for line in lines), (unit, text)
    for line in copied:
        assert line in lines, (line, text)


@WIDTHS
def test_run(width: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.observers.console.PLAIN_INTERVAL_S", 0.0)
    folder, observer = tmp_path / ("a-long-name" * 12), ConsolePrinter()
    folder.mkdir()
    start = run_start(folder)
    groups = {f"group_{name}": {"peak_lr": 0.001, "weight_decay": 0.1 * i} for i, name in enumerate("abcd")}
    for event in (
        replace(start, effective=replace(start.effective, param_groups=groups)),
        eval_end(0, 8.0, 8.0),
        *(step_end(step) for step in range(1, 8)),
        DIAGNOSIS,
        FinalDiagnosis((DIAGNOSIS,), (), "", ("slope of val/loss: none, " * 9,)),
        run_end("failed", "RuntimeError: " + "a long reason " * 9),
    ):
        observer(event)
    whole = ["weight decay of group_c 0.2", "grad norm 1.500", "clipped 100%", "400 tokens/s", QUOTED, str(folder)]
    check_lines(capsys.readouterr().out, width, whole, [COPIED])


@WIDTHS
def test_diagnose(width: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    send_events([MetricsWriter()], sample_run(tmp_path / "run"))
    history = read_native(tmp_path / "run" / "metrics.jsonl")
    print_report(RunReport(history, [DIAGNOSIS], assess(history)))
    check_lines(capsys.readouterr().out, width, ["learning rate too low", QUOTED], [COPIED])


@WIDTHS
def test_sweep(width: int) -> None:
    study = new_study()
    values = {LONG_KEY: 0.123, "optimizer": "schedule_free", "lora.target_modules": "[query,key,value,projection]",
              "model.name": "an-organization/a-model-with-a-name", "loop.grad_clip": 1.5, "schedule.warmup_ratio": 0.25,
              "lora.rank": 16}  # fmt: skip
    for number in range(30):
        complete_outside_trial(study, 3.0 + number, **{**values, "optimizer.lr": 10.0**-number, LONG_KEY: number / 7})
    trial = study.ask()
    trial.suggest_float("optimizer.lr", 1e-4, 1e-1, log=True)
    fail_trial(study, trial)
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    table = ProgressTable(["best_val_loss"], Budget(40), 2, stream=stream)
    trials = summarize_trials(study)
    table(trials)
    table.close()
    whole = ["completed", "failed", f"{10.0**-29:.3g}", "31/40 trials", "best so far: trial 0"]
    check_lines(plain_text(stream.getvalue()), width, whole)
    summary = format_sweep_summary(summarize(study, 40), COMMAND_LINE, "default")
    command = next(line.strip() for line in summary.splitlines() if "python run.py" in line)
    check_lines(summary, width, ["sweep default:"], [command])


@WIDTHS
def test_default_sweep_fits_columns(width: int) -> None:
    """With the four parameters of the default sweep every trial has one line."""
    study = new_study()
    for number in range(3):
        values = {"optimizer.lr": 0.00123 * (number + 1), "lora.rank": 2**number, "loop.grad_clip": 1.25 + number}
        complete_outside_trial(study, 3.0, **values, **{"schedule.warmup_ratio": 0.0512 * number})
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    table = ProgressTable(["best_val_loss"], Budget(24), 2, stream=stream)
    table(summarize_trials(study))
    table.close()
    text = plain_text(stream.getvalue())
    check_lines(text, width, ["warmup", "grad", "0.00246", "0.102"])
    assert re.search(r"2 +completed +3.000 +0.00369 +4 +3.25 +0.102", text)


@WIDTHS
def test_preflight_finding(width: int) -> None:
    hint = f"Set {QUOTED}, or run `plateau lr-range experiment=headlines` and look at model.layers.0.attention.query"
    text = format_finding("effective_settings", failed("peak LR", "0.1 " * 40, "0.001 at the peak", hint))
    check_lines(text, width, [QUOTED, "`plateau lr-range experiment=headlines`", "model.layers.0.attention.query"])


@WIDTHS
def test_bar_chart(width: int) -> None:
    lrs = [10 ** (i / 10 - 5) for i in range(40)]
    losses = [5 - i / 20 if i < 30 else i / 5 for i in range(40)]
    lines = list(format_bar_chart(lrs, losses, compute_lr_band(lrs, losses)))
    assert max(map(len, lines)) <= width
    assert max(map(len, lines)) > 0.5 * width


def test_words_and_quotes() -> None:
    text = "the run's loss of `a b c` and its models' rates; try 'key=tag(log, interval(1, 2))' --no-adapters"
    for width in range(1, 60):
        words = [word for line in wrap_text(text, width, "> ", "  ") for word in [line.removeprefix(">").strip()]]
        assert " ".join(words) == text
        assert any("'key=tag(log, interval(1, 2))'" in word for word in words)
        assert any("`a b c`" in word for word in words)
        assert any("--no-adapters" in word for word in words)
    assert wrap_text("first\nsecond", 80, "a ", "b ") == ["a first", "b second"]
    assert wrap_text("", 80, "head") == ["head"]
    assert wrap_parts(["one two", "", "three"], 10) == ["one two ·", "three"]


def test_record_in_a_file_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "step 10/20 · " + " · ".join(f"metric {i} {i / 7:.3f}" for i in range(9))
    assert max(map(len, fit_record(line).splitlines())) <= 80
    assert format_labeled("folder", "x" * 90) == ["folder:", "  " + "x" * 90]
    monkeypatch.setattr(terminal, "find_width", lambda: None)
    assert fit_record(line) == line


def test_wrapped_record_keeps_its_indentation() -> None:
    first, *rest = fit_record("  run_a: " + "the log does not say which data it was validated on, " * 3).splitlines()
    assert first.startswith("  run_a: ")
    assert all(line.startswith("      ") for line in rest)
    assert rest


@pytest.mark.parametrize("width", [40, 80])
def test_command_below_a_message_stays_on_one_line(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    command = "  plateau run " + " ".join(f"group_{n}.key=value" for n in range(9))
    message = "the base model comes from another text; to train on this text alone, with a model of your own:"
    for text in (f"note: {message}\n{command}", f"{message}\n{command}"):
        lines = fit_record(text).splitlines()
        assert lines[-1] == command
        assert max(map(len, lines[:-1])) <= width
        assert " ".join(line.strip() for line in lines[:-1]) == text.partition("\n")[0]
