"""Resumed runs are bit-identical if nothing changes, and use new settings if they do."""

import json
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from harness import cli
from harness.commands.verify_resume import max_difference, read_checkpoint_parts
from harness.config.compose import compose_config
from harness.core.checkpoint_names import checkpoint_name, list_saved_steps
from harness.core.errors import ConfigError
from harness.core.events import Event, StepEnd
from harness.core.files import FileLock
from harness.record.metrics_file import encode_entry, read_entries
from harness.run.dry_run import dry_run
from harness.run.result import RunResult
from harness.run.resume import NoStepLeft, SettingChange, has_changed_validation
from harness.run.runner import run
from harness.run.unrecorded_end import complete_record
from harness.tracking.run_uploader import upload_run
from harness.training.checkpoint import STATE_FILE, WEIGHTS_FILE
from harness.training.checkpointer import Checkpointer
from harness.training.policies import Decision, Policy, Stop
from tests.conftest import ROOT
from tests.run.test_run import find_only_run, read_record, read_series, run_with_torchrun, wait_for_steps
from tests.tracking.stores import new_store, only_run

TINY = ["experiment=smoke", "device=cpu", "data=pydoc_text", "data.val_fraction=0.01", "observers=metrics_only",
        "model.layers=1", "model.width=16", "model.dropout=0.1", "loop.max_steps=12", "loop.evals=3"]  # fmt: skip


PARTS = ["model", "optimizer", "schedule", "scaler", "rng", "counters", "recent_losses"]


def stop_after(steps: int) -> Policy:
    taken: list[Event] = []

    def policy(event: Event) -> Decision:
        if isinstance(event, StepEnd):
            taken.append(event)
        return Stop("interrupted", "") if len(taken) == steps else None

    return policy


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> RunResult:
    """A run of 12 steps, evaluated at 4, 8 and 12, that was interrupted after 6."""
    folder = tmp_path_factory.mktemp("interrupted") / "first"
    return run(compose_config([*TINY, f"cache_dir={cache_dir}"]), [stop_after(6)], folder=folder)


@pytest.fixture(scope="module")
def completed(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> RunResult:
    folder = tmp_path_factory.mktemp("completed") / "first"
    return run(compose_config([*TINY, f"cache_dir={cache_dir}"]), folder=folder)


def resume_run(interrupted: RunResult, places: list[str], *changes: str) -> RunResult:
    return run(compose_config([*TINY, *places, "start=resume", f"start.run={interrupted.folder}", *changes]))


def read_start(result: RunResult) -> dict:
    return read_record(result.folder)[0]


def test_last_and_best_checkpoints_are_kept(interrupted) -> None:
    names = {path.name for path in (interrupted.folder / "checkpoints").iterdir()}
    assert names == {"step-00000000", "step-00000004", "step-00000006", "best", "tokenizer"}  # 4 is within 3 steps of 6


@pytest.mark.parametrize("extra", [[], ["optimizer=schedule_free", "schedule=plateau", "lora=all_linear"]], ids=str)
def test_verify_resume_finds_no_difference(extra, cache_dir, capsys) -> None:
    overrides = [*TINY, f"cache_dir={cache_dir}", *extra]
    assert cli.main(["verify-resume", "--steps", "5", *overrides]) == 0
    output = capsys.readouterr().out.splitlines()
    assert output[-1] == "10 steps at once vs. 5 steps, resumed for 5 more: largest difference 0"
    parts = [line.split()[0] for line in output[:-1] if not line.startswith("note:")]
    assert parts == PARTS


def test_verify_resume_exits_with_1_if_results_differ(cache_dir, capsys, monkeypatch) -> None:
    monkeypatch.setattr(
        "harness.core.seeding.set_rng_state", lambda state: None
    )  # dropout then differs after the break
    assert cli.main(["verify-resume", "--steps", "3", *TINY, f"cache_dir={cache_dir}", "model.dropout=0.5"]) == 1
    assert not capsys.readouterr().out.splitlines()[-1].endswith("difference 0")


def test_best_loss_is_kept_unless_something_else_is_validated() -> None:
    def changes(*keys: str) -> bool:
        return has_changed_validation([SettingChange(key, "before", "after") for key in keys])

    assert not changes("data.test", "data.digest", "data.train", "data.source.limit", "data.shuffle", "optimizer.lr")
    assert changes("data.validation_digest")
    assert changes("data.sequence_length")
    assert changes("task.mask_fraction")


def test_best_loss_survives_a_test_file(interrupted, places, tmp_path) -> None:
    (tmp_path / "test.txt").write_text("Some other words that only a test reads.\n" * 40)
    (tmp_path / "train.txt").write_text("One line of the text to learn, again.\n" * 400)
    data = [
        "data=text",
        f"data.source.path={tmp_path}/train.txt",
        "data.sequence_length=32",
        "tokenizer.vocab_size=300",
    ]
    first = run(compose_config([*TINY, *places, *data]), [stop_after(6)])
    lines = (resume_run(first, places, *data, f"data.test={tmp_path}/test.txt").folder / "start.txt").read_text()
    assert "data.test" in lines
    assert "discarded" not in lines
    assert "data.digest" not in lines


def test_verify_resume_of_a_completed_run_counts_from_its_checkpoint(completed, cache_dir, capsys) -> None:
    overrides = [f"output_dir={completed.folder.parent}", f"cache_dir={cache_dir}", "observers=metrics_only"]
    other = ["start=resume", f"start.run={completed.folder}", "loop.max_steps=12"]
    assert cli.main(["verify-resume", "--steps", "2", *TINY, *overrides, *other]) == 0
    output = capsys.readouterr()
    assert output.out.splitlines()[-1].endswith("difference 0")
    assert "uninterrupted: step 16" in output.err  # 12 and twice 2


def test_preflight_of_a_completed_run_counts_from_its_checkpoint(completed, cache_dir, capsys) -> None:
    overrides = [*TINY, f"cache_dir={cache_dir}", "start=resume", f"start.run={completed.folder}"]
    assert cli.main(["preflight", "--only", "effective_settings", *overrides]) == 0
    note = "the run has taken all its steps; start.restart_schedule=true counts further ones from its checkpoint"
    assert note in " ".join(capsys.readouterr().out.split())
    given = ["preflight", "--only", "effective_settings", *overrides, "start.restart_schedule=false"]
    assert cli.main(given) == 2
    assert "increase the number of steps" in capsys.readouterr().err


def test_changed_settings_apply_and_are_recorded(interrupted, places) -> None:
    changes = ["optimizer.lr=1e-4", "optimizer.betas=[0.8,0.9]", "optimizer.weight_decay=0.3", "loop.grad_clip=0.5"]
    result = resume_run(interrupted, places, *changes, "schedule=constant", "schedule.warmup_ratio=0")
    assert read_series(result.folder, "train/lr") == [1e-4] * 6
    group = result.effective.param_groups["matrices"]
    assert (group["betas"], group["weight_decay"]) == ([0.8, 0.9], 0.3)
    table = (result.folder / "start.txt").read_text()
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines()}
    assert rows["changed"] == ["before", "after"]
    assert rows["optimizer.lr"] == ["0.001", "0.0001"]
    assert rows["loop.grad_clip"] == ["1.0", "0.5"]
    assert rows["used.schedule"] == ["Cosine", "Constant"]
    assert "seed" not in rows
    assert [line["text"] for line in read_record(result.folder) if line["kind"] == "notice"][-1] == table.rstrip("\n")


def test_another_seed_draws_other_random_numbers(interrupted, places) -> None:
    losses = [
        read_series(resume_run(interrupted, places, "data.shuffle=false", f"seed={seed}").folder, "train/loss")
        for seed in (1337, 1, 1, 2)
    ]  # on the same data; only dropout may differ
    assert losses[1] == losses[2]
    assert len({tuple(series) for series in losses}) == 3


def test_changed_batch_size_and_sequence_length(interrupted, places) -> None:
    result = resume_run(interrupted, places, "batch.batch_size=16", "data.sequence_length=48")
    tokens = [line["tokens"] for line in read_record(result.folder) if "train/loss" in line.get("metrics", {})]
    before = interrupted.tokens
    assert before == 6 * 32 * 96
    assert tokens == [before + n * 16 * 48 for n in range(1, 7)]
    counters = json.loads((result.folder / "checkpoints" / checkpoint_name(12) / "checkpoint.json").read_text())[
        "counters"
    ]
    assert counters["examples"] == pytest.approx(2 * 6 * 32 + 6 * 16, abs=2)  # the same share of the data, then more
    assert result.best_step > 6  # the best loss on other rows was discarded


def test_restarted_schedule_counts_from_the_checkpoint(interrupted, places) -> None:
    restart = ["schedule.warmup_ratio=0.5", "loop.max_steps=4", "loop.evals=2"]
    result = resume_run(interrupted, places, "start.restart_schedule=true", *restart)
    assert result.step == 10
    assert read_series(result.folder, "train/lr")[:2] == pytest.approx([0.5e-3, 1e-3])
    second = resume_run(result, places, "start.checkpoint=8", *restart)
    assert second.step == 10
    assert read_series(second.folder, "train/lr") == read_series(result.folder, "train/lr")[2:]
    assert read_series(second.folder, "train/loss") == read_series(result.folder, "train/loss")[2:]


def test_best_weights_are_carried_over(interrupted, places) -> None:
    result = resume_run(interrupted, places, "optimizer.lr=1.0", "schedule=constant")
    assert result.best_step == 4
    kept, old = (one.folder / "checkpoints" / "best" / WEIGHTS_FILE for one in (result, interrupted))
    assert kept.read_bytes() == old.read_bytes()


def test_best_loss_is_that_of_the_resumed_step(interrupted, places) -> None:
    result = resume_run(interrupted, places, "start.checkpoint=0", "loop.max_steps=1", "optimizer.lr=1.0")
    assert result.best_step == 0
    kept = result.folder / "checkpoints" / "best" / WEIGHTS_FILE
    old = interrupted.folder / "checkpoints" / checkpoint_name(0) / WEIGHTS_FILE
    assert kept.read_bytes() == old.read_bytes()


def test_token_budget_includes_spent_tokens(interrupted, places) -> None:
    budget = ["loop.max_steps=null", f"loop.max_tokens={12 * 32 * 96}", "batch.batch_size=16"]
    result = resume_run(interrupted, places, *budget)
    assert (result.step, result.tokens) == (6 + 12, 12 * 32 * 96)
    assert read_series(result.folder, "train/lr")[0] == pytest.approx(
        0.55e-3, rel=0.1
    )  # halfway through the schedule, as before


def test_resume_with_another_precision(interrupted, places) -> None:
    assert resume_run(interrupted, places, "precision=fp16").status == "completed"


def test_changed_data_are_reported(interrupted, places, tmp_path) -> None:
    damaged = copy_run(interrupted, tmp_path)
    start, *_ = (entry for entry, _ in read_entries(damaged.folder / "metrics.jsonl"))
    digest, start["dataset"]["digest"] = start["dataset"]["digest"], "0" * 16
    (damaged.folder / "metrics.jsonl").write_bytes(encode_entry(start))
    result = resume_run(damaged, places)
    assert f"data.digest  {'0' * 16}  {digest}" in (result.folder / "start.txt").read_text()
    assert result.best_step > 6


def test_dry_run_measures_a_resumed_step(interrupted, places) -> None:
    cfg = compose_config(
        [*TINY, *places, "start=resume", f"start.run={interrupted.folder}", "start.restart_schedule=true"]
    )
    prepared = dry_run(cfg, timed_steps=2)
    assert prepared.seconds_per_step > 0
    assert prepared.seconds_per_eval > 0


def test_tags_name_the_resumed_run(interrupted, places) -> None:
    (interrupted.folder / "mlflow.json").write_text(json.dumps({"run_id": "abc123"}))
    tags = read_start(resume_run(interrupted, places))["tags"]
    (interrupted.folder / "mlflow.json").unlink()
    assert {name: tags[name] for name in tags if name.startswith("resumed")} == {
        "resumed.run": "first", "resumed.step": "6", "resumed.run_id": "abc123"}  # fmt: skip


def test_dry_run_counts_the_remaining_steps(interrupted, places) -> None:
    prepared = dry_run(compose_config([*TINY, *places, "start=resume", f"start.run={interrupted.folder}"]))
    assert (prepared.total_steps, prepared.evals, prepared.tokens) == (6, 2, 6 * 32 * 96)


def test_resume_after_kill_9(interrupted, places, tmp_path, cache_dir) -> None:
    endless = [
        *TINY,
        *places,
        "loop.max_steps=100000",
        "loop.evals=null",
        "loop.eval_every=100000",
        "loop.save_every=3",
    ]
    with subprocess.Popen([sys.executable, "run.py", *endless], cwd=ROOT, stderr=subprocess.DEVNULL) as child:
        wait_for_steps(tmp_path, 10)
        child.kill()
    killed = find_only_run(tmp_path)
    result = run(compose_config([*endless, "start=resume", f"start.run={killed.name}"]), [stop_after(2)])
    first_step = result.effective.first_step
    assert first_step >= 9
    assert first_step % 3 == 0
    assert read_series(result.folder, "train/loss")[0] == read_series(killed, "train/loss")[first_step]


@pytest.mark.slow
def test_resume_with_two_processes_is_bit_identical(places, tmp_path) -> None:
    overrides = [*TINY, *places]
    run_with_torchrun(*overrides, "name=straight")
    [straight] = (tmp_path / "outputs").iterdir()
    run_with_torchrun(*overrides, "name=again", "start=resume", f"start.run={straight}", "start.checkpoint=8")
    [resumed] = (tmp_path / "outputs").glob("*_again")
    one, other = (read_checkpoint_parts(folder, 12) for folder in (straight, resumed))
    assert [max_difference(one[part], other[part])[0] for part in one] == [0.0] * len(PARTS)
    assert len(one["rng"]) == 2


def copy_run(interrupted: RunResult, tmp_path: Path) -> RunResult:
    import shutil
    from dataclasses import replace

    shutil.copytree(interrupted.folder, tmp_path / "copy")
    return replace(interrupted, folder=tmp_path / "copy")


@pytest.mark.parametrize("file", [WEIGHTS_FILE, STATE_FILE, "checkpoint.json"])
def test_damaged_checkpoint_is_skipped(file, interrupted, places, tmp_path) -> None:
    damaged = copy_run(interrupted, tmp_path)
    path = damaged.folder / "checkpoints" / checkpoint_name(6) / file
    path.write_bytes(path.read_bytes()[:-7] + b"garbage")
    result = resume_run(damaged, places)
    notices = [line["text"] for line in read_record(result.folder) if line["kind"] == "notice"]
    assert notices[0].startswith(f"skipped a damaged checkpoint: {path}")
    assert "resuming copy at step 4" in notices[1]
    assert len(read_series(result.folder, "train/loss")) == 8


INVALID_CHANGES = [
    (["start.run=nowhere"], "start.run: 'nowhere' is not a file, a folder, or a run in"),
    (["start.run={files}"], "contains no checkpoints of a run"),
    (["start.checkpoint=5"], "start.checkpoint: '5' must be one of the checkpoints in"),
    (["start.checkpoint=5"], "checkpoints: best, last, 0, 4, 6"),
    (["start.checkpoint=newest"], "start.checkpoint: 'newest': must be best, last or a step"),
    (["start.restart_schedule=again"], "start.restart_schedule: Value 'again' is not a valid bool"),
    (["loop.max_steps=6"], "loop: the checkpoint is at step 6 and the run ends at step 6"),
    (["model.width=32"], "another architecture (0 tensors matched; "),
    (["lora=all_linear"], "another architecture"),
    (["optimizer=sgd"], "use the same optimizer and parameters, or start from the weights alone"),
]


@pytest.mark.parametrize(("changes", "message"), INVALID_CHANGES, ids=str)
def test_invalid_resume_writes_nothing(changes, message, interrupted, places, tmp_path) -> None:
    with pytest.raises(ConfigError) as error:
        resume_run(interrupted, places, *(change.format(files=tmp_path) for change in changes))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "outputs").exists()


def test_resume_removes_the_draft_of_a_killed_run(interrupted, places, tmp_path) -> None:
    killed = copy_run(interrupted, tmp_path)
    draft = killed.folder / "checkpoints" / f"{checkpoint_name(8)}.tmp"
    draft.mkdir()
    (draft / WEIGHTS_FILE).write_bytes(b"half")
    with FileLock(killed.folder / "metrics.jsonl"):  # as a process that still writes to it
        resume_run(killed, places)
    assert draft.exists()
    resume_run(killed, places)
    assert not draft.exists()


def test_resume_cut_off_at_its_start_leaves_a_record_and_no_step(interrupted, places, monkeypatch) -> None:
    """A step without the record, or without the best weights so far, could not be resumed to the same result."""

    def stop_at_once(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpointer, "link_best", stop_at_once)
    result = resume_run(interrupted, places)
    assert read_record(result.folder)[-1]["status"] == "interrupted"
    assert not list_saved_steps(result.folder / "checkpoints")


def cut_record(folder: Path, incomplete: bytes = b"") -> None:
    """Remove the end from a run's record, and add the part of a line that a killed process had written."""
    path = folder / "metrics.jsonl"
    *lines, end = path.read_bytes().splitlines(keepends=True)
    assert b'"end"' in end
    path.write_bytes(b"".join(lines) + incomplete)


def test_run_killed_after_its_last_step_is_completed(places, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(tmp_path))
    tracked = compose_config([*TINY, *places, "observers=trial"])
    killed = run(tracked, folder=tmp_path / "killed")
    before = (killed.folder / "metrics.jsonl").read_bytes()
    cut_record(killed.folder, b'{"kind": "metr')
    upload_run(killed.folder)
    assert only_run(f"sqlite:///{tmp_path}/mlflow.db")[1].data.tags["status"] == "failed"  # "its process died"
    resume = ["start=resume", f"start.run={killed.folder}"]
    with pytest.raises(NoStepLeft, match="increase the number of steps"):
        run(compose_config([*TINY, *places, *resume, "optimizer.lr=0.123"]))
    assert (killed.folder / "metrics.jsonl").read_bytes().endswith(b'{"kind": "metr')
    again = run(compose_config([*TINY, *places, *resume, "observers=metrics_only"]))
    assert (again.folder, again.status, again.step) == (killed.folder, "completed", killed.step)
    assert (again.best_val_loss, again.best_step) == (killed.best_val_loss, killed.best_step)
    assert not (tmp_path / "outputs").exists()
    assert "its record is completed" in capsys.readouterr().out
    *earlier, notice, end = (killed.folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    assert before.startswith(b"".join(earlier))
    assert b"the process died after the last step" in notice
    assert json.loads(end)["status"] == "completed"
    assert upload_run(killed.folder).is_complete
    _, recorded = only_run(f"sqlite:///{tmp_path}/mlflow.db")
    assert recorded.info.status == "FINISHED"
    assert (recorded.data.tags["status"], recorded.data.tags.get("reason", "")) == ("completed", "")
    with pytest.raises(NoStepLeft):
        run(compose_config([*TINY, *places, *resume]))


@pytest.mark.parametrize("why", ["running", "ended", "no last checkpoint", "damaged record"])
def test_record_is_completed_only_if_the_last_step_is_saved(why, completed, tmp_path) -> None:
    folder = copy_run(completed, tmp_path).folder
    path = folder / "metrics.jsonl"
    if why != "ended":
        cut_record(folder, b"garbage\n" if why == "damaged record" else b"")
    if why == "no last checkpoint":
        (folder / "checkpoints" / checkpoint_name(12) / STATE_FILE).unlink()
    before = path.read_bytes()
    with FileLock(path) if why == "running" else nullcontext():
        assert complete_record(folder) is None
    assert path.read_bytes() == before


@pytest.mark.slow
def test_run_killed_at_its_end_is_completed(places, tmp_path, cache_dir) -> None:
    code = (
        "import os, signal, sys; from harness.config.compose import compose_config; from harness.run import runner;"
        "runner._end_record = lambda *_: os.kill(os.getpid(), signal.SIGKILL); runner.run(compose_config(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *TINY, *places]
    assert subprocess.run(command, cwd=ROOT, check=False, timeout=120).returncode == -signal.SIGKILL
    folder = find_only_run(tmp_path)
    again = run(compose_config([*TINY, *places, "start=resume", f"start.run={folder}"]))
    assert (again.folder, again.status, again.step) == (folder, "completed", 12)
    assert again.best_val_loss == min(read_series(folder, "val/loss"))


def test_no_intact_checkpoint_is_left(interrupted, places, tmp_path) -> None:
    damaged = copy_run(interrupted, tmp_path)
    for path in (damaged.folder / "checkpoints").glob(f"*/{STATE_FILE}"):
        path.unlink()
    with pytest.raises(ConfigError, match=r"no intact checkpoint in .*state\.pt is missing"):
        resume_run(damaged, places)


def test_code_in_a_checkpoint_is_not_executed(interrupted, places, tmp_path, capsys) -> None:
    import hashlib

    from tests.training.test_checkpoint import Payload

    damaged = copy_run(interrupted, tmp_path)
    folder = damaged.folder / "checkpoints" / checkpoint_name(6)
    torch.save({"counters": Payload()}, folder / STATE_FILE)
    summary = json.loads((folder / "checkpoint.json").read_text())
    summary["sha256"][STATE_FILE] = hashlib.sha256((folder / STATE_FILE).read_bytes()).hexdigest()
    (folder / "checkpoint.json").write_text(json.dumps(summary))
    with pytest.raises(ConfigError, match="cannot be loaded as data"):
        resume_run(damaged, places)
    assert "code ran" not in capsys.readouterr().out
