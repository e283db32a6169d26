"""The command lr-range: training at a rising learning rate, its results, and the sweep it suggests."""

import json
import shlex
from dataclasses import replace

import pytest
from omegaconf import OmegaConf

from harness import cli
from harness.commands.lr_range import LRRamp, describe_data_shortage, run_range_test
from harness.config.compose import compose_config, flatten_config
from harness.diagnosis.lr_band import LRBand
from harness.diagnosis.prescription import format_lr_ranges
from harness.importers.programs import native
from harness.run.runner import built_run
from harness.sweep.programs.training.request import compose_sweep_request


def test_lr_rises_exponentially_and_the_loss_is_that_of_one_batch(overrides) -> None:
    ramp = LRRamp(low=1e-6, high=1e-2, steps=21)
    with built_run(compose_config([*overrides, "schedule.warmup_ratio=0.5"])) as (_, parts, processes):
        lrs, losses = run_range_test(parts, processes, ramp)
        assert parts.state.step == 21
    assert len(lrs) == len(losses) == 21
    assert lrs[0] == pytest.approx(1e-6)
    assert lrs[5] == pytest.approx(1e-5)
    assert losses == sorted(losses, reverse=True)  # different batches would make it go up and down


def test_other_parameter_groups_keep_their_ratio_to_the_first(overrides) -> None:
    cfg = compose_config([*overrides, "optimizer=muon", "optimizer.lr=0.02", "optimizer.adamw_lr=0.001"])
    with built_run(cfg) as (_, parts, processes):
        run_range_test(parts, processes, LRRamp(low=1e-4, high=1e-1, steps=20))
        lrs = parts.state.optimizer.current_lrs()
    assert lrs["matrices"] == pytest.approx(1e-1)
    assert lrs["embeddings"] == pytest.approx(5e-3)
    assert format_lr_ranges(1e-3, 1e-1, flatten_config(OmegaConf.to_container(cfg, resolve=True))) == [
        "optimizer.lr=tag(log,interval(1e-03,1e-01))",
        "optimizer.adamw_lr=tag(log,interval(5e-05,5e-03))",
    ]


@pytest.mark.parametrize(("batches_per_epoch", "is_short"), [(21, False), (20, True)])
def test_note_if_the_epoch_is_too_short_for_a_held_out_batch(overrides, batches_per_epoch, is_short) -> None:
    with built_run(compose_config(overrides)) as (_, parts, _):
        plan = replace(parts.plan, batch_size=parts.task.examples // batches_per_epoch)
        notes = describe_data_shortage(replace(parts, plan=plan), LRRamp(steps=20))
    assert bool(notes) == is_short


def test_range_test_of_a_completed_run_starts_at_its_checkpoint(finished, overrides, tmp_path, capsys) -> None:
    resumed = [*overrides, f"output_dir={tmp_path}", "start=resume", f"start.run={finished}"]
    assert cli.main(["lr-range", "--steps", "20", "--high", "1", *resumed]) in (0, 1), capsys.readouterr().err
    assert "raising the LR of AdamW from 1e-06 to 1 in 20 steps" in capsys.readouterr().out


def test_range_test_stops_when_the_loss_explodes(overrides) -> None:
    with built_run(compose_config([*overrides, "optimizer=sgd", "loop.grad_clip=null"])) as (_, parts, processes):
        _, losses = run_range_test(parts, processes, LRRamp(low=1e-2, high=1e6, steps=60))
    assert len(losses) < 50
    assert max(losses[:-1]) < 1.5 * losses[0]


def test_loss_that_explodes_at_once_exits_with_status_2(overrides, capsys) -> None:
    high = ["--low", "1e4", "--high", "1e5", "optimizer=sgd", "loop.grad_clip=null"]
    assert cli.main(["lr-range", *overrides, *high]) == 2
    assert "--low 10000: the loss explodes at once; start lower" in capsys.readouterr().err


def test_results_are_a_file_a_figure_and_a_valid_sweep_but_no_run(range_test, output_dir) -> None:
    lines = range_test.output.splitlines()
    assert lines[-1].endswith(str(range_test.folder))
    content = json.loads((range_test.folder / "lr_range.json").read_text())
    band = LRBand(**content["band"])
    assert 1e-5 <= band.low <= band.high / 10 <= 1
    assert f"evidence: {band.evidence}" in lines
    assert len(content["lrs"]) == len(content["losses"]) == len(content["smoothed"])
    assert (range_test.folder / "lr_range.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in output_dir.iterdir() if "smoke" not in path.name) == ["lr_range"]
    [command] = [line for line in lines if line.startswith("python run.py -m ")]
    assert "optimizer.lr=0.5" not in command
    request = compose_sweep_request(shlex.split(command)[4:])
    assert request.study_name == f"after_{range_test.folder.name}"[:80]
    ranges = {name: (one.low, one.high) for name, one in request.space.ranges.items()}
    assert ranges == {"optimizer.lr": band.search_range}


def test_runs_with_another_lr_and_seed_use_the_band(range_test, finished) -> None:
    band = native.read_native(finished / "metrics.jsonl").facts.lr_band
    assert band is not None
    recorded = json.loads((range_test.folder / "lr_range.json").read_text())["band"]
    assert band == (recorded["low"], recorded["high"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--low", "1", "--high", "0.1"], "--low 1 --high 0.1: must satisfy 0 < low < high"),
        (["--low", "0"], "--low 0 --high 10: must satisfy 0 < low < high"),
        (["--steps", "5"], "--steps: 5 must be at least 20"),
        (["optimiser.lr=1"], "optimiser.lr"),
        (["batch.batch_size=0"], "batch.batch_size: 0 must be at least 1"),
    ],
)
def test_invalid_options_exit_with_status_2_and_write_nothing(options, message, places, tmp_path, capsys) -> None:
    assert cli.main(["lr-range", "experiment=smoke", *places, *options]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
