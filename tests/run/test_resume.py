"""Going on from a checkpoint: the straight run to the bit where nothing changed, new numbers where something did."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from harness import cli
from harness.commands.verify_resume import max_difference, read_checkpoint_parts
from harness.config.compose import compose_config
from harness.core.checkpoint_names import checkpoint_name
from harness.core.errors import ConfigError
from harness.core.events import Event, StepEnd
from harness.run.dry_run import dry_run
from harness.run.runner import RunResult, run
from harness.training.checkpoint import STATE_FILE, WEIGHTS_FILE
from harness.training.policies import Decision, Policy, Stop
from tests.conftest import ROOT
from tests.run.test_run import find_only_run, read_record, read_series, run_with_torchrun, wait_for_steps

TINY = ["experiment=smoke", "device=cpu", "data=pydoc_text", "data.val_fraction=0.01", "observers=metrics_only",
        "model.layers=1", "model.width=16", "model.dropout=0.1", "loop.max_steps=12", "loop.evals=3"]  # fmt: skip


def stop_after(steps: int) -> Policy:
    taken: list[Event] = []

    def policy(event: Event) -> Decision:
        if isinstance(event, StepEnd):
            taken.append(event)
        return Stop("interrupted", "") if len(taken) == steps else None

    return policy


@pytest.fixture(scope="module")
def broken_off(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> RunResult:
    """A run of 12 steps, evaluated at 4, 8 and 12, that was interrupted after 6."""
    folder = tmp_path_factory.mktemp("broken_off") / "first"
    return run(compose_config([*TINY, f"cache_dir={cache_dir}"]), [stop_after(6)], folder=folder)


def resume_run(broken_off: RunResult, places: list[str], *changes: str) -> RunResult:
    return run(compose_config([*TINY, *places, "start=resume", f"start.run={broken_off.folder}", *changes]))


def read_start(result: RunResult) -> dict:
    return read_record(result.folder)[0]


def test_the_checkpoints_of_a_run_are_the_last_few_and_the_best(broken_off) -> None:
    names = {path.name for path in (broken_off.folder / "checkpoints").iterdir()}
    assert names == {"step-00000000", "step-00000004", "step-00000006", "best", "tokenizer"}  # 4 is within 3 steps of 6


@pytest.mark.parametrize("extra", [[], ["optimizer=schedule_free", "schedule=plateau", "lora=all_linear"]], ids=str)
def test_two_runs_of_n_steps_are_to_the_bit_one_of_2n(extra, cache_dir, capsys) -> None:
    overrides = [*TINY, f"cache_dir={cache_dir}", *extra]
    assert cli.main(["verify-resume", "--steps", "5", *overrides]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "10 steps at once vs. 5 steps, resumed for 5 more: largest difference 0"
    assert [line.split()[0] for line in said[:-1]] == ["model", "optimizer", "schedule", "scaler", "rng", "counters"]


def test_a_run_that_is_not_repeated_to_the_bit_is_told_with_exit_status_1(cache_dir, capsys, monkeypatch) -> None:
    monkeypatch.setattr(
        "harness.core.seeding.set_rng_state", lambda state: None
    )  # dropout then differs after the break
    assert cli.main(["verify-resume", "--steps", "3", *TINY, f"cache_dir={cache_dir}", "model.dropout=0.5"]) == 1
    assert not capsys.readouterr().out.splitlines()[-1].endswith("difference 0")


def test_changed_numbers_act_and_are_recorded_as_before_and_after(broken_off, places) -> None:
    changes = ["optimizer.lr=1e-4", "optimizer.betas=[0.8,0.9]", "optimizer.weight_decay=0.3", "loop.grad_clip=0.5"]
    again = resume_run(broken_off, places, *changes, "schedule=constant", "schedule.warmup_ratio=0")
    assert read_series(again.folder, "train/lr") == [1e-4] * 6
    group = again.effective.param_groups["matrices"]
    assert (group["betas"], group["weight_decay"]) == ([0.8, 0.9], 0.3)
    table = (again.folder / "start.txt").read_text()
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines()}
    assert rows["changed"] == ["before", "after"]
    assert rows["optimizer.lr"] == ["0.001", "0.0001"]
    assert rows["loop.grad_clip"] == ["1.0", "0.5"]
    assert rows["effective.schedule"] == ["Cosine", "Constant"]
    assert "seed" not in rows
    assert [line["text"] for line in read_record(again.folder) if line["kind"] == "notice"][-1] == table.rstrip("\n")


def test_a_new_batch_and_sequence_length_act_and_the_curve_goes_on_by_tokens(broken_off, places) -> None:
    again = resume_run(broken_off, places, "batch.batch_size=16", "data.sequence_length=48")
    tokens = [line["tokens"] for line in read_record(again.folder) if "train/loss" in line.get("metrics", {})]
    before = broken_off.tokens
    assert before == 6 * 32 * 96
    assert tokens == [before + n * 16 * 48 for n in range(1, 7)]
    counters = json.loads((again.folder / "checkpoints" / checkpoint_name(12) / "checkpoint.json").read_text())[
        "counters"
    ]
    assert counters["examples"] == pytest.approx(2 * 6 * 32 + 6 * 16, abs=2)  # the same share of the data, then more
    assert again.best_step > 6  # what was best on other rows counts no longer


def test_a_restarted_schedule_warms_up_anew_and_the_length_counts_from_the_checkpoint(broken_off, places) -> None:
    anew = ["schedule.warmup_ratio=0.5", "loop.max_steps=4", "loop.evals=2"]
    again = resume_run(broken_off, places, "start.restart_schedule=true", *anew)
    assert again.step == 10
    assert read_series(again.folder, "train/lr")[:2] == pytest.approx([0.5e-3, 1e-3])
    once_more = resume_run(again, places, "start.checkpoint=8", *anew)
    assert once_more.step == 10
    assert read_series(once_more.folder, "train/lr") == read_series(again.folder, "train/lr")[2:]
    assert read_series(once_more.folder, "train/loss") == read_series(again.folder, "train/loss")[2:]


def test_the_best_so_far_is_carried_over_with_its_weights(broken_off, places) -> None:
    again = resume_run(broken_off, places, "optimizer.lr=1.0", "schedule=constant")
    assert again.best_step == 4
    kept, old = (result.folder / "checkpoints" / "best" / WEIGHTS_FILE for result in (again, broken_off))
    assert kept.read_bytes() == old.read_bytes()


def test_the_best_so_far_is_that_of_the_step_to_go_on_from(broken_off, places) -> None:
    again = resume_run(broken_off, places, "start.checkpoint=0", "loop.max_steps=1", "optimizer.lr=1.0")
    assert again.best_step == 0
    kept = again.folder / "checkpoints" / "best" / WEIGHTS_FILE
    old = broken_off.folder / "checkpoints" / checkpoint_name(0) / WEIGHTS_FILE
    assert kept.read_bytes() == old.read_bytes()


def test_a_budget_of_tokens_counts_those_that_were_spent(broken_off, places) -> None:
    budget = ["loop.max_steps=null", f"loop.max_tokens={12 * 32 * 96}", "batch.batch_size=16"]
    again = resume_run(broken_off, places, *budget)
    assert (again.step, again.tokens) == (6 + 12, 12 * 32 * 96)
    assert read_series(again.folder, "train/lr")[0] == pytest.approx(0.55e-3, rel=0.1)  # half-way down, as it was


def test_another_precision_is_gone_on_with(broken_off, places) -> None:
    assert resume_run(broken_off, places, "precision=fp16").status == "completed"


def test_other_data_behind_the_same_settings_are_told(broken_off, places, tmp_path) -> None:
    spoilt = copy_run(broken_off, tmp_path)
    lines = (spoilt.folder / "metrics.jsonl").read_text().splitlines()
    digest = json.loads(lines[0])["dataset"]["digest"]
    (spoilt.folder / "metrics.jsonl").write_text("\n".join([lines[0].replace(digest, "0" * 16), *lines[1:]]) + "\n")
    again = resume_run(spoilt, places)
    assert f"data.digest  {'0' * 16}  {digest}" in (again.folder / "start.txt").read_text()
    assert again.best_step > 6


def test_the_time_of_a_resumed_step_can_be_measured(broken_off, places) -> None:
    cfg = compose_config(
        [*TINY, *places, "start=resume", f"start.run={broken_off.folder}", "start.restart_schedule=true"]
    )
    prepared = dry_run(cfg, timed_steps=2)
    assert prepared.seconds_per_step > 0
    assert prepared.seconds_per_eval > 0


def test_a_new_run_says_which_one_it_goes_on_from(broken_off, places) -> None:
    (broken_off.folder / "mlflow.json").write_text(json.dumps({"run_id": "abc123"}))
    tags = read_start(resume_run(broken_off, places))["tags"]
    (broken_off.folder / "mlflow.json").unlink()
    assert {name: tags[name] for name in tags if name.startswith("resumed")} == {
        "resumed.run": "first", "resumed.step": "6", "resumed.run_id": "abc123"}  # fmt: skip


def test_what_a_resumed_run_would_spend_is_what_is_left_of_it(broken_off, places) -> None:
    prepared = dry_run(compose_config([*TINY, *places, "start=resume", f"start.run={broken_off.folder}"]))
    assert (prepared.total_steps, prepared.evals, prepared.tokens) == (6, 2, 6 * 32 * 96)


def test_after_kill_9_the_last_checkpoint_serves(broken_off, places, tmp_path, cache_dir) -> None:
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
    again = run(compose_config([*endless, "start=resume", f"start.run={killed.name}"]), [stop_after(2)])
    begun = again.effective.first_step
    assert begun >= 9
    assert begun % 3 == 0
    assert read_series(again.folder, "train/loss")[0] == read_series(killed, "train/loss")[begun]


@pytest.mark.slow
def test_two_processes_go_on_to_the_bit_each_with_its_own_generators(places, tmp_path) -> None:
    chosen = [*TINY, *places]
    run_with_torchrun(*chosen, "name=straight")
    [straight] = (tmp_path / "outputs").iterdir()
    run_with_torchrun(*chosen, "name=again", "start=resume", f"start.run={straight}", "start.checkpoint=8")
    [again] = (tmp_path / "outputs").glob("*_again")
    one, other = (read_checkpoint_parts(folder, 12) for folder in (straight, again))
    assert [max_difference(one[part], other[part])[0] for part in one] == [0.0] * 6
    assert len(one["rng"]) == 2


def copy_run(broken_off: RunResult, tmp_path: Path) -> RunResult:
    import shutil
    from dataclasses import replace

    shutil.copytree(broken_off.folder, tmp_path / "copy")
    return replace(broken_off, folder=tmp_path / "copy")


@pytest.mark.parametrize("file", [WEIGHTS_FILE, STATE_FILE, "checkpoint.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_taken(file, broken_off, places, tmp_path) -> None:
    spoilt = copy_run(broken_off, tmp_path)
    path = spoilt.folder / "checkpoints" / checkpoint_name(6) / file
    path.write_bytes(path.read_bytes()[:-7] + b"garbage")
    again = resume_run(spoilt, places)
    notices = [line["text"] for line in read_record(again.folder) if line["kind"] == "notice"]
    assert notices[0].startswith(f"skipped a damaged checkpoint: {path}")
    assert "resuming copy at step 4" in notices[1]
    assert len(read_series(again.folder, "train/loss")) == 8


REFUSED = [
    (["start.run=nowhere"], "start.run: 'nowhere' is not a file, a folder, or a run in"),
    (["start.run={files}"], "keeps no checkpoints of a run"),
    (["start.checkpoint=5"], "start.checkpoint: '5' must be one of the checkpoints in"),
    (["start.checkpoint=5"], "keeps: best, last, 0, 4, 6"),
    (["start.checkpoint=newest"], "start.checkpoint: 'newest': must be best, last or a step"),
    (["start.restart_schedule=again"], "start.restart_schedule: Value 'again' is not a valid bool"),
    (["loop.max_steps=6"], "loop: the checkpoint has 6 steps and the run ends after 6"),
    (["model.width=32"], "is of another architecture (0 tensors matched; "),
    (["lora=all_linear"], "is of another architecture"),
    (["optimizer=sgd"], "use the same optimizer and parameters, or start from the weights alone"),
]


@pytest.mark.parametrize(("changes", "said"), REFUSED, ids=str)
def test_what_cannot_be_gone_on_from_is_refused_and_nothing_is_written(
    changes, said, broken_off, places, tmp_path
) -> None:
    with pytest.raises(ConfigError) as refused:
        resume_run(broken_off, places, *(change.format(files=tmp_path) for change in changes))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "outputs").exists()


def test_a_checkpoint_of_which_nothing_whole_is_left_is_refused(broken_off, places, tmp_path) -> None:
    spoilt = copy_run(broken_off, tmp_path)
    for path in (spoilt.folder / "checkpoints").glob(f"*/{STATE_FILE}"):
        path.unlink()
    with pytest.raises(ConfigError, match=r"no intact checkpoint in .*state\.pt is missing"):
        resume_run(spoilt, places)


def test_a_checkpoint_that_holds_code_is_refused_and_does_not_run(broken_off, places, tmp_path, capsys) -> None:
    import hashlib

    from tests.training.test_checkpoint import Payload

    spoilt = copy_run(broken_off, tmp_path)
    folder = spoilt.folder / "checkpoints" / checkpoint_name(6)
    torch.save({"counters": Payload()}, folder / STATE_FILE)
    summary = json.loads((folder / "checkpoint.json").read_text())
    summary["sha256"][STATE_FILE] = hashlib.sha256((folder / STATE_FILE).read_bytes()).hexdigest()
    (folder / "checkpoint.json").write_text(json.dumps(summary))
    with pytest.raises(ConfigError, match="cannot be loaded as data"):
        resume_run(spoilt, places)
    assert "code ran" not in capsys.readouterr().out
