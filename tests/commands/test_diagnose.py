"""The command diagnose: what it prints for our runs and for other logs."""

import json
from pathlib import Path

import pytest

from harness import cli


@pytest.fixture
def log(tmp_path) -> Path:
    path = tmp_path / "other.log"
    path.write_text(
        "\n".join(f"Step {n}: train loss {5 - n / 1000}, val loss {5 - n / 1200}" for n in range(0, 2000, 500))
    )
    return path


def test_output_for_a_run_and_a_log(finished, log, capsys) -> None:
    assert cli.main(["diagnose", str(finished), str(log), "--expect", "step 1000: val/loss < 4.2"]) == 0
    run, other = capsys.readouterr().out.split("other\n")
    assert run.startswith(f"{finished.name}\n")
    assert "completed · step 12 of 12 · points: 12 of train/loss, 4 of val/loss" in run
    assert "step 4: val/loss < 1: missed" in run
    assert "of 3 expectations met" in run
    assert f"text log {log}: 4 of 4 lines parsed" in other
    assert "step 1500 · points: 4 of train/loss, 4 of val/loss" in other
    assert "best validation loss 3.75 at step 1500" in other
    assert "too few" not in other
    assert "cannot tell whether it learns" not in other
    assert "slope of val/loss: -" in other
    assert "not judged: " in other
    assert "step 1000: val/loss < 4.2: met (4.167 at step 1000, 0.0333 below)" in other


def test_thresholds_change_the_diagnosis(tmp_path, capsys) -> None:
    path = tmp_path / "clipped.jsonl"
    path.write_text("\n".join(f'{{"step": {n}, "loss": {5 - n / 100}, "clip_fraction": 0.7}}' for n in range(10)))
    assert cli.main(["diagnose", str(path)]) == 0
    assert "clipping binds" not in capsys.readouterr().out
    assert cli.main(["diagnose", str(path), "--threshold", "clip_fraction=0.6"]) == 0
    assert "clipping binds" in " ".join(capsys.readouterr().out.split())


def test_several_runs_are_compared(finished, log, tmp_path, capsys) -> None:
    """The same run twice, one that was validated on other data, and a log that does not say."""
    other = tmp_path / "other_data"
    other.mkdir()
    first, *rest = (finished / "metrics.jsonl").read_text().splitlines()
    start = json.loads(first)
    start["dataset"]["validation"] = "0" * 16
    del start["crc32"]
    (other / "metrics.jsonl").write_text("\n".join([json.dumps(start), *rest]) + "\n")
    cases = ((finished, "these runs are comparable"), (other, "these runs are not comparable:\n  validation data: "),
             (log, "cannot tell whether these runs are comparable:\n  other: "))  # fmt: skip
    for path, verdict in cases:
        assert cli.main(["diagnose", str(finished), str(path)]) == 0
        printed = capsys.readouterr().out
        assert verdict in printed
        assert ("lowest first: " in printed) == ("not comparable" not in verdict)
    # Of foreign logs, too, the better one comes first.
    assert printed.splitlines()[-1].startswith("best validation losses, lowest first: other 3.75 at step 1500 · ")


def test_training_that_does_not_move_is_not_called_fine(tmp_path, capsys) -> None:
    path = tmp_path / "flat.log"
    path.write_text("\n".join(f"step {n} loss {6.9 + 0.01 * (-1) ** n}" for n in range(1, 401)))
    assert cli.main(["diagnose", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "never learnt" in printed
    assert "no problems found" not in printed
    assert "95% interval" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{folder}/absent.log"], "absent.log: is not a file, a folder, or a run in"),
        (["{folder}/empty"], "empty: contains no log; pass the path of a log"),
        (["{folder}/words.txt"], "words.txt: no step and loss found in 1 line;"),
        (["{folder}/other.log", "--lr", "-1"], "--lr: '-1' is not a positive number"),
        (["{folder}/other.log", "--batch-tokens", "0.5"], "--batch-tokens: '0.5' is not a whole number"),
        (["{folder}/other.log", "--vocabulary", "1"], "--vocabulary: '1' is no vocabulary"),
        (["{folder}/other.log", "--optimizer", "3e-4"], "--optimizer: '3e-4' is not the name of an optimizer"),
        (
            ["{folder}/other.log", "--total-steps", "900"],
            "--total-steps: 900 is less than the 1500 steps in other; give",
        ),
        (["{folder}/other.log", "--fail-on", "plateu"], "--fail-on: 'plateu' is no diagnosis; did you mean 'plateau'?"),
        (["{folder}/other.log", "--threshold", "strict=1"], "--threshold: strict: unknown threshold"),
        (["{folder}/other.log", "--expect", "loss 3"], "--expect: 'loss 3' is not a valid expectation"),
        (["f" * 32, "--uri", "mlruns"], "'mlruns' is not a tracking store"),
    ],
)
def test_invalid_arguments_exit_with_status_2_and_print_no_diagnosis(arguments, message, log, capsys) -> None:
    (log.parent / "words.txt").write_text("all is well")
    (log.parent / "empty").mkdir()
    assert cli.main(["diagnose", *(argument.format(folder=log.parent) for argument in arguments)]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""


def test_run_of_an_untrusted_component_is_diagnosed(finished, tmp_path, capsys) -> None:
    """The curves of a colleague's run can be judged without their code; the suggestions are then unchecked."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    entries = [{"kind": "metrics", "at_ms": 0, "step": n, "metrics": {"train/loss": 5.0, "train/clip_fraction": 1.0},
                "units": {}} for n in range(1, 60)]  # fmt: skip
    start = (finished / "metrics.jsonl").read_text().splitlines()[0]
    (folder / "metrics.jsonl").write_text("\n".join([start, *map(json.dumps, entries)]) + "\n")
    text = (finished / "config.yaml").read_text().rpartition("#")[0]
    (folder / "config.yaml").write_text(text.replace("torch.optim.AdamW", "my_package.Careful"))
    assert cli.main(["diagnose", str(folder)]) == 0
    captured = capsys.readouterr()
    assert "diagnosis: " in captured.out
    assert "my_package.Careful is not trusted" in captured.err
    assert "suggestions are not checked" in captured.err
    assert cli.main(["prescribe", str(folder)]) == 2  # which composes the run again
