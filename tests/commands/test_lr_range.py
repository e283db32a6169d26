"""`python -m harness lr-range`: the real step at a rising LR, and what is left of it."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from harness import cli
from harness.commands.lr_range import LRRamp, describe_data_shortage, format_lr_ranges, run_range_test
from harness.config.compose import compose_config
from harness.importers import native
from harness.run.runner import built_run
from harness.sweep.request import compose_sweep_request


def test_the_lr_rises_exponentially_whatever_the_schedule_and_a_batch_apart_tells_of_every_update(overrides) -> None:
    rise = LRRamp(low=1e-6, high=1e-2, steps=21)
    with built_run(compose_config([*overrides, "schedule.warmup_ratio=0.5"])) as (_, parts, world):
        lrs, losses = run_range_test(parts, world, rise)
        assert parts.state.step == 21
    assert len(lrs) == len(losses) == 21
    assert lrs[0] == pytest.approx(1e-6)
    assert lrs[5] == pytest.approx(1e-5)
    assert losses == sorted(losses, reverse=True)  # no batch is harder than the last: it is always the same one


def test_every_group_keeps_its_ratio_to_the_first(overrides) -> None:
    cfg = compose_config([*overrides, "optimizer=muon", "optimizer.lr=0.02", "optimizer.adamw_lr=0.001"])
    with built_run(cfg) as (_, parts, world):
        run_range_test(parts, world, LRRamp(low=1e-4, high=1e-1, steps=20))
        lrs = parts.state.optimizer.current_lrs()
    assert lrs["matrices"] == pytest.approx(1e-1)
    assert lrs["embeddings"] == pytest.approx(5e-3)
    assert format_lr_ranges(1e-3, 1e-1, cfg) == [
        "optimizer.lr=tag(log,interval(1e-03,1e-01))",
        "optimizer.adamw_lr=tag(log,interval(5e-05,5e-03))",
    ]


@pytest.mark.parametrize(("examples", "is_told"), [(21, False), (20, True)])
def test_where_the_epoch_has_too_few_examples_for_a_batch_apart_that_is_said(overrides, examples, is_told) -> None:
    with built_run(compose_config(overrides)) as (_, parts, _):
        each = parts.task.examples // examples
        told = describe_data_shortage(replace(parts, plan=replace(parts.plan, batch_size=each)), LRRamp(steps=20))
    assert bool(told) == is_told


def test_it_ends_where_the_loss_explodes(overrides) -> None:
    exploding = [*overrides, "optimizer=sgd", "loop.grad_clip=null"]
    with built_run(compose_config(exploding)) as (_, parts, world):
        _, losses = run_range_test(parts, world, LRRamp(low=1e-2, high=1e6, steps=60))
    assert len(losses) < 50
    assert max(losses[:-1]) < 1.5 * losses[0]


def test_an_lr_at_which_nothing_trains_from_the_start_is_refused_with_the_option_that_helps(overrides, capsys) -> None:
    hot = ["--low", "1e4", "--high", "1e5", "optimizer=sgd", "loop.grad_clip=null"]
    assert cli.main(["lr-range", *overrides, *hot]) == 2
    assert "--low 10000: the loss is no number or explodes at once; begin lower" in capsys.readouterr().err


def test_it_leaves_numbers_a_picture_and_a_sweep_that_is_accepted_and_no_run(tested) -> None:
    said = tested.said
    [command] = [line for line in said.splitlines() if line.startswith("sweep: ")]
    assert "optimizer.lr=0.5" not in command
    folder = Path(said.splitlines()[-1].removeprefix("folder: "))
    numbers = json.loads((folder / "lr_range.json").read_text())
    low, high = numbers["band"]
    assert 1e-5 <= low <= high / 10 <= 1
    assert len(numbers["lrs"]) == len(numbers["losses"]) == len(numbers["smoothed"])
    assert (folder / "lr_range.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tested.folder.parent.iterdir() if "smoke" not in path.name) == ["lr_range"]
    asked = compose_sweep_request(shlex.split(command)[4:])
    found = asked.space.ranges
    assert asked.study_name == f"after_{folder.name}"[:80]  # no other range test's
    assert {name: (one.low, one.high) for name, one in found.items()} == {"optimizer.lr": (low, high)}


def test_a_run_of_the_same_experiment_finds_the_band_whatever_its_own_lr_and_seed(tested, finished) -> None:
    band = native.read_native(finished / "metrics.jsonl").facts.lr_band
    assert band is not None
    [latest] = tested.folder.iterdir()
    assert list(band) == json.loads((latest / "lr_range.json").read_text())["band"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--low", "1", "--high", "0.1"], "--low 1 --high 0.1: the LR must rise"),
        (["--low", "0"], "--low 0 --high 10: the LR must rise, from above 0"),
        (["--steps", "5"], "--steps: 5 must be at least 20"),
        (["optimiser.lr=1"], "there is no key 'optimiser.lr'"),
        (["batch.batch_size=0"], "batch.batch_size: 0 must be at least 1"),
    ],
)
def test_bad_input_is_named_with_exit_status_2_and_nothing_is_written(options, said, places, tmp_path, capsys) -> None:
    assert cli.main(["lr-range", "experiment=smoke", *places, *options]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
