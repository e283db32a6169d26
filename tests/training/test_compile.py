"""torch.compile: same losses and names, and one compilation per shape."""

from collections.abc import Iterator

import pytest
import torch
from torch._dynamo.utils import counters

from harness.config.compose import compose_config
from harness.core.errors import ConfigError
from harness.run.dry_run import dry_run
from harness.run.runner import run
from harness.training.checkpoint import load_weights
from tests.run.test_run import SMOKE, read_series
from tests.token_streams import make_generated_lm


@pytest.fixture
def compile_stats() -> Iterator[dict]:
    """Counters of torch.compile, such as the number of graphs so far."""
    torch.compiler.reset()
    counters.clear()
    yield counters["stats"]
    torch.compiler.reset()


def test_model_is_not_recompiled_for_each_batch(compile_stats) -> None:
    task, plain = make_generated_lm(), make_generated_lm()
    task.model.compile(backend="eager")  # traces and guards without compiling C++ for minutes
    seen = []
    for position in range(0, 160, 16):  # batches differ in the number of scored tokens
        batch = task.get_batch(position, 16)
        assert task.compute_loss(batch).sum.item() == pytest.approx(plain.compute_loss(batch).sum.item(), rel=1e-5)
        seen.append(compile_stats["unique_graphs"])
    assert 0 < seen[0] < 3
    assert seen[-1] == seen[-4] <= 4  # body and head, each for the first shape and then for any


@pytest.mark.slow
def test_compiled_run_equals_plain_run(places, compile_stats) -> None:
    fixed = ["data=pydoc_text", "observers=metrics_only", "model.dropout=0.0", "loop.max_steps=8"]
    cfg = compose_config([*SMOKE, *places, *fixed, "compile=true"])
    compiled, plain = run(cfg), run(compose_config([*SMOKE, *places, *fixed]))
    assert compile_stats["unique_graphs"] > 0
    assert read_series(compiled.folder, "train/loss") == pytest.approx(
        read_series(plain.folder, "train/loss"), abs=1e-4
    )
    assert read_series(compiled.folder, "val/loss") == pytest.approx(read_series(plain.folder, "val/loss"), abs=1e-4)
    weights = [load_weights(r.folder / "checkpoints" / "best" / "model.safetensors") for r in (compiled, plain)]
    assert weights[0].keys() == weights[1].keys()
    again = run(compose_config([*SMOKE, *places, *fixed, "start=warm", f"start.source={compiled.folder}"]))
    assert read_series(again.folder, "val/loss")[0] == pytest.approx(compiled.best_val_loss, abs=1e-4)


@pytest.mark.parametrize(
    ("value", "compiler", "message"),
    [
        ("fast", "g++", "compile: 'fast' must be true or false"),
        ("true", "no-such-compiler", r"the C\+\+ compiler no-such-compiler is not installed"),
    ],
)
def test_invalid_compile_setting_is_refused_before_anything_is_written(
    value, compiler, message, places, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(ConfigError, match=message):
        dry_run(compose_config([*SMOKE, *places, f"compile={value}"]))
    assert not (tmp_path / "outputs").exists()
