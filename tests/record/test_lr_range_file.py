"""Range tests found by later runs of the same experiment."""

import pytest

from harness.diagnosis.lr_band import LRBand
from harness.record.lr_range_file import (
    RANGE_TEST_FILE,
    RANGE_TEST_FOLDER,
    describe_difference,
    find_range_test,
    load_lr_band,
    select_relevant_params,
    write_range_test,
)

PARAMS = {
    "optimizer.lr": "0.1", "optimizer.weight_decay": "0.1", "schedule.warmup_ratio": "0.1", "loop.max_steps": "9",
    "loop.grad_clip": "1.0", "batch.batch_size": "8", "seed": "1", "lora": "{}", "output_dir": "x", "expect": "[]",
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer.lr": "5"}, {"optimizer.adamw_lr": "5"}, {"schedule.warmup_ratio": "0"}, {"loop.max_steps": "99"},
        {"seed": "2"}, {"output_dir": "y"}, {"batch.micro_batch_size": "4"}, {"task.blimp.per_paradigm": "5"},
        {"data.test": "test.pt"},  # which nothing reads
        {"optimizer": "adamw"},  # recorded by a trial whose sweep searches this choice
    ],
)  # fmt: skip
def test_key_ignores_lr_schedule_length_and_seed(change) -> None:
    assert select_relevant_params({**PARAMS, **change}) == select_relevant_params(PARAMS)


@pytest.mark.parametrize(
    "change", [{"optimizer.weight_decay": "0"}, {"loop.grad_clip": "None"}, {"batch.batch_size": "9"}, {"lora": "None"}]
)
def test_key_depends_on_everything_else(change) -> None:
    assert select_relevant_params({**PARAMS, **change}) != select_relevant_params(PARAMS)


def test_load_lr_band_finds_the_latest_band_of_the_experiment(tmp_path) -> None:
    def write(name: str, params: dict[str, str], found: LRBand | str) -> None:
        folder = tmp_path / RANGE_TEST_FOLDER / name
        folder.mkdir(parents=True)
        write_range_test(folder, params, [1.0], [2.0], found)

    assert load_lr_band(tmp_path, PARAMS) is None
    write("1", PARAMS, LRBand(1e-4, 1e-2, 1e-3, "first"))
    write("2", PARAMS, LRBand(1e-3, 1e-1, 1e-2, "second"))
    write("3", PARAMS, "the model learns at no LR")
    write("4", {**PARAMS, "lora": "None"}, LRBand(1, 10, 5, "another experiment"))
    assert load_lr_band(tmp_path, PARAMS) == (1e-3, 1e-1)
    found = find_range_test(tmp_path, PARAMS)
    assert (found.folder.name, found.band) == ("2", LRBand(1e-3, 1e-1, 1e-2, "second"))
    assert describe_difference(found, {**PARAMS, "lora": "None", "optimizer.lr": "7"}) == ["lora={}"]
    other = find_range_test(tmp_path, {**PARAMS, "lora": "None"})
    assert other.band.best_lr == 5


@pytest.mark.parametrize("content", ["{}", '{"params": "', '{"params": {}, "band": {"low": 2}, "reason": ""}', ""])
def test_load_lr_band_skips_damaged_files(content, tmp_path) -> None:
    folder = tmp_path / RANGE_TEST_FOLDER / "1"
    folder.mkdir(parents=True)
    write_range_test(folder, PARAMS, [1.0], [2.0], LRBand(1e-4, 1e-2, 1e-3, "first"))
    damaged = folder.with_name("2")
    damaged.mkdir()
    (damaged / RANGE_TEST_FILE).write_text(content)
    assert load_lr_band(tmp_path, PARAMS) == (1e-4, 1e-2)
