"""The live table on a terminal and the lines in a file."""

import io
import re

import pytest

from harness.sweep.results.final_report import format_sweep_summary
from harness.sweep.results.result_files import trials_to_json
from harness.sweep.results.summary import summarize_trials
from harness.sweep.results.table import ProgressTable, find_varying_keys, select_shown_trials
from harness.sweep.results.time_left import estimate_seconds_left
from harness.sweep.study.budget import Budget
from harness.sweep.study.trial_attrs import PRIOR
from tests.sweep.studies import (
    COMMAND_LINE,
    add_every_outcome,
    add_paused_trials,
    ask_conditional_trial,
    ask_trial,
    complete_outside_trial,
    complete_trial,
    continue_trial,
    fail_trial,
    new_study,
    pause_trial,
    promote_trial,
    summarize,
)


class Screen(io.StringIO):
    """A terminal that keeps its output."""

    def isatty(self) -> bool:
        return True

    def frame(self) -> str:
        """Return the output since the last call, without colors and cursor movements."""
        text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.getvalue()).replace("\r", "")
        self.seek(0)
        self.truncate()
        return text


@pytest.fixture
def screen(monkeypatch) -> Screen:
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "118", "LINES": "40"}.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return Screen()


def rows(frame: str) -> dict[int, str]:
    """Return the rows of the table by trial number."""
    found = (re.match(r"\s*(?:★ )?(\d+)  ", line) for line in frame.splitlines())
    return {int(match[1]): match.string for match in found if match}


def test_table_shows_all_trials_and_progress(screen) -> None:
    table = ProgressTable(["best_val_loss"], Budget(24), 2, stream=screen)
    table(summarize_trials(add_every_outcome(new_study())))
    frame = screen.frame()
    assert frame.splitlines()[0].split() == [
        "trial", "status", "val", "loss", "lr", "rank", "grad_clip", "time",
    ]  # fmt: skip
    shown = rows(frame)
    assert sorted(shown) == list(range(8))
    assert shown[1].split() == ["★", "1", "completed", "3.002", "0.009", "64", "1", "10", "s"]
    assert shown[2].split()[1:3] == ["pruned", "7.386"]
    assert shown[3].split()[1:3] == ["diverged", "0.09"]
    assert shown[7].split()[1:5] == ["running", "50", "%", "4.500"]
    assert "best so far: trial 1 · val loss 3.002" in frame
    assert "6/24 trials · 3 completed · 1 pruned · 1 diverged · 2 failed · 1 running · " in frame
    assert frame.count("★") == 1
    table.close()


def test_names_in_a_narrow_table_keep_their_underscores(screen, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    study = new_study(["long_val_acc"])
    complete_trial(study, ask_trial(study), 3.0)
    table = ProgressTable(["long_val_acc"], Budget(24), 2, stream=screen)
    table(summarize_trials(study))
    assert [line.split()[-1] for line in screen.frame().splitlines()[:3]][:2] == ["long_", "val_"]
    table.close()


def test_table_is_cut_to_terminal_height(screen, monkeypatch) -> None:
    monkeypatch.setenv("LINES", "16")
    study = new_study()
    complete_trial(study, ask_trial(study), 3.0)
    ask_trial(study).report(5.0, 50)
    for value in range(30):
        complete_trial(study, ask_trial(study), 4.0 + value)
    table = ProgressTable(["best_val_loss"], Budget(40), 2, stream=screen)
    table(summarize_trials(study))
    frame = screen.frame()
    assert sorted(rows(frame)) == [0, 1, *range(24, 32)]
    assert "22 more trials, neither best nor newest" in frame
    assert len(frame.splitlines()) < 16
    table.close()
    assert sorted(rows(screen.frame())) == list(range(32))


def test_table_follows_a_trial(screen) -> None:
    study = new_study()
    trial = ask_trial(study)
    table = ProgressTable(["best_val_loss"], Budget(3), 1, stream=screen)
    table(summarize_trials(study))
    assert rows(screen.frame())[0].split()[1] == "running"
    complete_trial(study, trial, 3.5)
    table(summarize_trials(study))
    assert rows(screen.frame())[0].split()[:4] == ["★", "0", "completed", "3.500"]
    table.close()


def test_varying_keys() -> None:
    study = new_study()
    complete_outside_trial(study, 3.9, **{"optimizer.lr": 1.0, "loop.max_steps": 5})
    for _ in range(8):
        complete_trial(study, ask_conditional_trial(study))
    assert find_varying_keys(summarize_trials(study)) == ["optimizer.lr", "loop.max_steps", "optimizer"]
    same = new_study()
    for lr in (0.01, 0.02):
        complete_trial(same, ask_trial(same, lr=lr, rank=8, clip=1.0))
    assert find_varying_keys(summarize_trials(same)) == ["optimizer.lr"]


def test_table_escapes_markup(screen) -> None:
    study = new_study()
    for layers in ("[bold]", "[/red]"):
        complete_outside_trial(study, 3.9, **{"lora.target_modules": layers})
    table = ProgressTable(["best_val_loss"], Budget(2), 1, stream=screen)
    table(summarize_trials(study))
    shown = rows(screen.frame())
    assert "[bold]" in shown[0]
    assert "[/red]" in shown[1]
    table.close()


def test_table_with_several_objectives(screen) -> None:
    study = new_study(("best_val_loss", "tokens"))
    for value, tokens in ((3.0, 1_200_000), (3.5, 600_000), (3.6, 700_000)):
        complete_trial(study, ask_trial(study), value, tokens)
    table = ProgressTable(["best_val_loss", "tokens"], Budget(3), 1, stream=screen)
    table(summarize_trials(study))
    frame = screen.frame()
    assert "val loss" in frame
    assert "1,200,000" in rows(frame)[0]
    assert [number for number, row in rows(frame).items() if "★" in row] == [0, 1]
    assert "2 trials on the Pareto front" in frame
    table.close()


def test_lines_without_terminal() -> None:
    study, stream = new_study(), io.StringIO()
    table = ProgressTable(["best_val_loss"], Budget(3), 1, stream=stream)
    table(summarize_trials(study))
    first = ask_trial(study, lr=1e-2, rank=8, clip=1.0)
    table(summarize_trials(study))
    assert stream.getvalue() == ""
    complete_trial(study, first)
    lost = ask_trial(study, lr=2e-2, rank=4, clip=1.0)
    table(summarize_trials(study))
    fail_trial(study, lost)
    study.enqueue_trial(lost.params, user_attrs={"retry_of": 1})
    for _ in range(3):
        table(summarize_trials(study))
    table.close()
    assert "\x1b" not in stream.getvalue()
    assert stream.getvalue().splitlines() == [
        "trial 0 · completed · val loss 3.300 (best so far) · lr 0.01 · rank 8 · grad_clip 1 · 10 s",
        "trial 1 · failed (its worker died) · lr 0.02 · rank 4 · grad_clip 1",
        "trial 2 retries it with the same parameters",
    ]


def test_resumed_sweep_summarizes_earlier_trials_in_one_line() -> None:
    study, stream = add_every_outcome(new_study()), io.StringIO()
    table = ProgressTable(["best_val_loss"], Budget(24), 2, stream=stream)
    table(summarize_trials(study))
    complete_trial(study, ask_trial(study, lr=1e-2, rank=64, clip=1.0))
    table(summarize_trials(study))
    before, new = stream.getvalue().splitlines()
    assert before.startswith("resumed: best so far: trial 1 · val loss 3.002; 6/24 trials · 3 completed")
    assert new.startswith("trial 8 · completed · val loss 3.000 (best so far)")


def test_closed_output_is_ignored() -> None:
    class Closed(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    study = new_study()
    table = ProgressTable(["best_val_loss"], Budget(3), 1, stream=Closed())
    table([])
    complete_trial(study, ask_trial(study))
    table(summarize_trials(study))
    table.close()


def test_close_twice_or_before_first_trial(screen) -> None:
    table = ProgressTable(["best_val_loss"], Budget(3), 1, stream=screen)
    table.close()
    table.close()
    assert screen.getvalue() == ""


def test_estimate_of_seconds_left() -> None:
    study = new_study()
    assert estimate_seconds_left(summarize_trials(study), Budget(10), 2) is None
    complete_trial(study, ask_trial(study))  # 10 s
    complete_trial(study, ask_trial(study))
    assert estimate_seconds_left(summarize_trials(study), Budget(10), 2) == 40
    ask_trial(study).report(4.0, 50)
    assert estimate_seconds_left(summarize_trials(study), Budget(10), 2) == pytest.approx(37.5)
    left = estimate_seconds_left(summarize_trials(study), Budget(3), 2)
    assert left == pytest.approx(5)  # one worker has nothing left to do
    fail_trial(study, ask_trial(study))
    study.enqueue_trial({}, user_attrs={"retry_of": 3})
    assert (
        estimate_seconds_left(summarize_trials(study), Budget(4), 1) > 7
    )  # half a trial, and the retry that no count of trials shows


def test_shown_trials_by_priority() -> None:
    study = add_every_outcome(new_study())
    for _ in range(5):
        study.enqueue_trial({"optimizer.lr": 0.01})
    trials = summarize_trials(study)
    assert [trial.number for trial in select_shown_trials(trials, [1], 4)] == [1, 5, 6, 7]
    assert select_shown_trials(trials, [1], 100) == trials


def test_table_shows_rungs_promotions_and_the_budget(screen, monkeypatch) -> None:
    monkeypatch.setenv("LINES", "16")
    monkeypatch.setenv("COLUMNS", "80")
    study = add_paused_trials(new_study())
    table = ProgressTable(["best_val_loss"], Budget(200, runs=8), 2, stream=screen)
    table(summarize_trials(study))
    frame = screen.frame()
    shown = rows(frame)
    assert sorted(shown) == [0, 21, *range(24, 31)]  # the best, the running, and those that got furthest
    assert shown[21].split()[1:5] == ["running", "4→12", "%", "↑"]
    assert shown[29].split()[1:5] == ["paused", "36", "%", "↑↑"]
    assert shown[30].split()[:4] == ["★", "30", "completed", "↑↑↑"]
    assert "22 more trials, none of them best, running or at a higher rung" in frame
    assert all(len(line) <= 80 for line in frame.splitlines())
    assert " ".join(frame.split()).endswith(
        "4.1 of 8 runs · 31 trials · 2 completed · 27 paused · 1 interrupted · 1 running · 20 s left"
    )
    table.close()
    assert rows(screen.frame())[12].split()[1:4] == ["interrupted", "8", "%"]
    study.tell(21, 3.0)
    table = ProgressTable(["best_val_loss"], Budget(200, runs=8), 2, stream=screen)
    table(summarize_trials(study))
    assert "left" not in screen.frame()
    table.close()


def test_pauses_and_promotions_have_lines_of_their_own() -> None:
    study, stream = new_study(), io.StringIO()
    table = ProgressTable(["best_val_loss"], Budget(200, runs=8), 1, stream=stream)
    table([])
    pause_trial(study, ask_trial(study, lr=1e-2, rank=8, clip=1.0), 4, 5.0)
    table(summarize_trials(study))
    trial = promote_trial(study, 0, 12)
    for _ in range(2):
        table(summarize_trials(study))
    pause_trial(study, trial, 8, 4.5, "interrupted")
    table(summarize_trials(study))
    pause_trial(study, continue_trial(study, 0), 12, 4.0)
    complete_trial(study, promote_trial(study, 0, 100, "last"), 3.0)
    table(summarize_trials(study))
    table.close()
    params = "lr 0.01 · rank 8 · grad_clip 1"
    assert stream.getvalue().splitlines() == [
        f"trial 0 · paused at 4 % · val loss 5.000 · {params} · 0.4 s",
        "trial 0 · promoted from 4 % to 12 % · one of the best there",
        f"trial 0 · interrupted (after 8% of the run) · val loss 4.500 · {params} · 0.8 s",
        "trial 0 · promoted from 12 % to its end · no new trials start",
        f"trial 0 · completed · val loss 3.000 (best so far) · {params} · 10 s",
    ]


def test_resumed_sweep_with_paused_trials_prints_only_what_is_new() -> None:
    study, stream = add_paused_trials(new_study()), io.StringIO()
    table = ProgressTable(["best_val_loss"], Budget(200, runs=8), 1, stream=stream)
    table(summarize_trials(study))
    promote_trial(study, 28, 36, "projection")
    table(summarize_trials(study))
    before, new = stream.getvalue().splitlines()
    assert before.startswith("resumed: best so far: trial 30 · val loss 2.500; 4.1 of 8 runs · 31 trials")
    assert new == "trial 28 · promoted from 12 % to 36 % · best projected value"


def test_time_left_of_a_budget() -> None:
    study = new_study()
    assert estimate_seconds_left([], Budget(200, runs=8), 2) is None
    complete_trial(study, ask_trial(study))  # 10 s and 1000 tokens
    pause_trial(study, ask_trial(study), 4)  # 0.4 s and 40 tokens
    trials = summarize_trials(study)
    assert estimate_seconds_left(trials, Budget(200, runs=8), 2) == pytest.approx(10 * (8 - 1.04) / 2)
    assert estimate_seconds_left(trials, Budget(1000, max_tokens=5040), 1) == pytest.approx(40)
    assert estimate_seconds_left(trials, Budget(200, runs=1.1), 2) == pytest.approx(0.3)
    promote_trial(study, 1, 100)
    assert estimate_seconds_left(summarize_trials(study), Budget(200, runs=2), 8) == pytest.approx(9.6)


def test_trials_with_earlier_values_are_marked(screen) -> None:
    study = new_study()
    complete_trial(study, ask_trial(study, lr=1e-3, rank=8, clip=1.0, baseline=True))
    warm = ask_trial(study, lr=1e-2, rank=8, clip=1.0)
    warm.set_user_attr(PRIOR, {"source": "yesterday", "trial": 7})
    complete_trial(study, warm)
    other = ask_trial(study, lr=2e-2, rank=8, clip=1.0)
    other.set_user_attr(PRIOR, {})
    pause_trial(study, other, 4)
    table = ProgressTable(["best_val_loss"], Budget(24), 1, stream=screen)
    table(summarize_trials(study))
    found = rows(screen.frame())
    assert "completed prior" in found[1]
    assert "prior" not in found[0] + found[2]
    plain = io.StringIO()
    lines = ProgressTable(["best_val_loss"], Budget(24), 1, stream=plain)
    lines(())
    lines(summarize_trials(study))
    assert "trial 1 · completed, prior · val loss 3.300 (best so far) · " in plain.getvalue()
    warm_lines = [line for line in format_sweep_summary(summarize(study, 24), COMMAND_LINE, "x").splitlines()
                  if line.startswith("warm")]  # fmt: skip
    assert warm_lines == ["warm start from yesterday: trial 1; best of them: trial 1 · val loss 3.300"]
    assert [one["prior"] for one in trials_to_json(summarize(study, 24))["trials"]] == [
        None, {"source": "yesterday", "trial": 7}, None
    ]  # fmt: skip
