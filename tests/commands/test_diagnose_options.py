"""The options of the command diagnose: given facts, dialects, JSON, exit statuses, standard input, several logs."""

import io
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from harness import cli

RNG = np.random.default_rng(5)


def write_log(path: Path, losses: object, every: int = 10) -> Path:
    path.write_text("\n".join(f"iter {every * n}: loss {loss:.5f}" for n, loss in enumerate(losses)))  # type: ignore[arg-type]
    return path


@pytest.fixture
def guessing(tmp_path) -> Path:
    """A flat loss that is no better than a uniform guess over 800 tokens."""
    return write_log(tmp_path / "guess.log", 6.7 + 0.01 * RNG.standard_normal(80))


@pytest.fixture
def rising(tmp_path) -> Path:
    return write_log(tmp_path / "rising.log", np.r_[np.linspace(5, 2, 40), np.linspace(2, 9, 40)])


def run_diagnose(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> str:
    assert cli.main(["diagnose", *map(str, arguments)]) == status
    return " ".join(capsys.readouterr().out.split())


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> dict:
    assert cli.main(["diagnose", "--json", *map(str, arguments)]) == status
    return json.loads(capsys.readouterr().out)


def test_vocabulary_says_what_a_guess_scores(guessing, capsys) -> None:
    assert "a uniform guess" not in run_diagnose(capsys, guessing)
    assert f"no better than a uniform guess at {math.log(800):.4g}" in run_diagnose(
        capsys, guessing, "--vocabulary", 800
    )


def test_given_lr_turns_a_factor_into_a_number(rising, capsys) -> None:
    assert "a third of the present learning rate" in run_diagnose(capsys, rising)
    printed = run_diagnose(capsys, rising, "--lr", "9e-4", "--optimizer", "SGD")
    assert "a learning rate of 3e-4, a third of the present one" in printed


def test_given_length_and_batch_are_facts_of_the_run(rising, capsys) -> None:
    given = ("--total-steps", "1e3", "--batch-tokens", 4096, "--warmup-steps", 50)
    facts = run_json(capsys, rising, *given)["runs"][0]["facts"]
    assert (facts["total_steps"], facts["tokens_per_step"], facts["warmup_steps"]) == (1000, 4096, 50)
    assert "step 790 of 1000" in run_diagnose(capsys, rising, *given)


def test_given_lr_that_contradicts_the_recorded_one_is_noted_and_not_used(tmp_path, capsys) -> None:
    path = tmp_path / "with_lr.log"
    path.write_text("\n".join(f"step {n} loss {5 - n / 100} lr 1e-3" for n in range(20)))
    for lr, noted in (("5e-4", True), ("2e-3", True), ("100", True), ("1e-3", False)):
        assert run_json(capsys, path, "--lr", lr)["runs"][0]["facts"]["peak_lr"] == 1e-3
        assert cli.main(["diagnose", str(path), "--lr", lr]) == 0
        notes = capsys.readouterr().err
        note = f"with_lr: --lr: {float(lr):.4g} is given, but the log says 0.001; the recorded value is used"
        assert (note in notes) == noted


def test_diverged_run_gets_no_lr_above_the_recorded_one(tmp_path, capsys) -> None:
    path = tmp_path / "div.log"
    path.write_text("\n".join(f"step {n} loss {5 - n / 10 if n < 25 else math.nan} lr 1e-3" for n in range(40)))
    assert "a learning rate of 3.3e-4, a third of the present one" in run_diagnose(capsys, path, "--lr", 100)


def test_given_fact_that_contradicts_a_run_of_ours_is_refused(finished, capsys) -> None:
    assert cli.main(["diagnose", str(finished), "--lr", "7"]) == 2
    assert "--lr: 7 is given, but the log says" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("dialect", "line"),
    [
        ("hf", "try --learning_rate 3e-4 resume"),
        ("lightning", "try in configure_optimizers: lr=3e-4 resume"),
        ("harness", "try optimizer.lr=3e-4 loop.on_spike=rollback"),
        ("plain", "try a learning rate of 3e-4, a third of the present one resume"),
    ],
)
def test_dialect_is_chosen(dialect, line, rising, capsys) -> None:
    assert line in run_diagnose(capsys, rising, "--lr", "9e-4", "--dialect", dialect)


def test_dialect_is_that_of_the_trainer(tmp_path, capsys) -> None:
    state = {"global_step": 800, "max_steps": 800, "log_history": [
        {"step": 10 * n, "loss": max(5 - n / 20, n / 5 - 5), "learning_rate": 9e-4} for n in range(1, 80)
    ]}  # fmt: skip
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    assert "try --learning_rate 3e-4" in run_diagnose(capsys, tmp_path)


def test_json_has_facts_curves_diagnoses_and_errors(rising, tmp_path, capsys) -> None:
    (tmp_path / "empty.log").touch()
    document = run_json(capsys, rising, tmp_path / "empty.log", "--expect", "step 100: train/loss < 3", status=2)
    (run,) = document["runs"]
    assert document["schema"] == 1
    assert run["name"] == "rising"
    assert run["counts"] == {"train/loss": 80}
    assert run["last"] == {"train/loss": 9.0}
    (diagnosis,) = run["diagnoses"]
    assert (diagnosis["kind"], diagnosis["when"]) == ("divergence", f"step {diagnosis['step']}")
    lr = {"key": "optimizer.lr", "value": None, "factor": 1 / 3, "rendered": "a third of the present learning rate"}
    assert diagnosis["suggestions"][0].items() >= lr.items()
    assert run["expectations"] == [{"text": "step 100: train/loss < 3", "outcome": "missed", "value": 4.23077}]
    (error,) = document["errors"]
    assert error["source"].endswith("empty.log")
    assert "the file is empty" in error["message"]


def test_json_holds_infinite_losses(tmp_path, capsys) -> None:
    path = tmp_path / "nan.log"
    path.write_text("\n".join(f"step {n} loss {'nan' if n > 30 else 5 - n / 10}" for n in range(40)))
    assert run_json(capsys, path)["runs"][0]["last"] == {"train/loss": "inf"}


@pytest.mark.parametrize(
    ("fail_on", "status"),
    [("diagnosis", 1), ("divergence", 1), ("plateau, Divergence", 1), ("never-learnt,warm_up_truncated", 0), ("", 0)],
)
def test_fail_on_sets_the_exit_status(fail_on, status, rising, capsys) -> None:
    run_diagnose(capsys, rising, "--fail-on", fail_on, status=status)


def test_missed_expectation_can_fail(rising, capsys) -> None:
    expect = ("--expect", "step 100: train/loss < 3", "--fail-on", "expectation")
    run_diagnose(capsys, rising, *expect, status=1)


def test_standard_input_is_read(rising, capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(rising.read_bytes())))
    printed = run_diagnose(capsys, "-")
    assert printed.startswith("standard input text log standard input: 80 of 80 lines")
    assert "divergence" in printed
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert cli.main(["diagnose", "-"]) == 2
    assert capsys.readouterr().err.startswith("standard input: the file is empty; ")


def test_json_concludes_nothing_beside_a_diagnosis(rising, tmp_path, capsys) -> None:
    healthy = write_log(tmp_path / "healthy.log", 2 + 3 / np.sqrt(np.arange(1, 60)))
    first, second = run_json(capsys, rising, healthy)["runs"]
    assert first["assessment"]["conclusion"] is None
    assert second["assessment"]["conclusion"]


def test_errors_begin_with_the_path_that_was_given(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("zero.log").touch()
    Path("words.log").write_text("all is well")
    for name, problem in (("zero.log", "the file is empty; wait"), ("words.log", "no step and loss found in 1 line; ")):
        assert cli.main(["diagnose", name]) == 2
        assert capsys.readouterr().err.startswith(f"{name}: {problem}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--lr", "-1e-3"), "--lr: '-1e-3' is not a positive number; write it as in 3e-4"),
        (("--total-steps", "1.5"), "--total-steps: '1.5' is not a whole number; write it as in 500 or 1e6"),
        (("--total-steps", "10"), "--total-steps: 10 is less than the 790 steps in rising; give the length"),
        (("--threshold", "spike_z"), "--threshold: spike_z: the value is missing; write it as in spike_z=6"),
        (("--fail-on", "divergance"), "--fail-on: 'divergance' is no diagnosis; did you mean 'divergence'?\n"),
        (("--fail-on", "xyz"), "--fail-on: 'xyz' is no diagnosis; the kinds are divergence, never learnt"),
    ],
)
def test_wrong_option_is_named_with_its_remedy(arguments, message, rising, capsys) -> None:
    assert cli.main(["diagnose", str(rising), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_no_warmup_is_a_fact(rising, capsys) -> None:
    facts = run_json(capsys, rising, "--warmup-steps", 0)["runs"][0]["facts"]
    assert (facts["warmup_steps"], facts["requested_warmup"]) == (0, 0)


@pytest.mark.parametrize(("name", "hint"), [("AdamWW", "AdamW"), ("SGDD", "SGD"), ("adamw", ""), ("AdamW8bit", "")])
def test_misspelt_optimizer_is_noted(name, hint, rising, capsys) -> None:
    run_diagnose(capsys, rising)
    assert cli.main(["diagnose", str(rising), "--optimizer", name]) == 0
    errors = capsys.readouterr().err
    assert errors.endswith(f"--optimizer: {name!r} is not known; did you mean {hint!r}?\n") if hint else not errors


def test_pipe_has_a_line_for_each_statement_and_a_terminal_wraps_all(rising, capsys, monkeypatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert cli.main(["diagnose", str(rising)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("stayed far above it since" in line and "train/loss was" in line for line in lines) == 1
    monkeypatch.setenv("COLUMNS", "60")
    assert cli.main(["diagnose", str(rising)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "rising.log" not in line]
    assert max(len(line) for line in lines if not line.startswith("      ")) <= 60  # what to try is to be copied


def test_of_a_diverged_run_only_the_cause_is_not_judged(rising, tmp_path, capsys) -> None:
    assert run_diagnose(capsys, rising).endswith("not judged: warm-up and schedule (no LR recorded)")
    path = tmp_path / "with_lr.log"
    path.write_text(rising.read_text().replace("loss", "lr 1e-3 loss"))
    assert "not judged" not in run_diagnose(capsys, path)


def test_bad_logs_do_not_hide_the_others(rising, guessing, tmp_path, capsys) -> None:
    (tmp_path / "words.txt").write_text("all is well")
    arguments = [str(rising), str(tmp_path / "absent.log"), str(tmp_path / "words.txt"), str(guessing)]
    assert cli.main(["diagnose", *arguments]) == 2
    captured = capsys.readouterr()
    assert [line for line in captured.out.splitlines() if line in ("rising", "guess")] == ["rising", "guess"]
    absent, words = captured.err.splitlines()
    assert absent.startswith(f"{tmp_path / 'absent.log'}: is not a file")
    assert "words.txt: no step and loss found" in words


def test_folder_of_logs_is_diagnosed_and_other_files_are_noted(rising, guessing, capsys) -> None:
    (rising.parent / "words.txt").write_text("all is well")
    assert cli.main(["diagnose", str(rising.parent)]) == 0
    captured = capsys.readouterr()
    assert {"rising.log", "guess.log"} <= set(captured.out.splitlines())
    assert captured.err.count("words.txt: no step and loss found") == 1
    assert run_json(capsys, rising.parent)["runs"][0]["notes"][0].startswith("not read: ")


def test_logs_without_evaluations_are_not_compared(rising, guessing, capsys) -> None:
    assert "comparable" not in run_diagnose(capsys, rising, guessing)
    assert run_json(capsys, rising, guessing)["comparison"] is None
