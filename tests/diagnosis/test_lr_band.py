"""What is read from a range test, and which runs it speaks for."""

import json
from pathlib import Path

import numpy as np
import pytest

from harness.diagnosis.lr_band import (
    RANGE_TEST_FILE,
    RANGE_TEST_FOLDER,
    LRBand,
    compute_lr_band,
    load_lr_band,
    range_test_key,
)

LRS = np.geomspace(1e-7, 10, 100)


def losses(noise: float = 0.02, fall: float = 2.0) -> np.ndarray:
    """A loss of 6 that falls around an LR of 1e-3 and climbs from 1e-2 on."""
    decades = np.log10(LRS)
    falling = fall / (1 + np.exp(-4 * (decades + 3)))
    climbing = np.maximum(0, decades + 2) ** 2
    return 6 - falling + climbing + np.random.default_rng(0).normal(0, noise, len(LRS))


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1])
def test_the_band_lies_about_the_lr_at_which_the_loss_is_least_and_where_it_falls(noise) -> None:
    found = compute_lr_band(LRS, losses(noise))
    assert isinstance(found, LRBand)
    assert 3e-3 < found.best_lr < 3e-2
    assert found.best_lr / 45 < found.low < found.best_lr / 20  # rounded to one digit
    assert 2 * found.best_lr < found.high < 4.5 * found.best_lr
    assert found.reason.startswith("the loss fell from 6")


def test_a_loss_that_only_varies_by_chance_has_no_band() -> None:
    assert "at no LR does it learn" in compute_lr_band(LRS, losses(noise=0.1, fall=0.0))


def test_a_band_ends_where_the_loss_is_back_at_its_start() -> None:
    cliff = np.where(LRS > 2e-2, 9.0, np.where(LRS < 1e-4, 6.0, 6 - np.log10(LRS / 1e-4)))
    found = compute_lr_band(LRS, cliff)
    assert found.high <= 2e-2 < 3 * found.best_lr


def test_a_band_is_at_least_a_decade_wide() -> None:
    steep = np.where(LRS < 1e-2, 6.0, np.where(LRS < 2e-2, 3.0, 9.0)) + np.random.default_rng(0).normal(0, 0.01, 100)
    found = compute_lr_band(LRS, steep)
    assert found.high / found.low >= 10


def test_a_test_that_broke_off_at_once_says_to_begin_lower() -> None:
    assert "begin lower" in compute_lr_band([1.0, 2.0, 3.0], [6.0, 50.0, 900.0])


PARAMS = {
    "optimizer.lr": "0.1", "optimizer.weight_decay": "0.1", "schedule.warmup_ratio": "0.1", "loop.max_steps": "9",
    "loop.grad_clip": "1.0", "batch.batch_size": "8", "seed": "1", "lora": "{}", "output_dir": "x", "expect": "[]",
}  # fmt: skip


SAME = [
    {"optimizer.lr": "5"}, {"optimizer.adamw_lr": "5"}, {"schedule.warmup_ratio": "0"}, {"loop.max_steps": "99"},
    {"seed": "2"}, {"output_dir": "y"},
    {"optimizer": "adamw"},  # as a trial records a choice that its sweep searches
]  # fmt: skip


@pytest.mark.parametrize("change", SAME)
def test_a_range_test_speaks_for_runs_of_another_lr_schedule_length_or_seed(change) -> None:
    assert range_test_key({**PARAMS, **change}) == range_test_key(PARAMS)


@pytest.mark.parametrize(
    "change", [{"optimizer.weight_decay": "0"}, {"loop.grad_clip": "None"}, {"batch.batch_size": "9"}, {"lora": "None"}]
)
def test_it_does_not_speak_for_runs_that_differ_in_what_decides_it(change) -> None:
    assert range_test_key({**PARAMS, **change}) != range_test_key(PARAMS)


def test_the_latest_test_of_the_experiment_is_found_and_a_broken_one_is_passed_over(tmp_path) -> None:
    def leave(name: str, text: str) -> Path:
        folder = tmp_path / RANGE_TEST_FOLDER / name
        folder.mkdir(parents=True)
        return (folder / RANGE_TEST_FILE).write_text(text)

    assert load_lr_band(tmp_path, PARAMS) is None
    leave("1", json.dumps({"key": range_test_key(PARAMS), "band": [1e-4, 1e-2]}))
    leave("2", json.dumps({"key": range_test_key(PARAMS), "band": [1e-3, 1e-1]}))
    leave("3", json.dumps({"key": range_test_key(PARAMS), "band": None}))
    leave("4", json.dumps({"key": "other", "band": [1, 10]}))
    leave("5", '{"key": "cut o')
    assert load_lr_band(tmp_path, PARAMS) == (1e-3, 1e-1)
