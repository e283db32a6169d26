"""Headlines GPT: the step count and token stream of the report, and both recipes at a tiny size."""

import random
import string

import numpy as np
import pytest
import torch

from harness.config.compose import compose_config
from harness.config.validation import validate_config
from harness.core.distributed import ProcessGroup
from harness.run.build import build_parts, build_task
from harness.run.runner import run
from tests.run.test_run import read_record, read_series

TINY = ["model.layers=1", "model.width=16", "model.heads=2", "observers=metrics_only", "device=cpu"]
BYTES = "tokenizer.vocab_size=259"  # no merges: one token per byte


@pytest.fixture(scope="module")
def report_sized_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write ten titles, nine for training: 1,102,455 training tokens with separators, as in the report."""
    path = tmp_path_factory.mktemp("titles") / "titles.txt"
    words = ["".join(random.Random(n).choices(string.ascii_lowercase, k=9)) for n in range(10)]
    title = (" ".join(words) * 2000)[: 1_102_455 // 9 - 1]
    path.write_text("\n".join(f"{n}{title[1:]}" for n in range(10)))
    return f"data.source.path={path}"


@pytest.mark.parametrize(("variant", "warmup"), [("before", 0), ("after", 100)])
def test_seven_epochs_are_938_steps(variant: str, warmup: int, report_sized_text: str, places) -> None:
    cfg = compose_config([f"experiment=headlines_{variant}", report_sized_text, BYTES, *places, *TINY])
    settings, processes = validate_config(cfg), ProcessGroup(torch.device("cpu"))
    task = build_task(cfg, settings, processes)
    parts = build_parts(cfg, settings, processes, task)
    assert int(task.data.train.lengths.sum()) == 1_102_455
    assert parts.plan.total_steps == 938 == 1_102_455 // (64 * 128) * 7
    assert sorted(parts.plan.eval_steps) == [*range(44, 938, 44), 938]
    assert parts.effective.warmup_steps == warmup
    check_stream(task)


def check_stream(task) -> None:
    """Check that batches are consecutive and that the second epoch starts within the last batch of the first."""
    stream = torch.from_numpy(task.data.train.stream.astype("int64"))
    for batch in (0, 1, 133):
        taken = task.get_batch(64 * batch, 64)
        window = stream[8192 * batch : 8192 * (batch + 1) + 1]
        assert torch.equal(taken.inputs.flatten(), window[:-1])
        assert torch.equal(taken.targets.flatten(), window[1:])
    last = task.get_batch(64 * 134, 64)  # the last 4727 tokens of the text, then its start
    left = np.flatnonzero(last.lengths < 128)[0]
    assert last.lengths[: left + 1].sum() == 1_102_455 - 134 * 8192
    assert torch.equal(last.inputs[left + 1 :].flatten(), stream[: 128 * (63 - left)])


@pytest.fixture(scope="module")
def titles(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write 2,400 titles of predictable words; 240 of them, of about 40 bytes, are held out."""
    choose = random.Random(0)
    words = [f"{choose.choice(string.ascii_lowercase) * 2}{n}" for n in range(60)]
    lines = [" ".join(words[(start * step + step) % 60] for step in range(1, 10)) for start in range(2400)]
    path = tmp_path_factory.mktemp("titles") / "titles.csv"
    path.write_text("title,points\n" + "\n".join(f'"{line}",1' for line in lines))
    return f"data.source.path={path}"


def test_small_pair_shows_the_gap_and_records_windowed_loss(titles: str, places) -> None:
    runs = {}
    for variant in ("before", "after"):
        chosen = ["data.source.column=title", BYTES, "loop.eval_every=20", "schedule.warmup_steps=4"]
        length = ["loop.epochs=null", "loop.max_steps=40", "optimizer.lr=0.003"]
        chosen += length if variant == "after" else ["schedule.warmup_steps=0", *length[:2]]
        runs[variant] = run(compose_config([f"experiment=headlines_small_{variant}", titles, *places, *TINY, *chosen]))
    before, after = (read_series(runs[variant].folder, "val/loss") for variant in ("before", "after"))
    assert before[0] == after[0]
    assert after[-1] < before[-1] - 0.5
    [*_, last] = [line for line in read_record(runs["after"].folder) if "val/loss" in line.get("metrics", {})]
    metrics, units = last["metrics"], last["units"]
    assert metrics["val/coverage"] == 1.0
    assert 0 < metrics["val/windowed_coverage"] < 1.0
    assert (
        metrics["val/windowed_loss"] < metrics["val/nats_per_character"]
    )  # sums fewer nats and divides by more characters
    assert units["val/windowed_loss"] == "nats in full windows/character of all"
    sgd, adamw = runs["before"].effective, runs["after"].effective
    assert (sgd.optimizer, sgd.param_groups["matrices"]["momentum"], sgd.grad_clip) == ("SGD", 0.0, 1.0)
    assert sgd.param_groups["vectors"]["weight_decay"] == 0.0
    assert adamw.param_groups["vectors"]["weight_decay"] == 0.1
