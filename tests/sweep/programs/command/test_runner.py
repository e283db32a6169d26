"""One trial of a command: how it ends, what its value is, and what is recorded of it."""

import math
import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from harness.core.errors import ConfigError
from harness.sweep.programs.command.runner import read_chosen_metric
from harness.sweep.study.trial_attrs import TrialResult
from tests.sweep.programs.command.sweeps import AlwaysPrune, read_log, read_record, run_trial, sweep_folder

LINE = "-- sh train.sh 'interval(0,1)'"
CURVE = "for i in 1 2 3 4; do echo step $i/4 val_loss: 0.$i; done"
ENDLESS = "i=0; while :; do i=$((i+1)); echo step $i/1000 val_loss: 0.5; sleep 0.05; done"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run_script(code: str, options: str = "", **settings: object) -> TrialResult:
    """Run the trial with the value 0.25 of a shell script, which gets it as its first argument."""
    Path("train.sh").write_text(code)
    return run_trial(f"{options} {LINE}", {"arg1": 0.25}, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "options", "value", "step"),
    [
        ("echo val_loss: $1", "", 0.25, None),
        (CURVE, "", 0.4, 4),
        (CURVE, "--best", 0.1, 1),
        (CURVE, "--best --maximize", 0.4, 4),
        ("echo val_loss: 3 acc: 0.5", "--metric acc --maximize", 0.5, None),
        ("echo '{\"f1\": 7}' >$OUT/r.json", "--read '{out}/r.json' --metric f1 --env OUT={out}", 7.0, None),
        ("printf 'step,val_loss\\n1,3\\n2,2\\n' >log.csv; echo val_loss: 9", "--read log.csv", 2.0, 2),
    ],
)  # fmt: skip
def test_completed(code: str, options: str, value: float, step: int | None) -> None:
    result = run_script(code, options)
    assert (result.status, result.values) == ("completed", (value,)), result.reason
    assert step is None or result.best_step == step


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        ("echo val_loss: nan", "diverged", "val_loss is nan"),
        ("echo val_loss: nan; echo 'error: not finite'; exit 1", "diverged", "error: not finite (exit status 1)"),
        ("echo val_loss: 1; echo 'error: bad split' >&2; exit 1", "failed", "error: bad split (exit status 1)"),
        ("echo val_loss: 1; exit 3", "failed", "exit status 3; its last line: val_loss: 1"),
        ("exit 4", "failed", "exit status 4, without any output"),
        ("echo val_loss: 1; kill -9 $$", "failed", "killed by SIGKILL (out of memory?); its last line: val_loss: 1"),
        ("kill -SEGV $$", "failed", "segmentation fault (SIGSEGV), without any output"),
        ("echo torch.OutOfMemoryError: CUDA out of memory.; exit 1", "failed",
         "out of memory: torch.OutOfMemoryError: CUDA out of memory. (exit status 1)"),
        ("nosuch", "failed", "train.sh: 1: nosuch: not found (exit status 127, a command was not found)"),
        (":", "failed", "--metric: no loss in the output; it has no named numbers; print a line such as 'val_loss: "),
        ("echo saved in 3 s", "failed", "--metric: no loss in the output"),
    ],
)  # fmt: skip
def test_other_ends(code: str, status: str, reason: str) -> None:
    result = run_script(code)
    assert result.status == status
    assert result.reason.startswith(reason)
    assert read_record("train")[-1]["status"] == status
    assert read_record("train")[-1]["reason"] == result.reason


def test_a_metric_that_is_not_there_is_answered_with_those_that_are() -> None:
    result = run_script(CURVE, "--metric acuracy")
    assert result.status == "failed"
    assert result.reason == (
        "--metric: no metric 'acuracy' in the output; found val_loss (4 values): name one with --metric"
    )


def test_a_file_of_an_earlier_trial_is_not_read() -> None:
    options = "--read r.json"
    assert run_script("echo '{\"val_loss\": 1}' >r.json", options).values == (1.0,)
    silent = run_script("echo 'nothing to save'", options, number=1)
    assert (silent.status, silent.values) == ("failed", ())
    assert silent.reason == "--read r.json: was there before, and the program has not written it; check where it writes"
    assert run_script("sleep 0.01; echo '{\"val_loss\": 1}' >r.json", options, number=2).values == (1.0,)
    added = run_script("echo '{\"val_loss\": 2}' >>r.json", options, number=3)
    assert added.reason.startswith("--read r.json: was there before, and the program has added to it; write {out}")
    with pytest.raises(ConfigError, match=r"^--read outputs: has files of other runs; write \{out\}"):
        run_script(":", "--read outputs", number=4)
    with pytest.raises(ConfigError, match=r"^--read r.json: 2 programs would write it at the same time"):
        run_script(":", "--read r.json --n-jobs 2", number=4)


def test_a_trainer_is_pruned_by_the_state_in_its_checkpoints() -> None:
    """A Trainer of transformers writes the state into its own folder only at the end."""
    history = '{"log_history": [{"step": 5, "eval_loss": 1.5}], "global_step": 5, "max_steps": 100}'
    code = f"mkdir $OUT/checkpoint-5; echo '{history}' >$OUT/checkpoint-5/trainer_state.json; {ENDLESS}"
    options = "--read '{out}/trainer_state.json' --env OUT={out}"
    result = run_script(code, options, pruner=AlwaysPrune())
    assert (result.status, result.reason) == ("pruned", "loss 1.5 after 5% of the run")


def test_a_pruned_program_is_ended() -> None:
    result = run_script(ENDLESS, pruner=AlwaysPrune())
    assert result.status == "pruned"
    assert result.reason.startswith("loss 0.5 after ")
    assert result.reason.endswith("% of the run")
    assert len(read_log("train", 0).splitlines()) < 100
    assert read_record("train")[-1]["status"] == "pruned"


def test_a_program_that_was_at_its_end_when_it_was_read_is_not_pruned() -> None:
    result = run_script(f"{CURVE}; sleep 0.5; echo saved", pruner=AlwaysPrune())
    assert (result.status, result.values) == ("completed", (0.4,))
    assert read_log("train", 0).endswith("saved\n")


def test_a_program_that_ignores_sigterm_is_killed_with_its_children() -> None:
    code = f"trap '' TERM; sleep 61 & setsid sleep 61 & echo $$ >pid; {ENDLESS}"
    started = time.monotonic()
    result = run_script(code, "--grace-seconds 0.2", pruner=AlwaysPrune())
    assert result.status == "pruned"
    assert time.monotonic() - started < 10
    assert not psutil.pid_exists(int(Path("pid").read_text()))
    assert not [one for one in psutil.process_iter(["cmdline"]) if one.info["cmdline"] == ["sleep", "61"]]


def test_a_trial_that_runs_too_long_is_ended_and_fails() -> None:
    result = run_script(f"trap 'echo saved; exit 0' TERM; {ENDLESS}", "--trial-seconds 0.5")
    assert (result.status, result.reason) == ("failed", "ran longer than --trial-seconds 0.5")
    assert read_log("train", 0).endswith("saved\n")
    assert run_script(CURVE, "--trial-seconds 60", number=1).status == "completed"


@pytest.mark.parametrize(("number", "values", "is_advised"), [(0, {}, True), (0, {"lr": 0.1}, False), (1, {}, False)])
def test_a_trial_0_that_fails_without_values_is_advised(number: int, values: dict, is_advised: bool) -> None:
    Path("train.sh").write_text("echo 'error: --lr is required'; exit 2")
    result = run_trial("-- sh train.sh --lr 'interval(0,1)'", values, number=number)
    advice = "; --baseline 'lr=VALUE' gives trial 0 values, --no-baseline leaves it out" * is_advised
    assert result.reason == f"error: --lr is required (exit status 2){advice}"


def test_a_sweep_that_stops_ends_the_program_politely() -> None:
    code = f"trap 'echo saved; exit 0' TERM; {ENDLESS}"
    result = run_script(code, should_stop=lambda: Path("outputs/sweeps/train/0/output.log").stat().st_size > 0)
    assert (result.status, result.reason) == ("interrupted", "the sweep was asked to stop")
    assert read_log("train", 0).endswith("saved\n")


def test_processes_left_behind_are_ended_and_named_in_the_record() -> None:
    assert run_script("setsid sleep 62 & echo val_loss: 1").status == "completed"
    notices = [entry["text"] for entry in read_record("train") if entry["kind"] == "notice"]
    assert notices == ["processes that the program left behind and that were ended: 1"]
    assert not [one for one in psutil.process_iter(["cmdline"]) if one.info["cmdline"] == ["sleep", "62"]]


def test_variables_are_searched_and_set(monkeypatch) -> None:
    monkeypatch.setenv("RATE", "log(1e-5,1e-3)")
    Path("train.sh").write_text('echo "val_loss: ${RATE:-7}"; echo "$NOTE $WD {out}"')
    line = "--env WD='interval(0,1)' --env NOTE=trial-{trial} -- sh train.sh"
    assert run_trial(line, {"RATE": 3e-4, "WD": 0.5}, number=5).values == (3e-4,)
    assert read_log("train", 5).splitlines()[1] == "trial-5 0.5 {out}"
    assert run_trial(line, {}, number=6).values == (7.0,)  # trial 0: the program's own value, not the range
    assert os.environ["RATE"] == "log(1e-5,1e-3)"


def test_the_record_has_the_command_its_values_and_its_curves() -> None:
    Path("train.sh").write_text(CURVE)
    result = run_trial("-- sh train.sh --lr 'log(1e-5,1e-3)' --steps 4 --out {out}", {"lr": 3e-4})
    start, *metrics, end = read_record("train")
    folder = Path("outputs/sweeps/train/0").absolute()
    assert start["params"] == {"lr": "0.0003", "steps": "4", "out": "{out}"}
    assert start["searched"] == {"lr": 3e-4}
    assert start["objectives"] == {"loss": "minimize"}
    assert start["tags"]["command"] == f"sh train.sh --lr 0.0003 --steps 4 --out {folder}"
    assert [(entry["step"], entry["metrics"], entry["total_steps"]) for entry in metrics] == [
        (step, {"val/loss": step / 10}, 4) for step in range(1, 5)
    ]
    assert (end["status"], end["values"], end["artifacts"]) == ("completed", {"loss": 0.4}, ["output.log"])
    assert math.isclose(end["seconds"], result.seconds)


def test_all_trials_are_read_by_the_metric_of_the_first() -> None:
    assert run_script("echo train_loss: 1").status == "completed"
    assert read_chosen_metric(sweep_folder("train")) == {
        "name": "train_loss",
        "note": "the objective is 'train_loss', a training loss: no validation loss was found",
    }
    other = run_script("echo mse: 1", number=1)
    assert other.status == "failed"
    assert other.reason == "--metric: mse was found, but train_loss in earlier trials; add --metric train_loss"


def test_a_program_in_a_folder_with_spaces(tmp_path: Path, monkeypatch) -> None:
    home = tmp_path / "my project's"
    home.mkdir()
    monkeypatch.chdir(home)
    (home / "train.py").write_text("import sys; print('val_loss:', sys.argv[1]); open(sys.argv[2], 'w').write('x')")
    line = f"-- {sys.executable} -S train.py 'interval(0,1)' {{out}}/weights"
    assert run_trial(line, {"arg1": 0.5}).values == (0.5,)
    assert (home / "outputs/sweeps/train/0/weights").read_text() == "x"
