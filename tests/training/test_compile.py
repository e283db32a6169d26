"""torch.compile as an option: the same numbers and names, and no compilation after the first of each shape."""

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
def compiled_graphs() -> Iterator[dict]:
    """How many there are by now."""
    torch.compiler.reset()
    counters.clear()
    yield counters["stats"]
    torch.compiler.reset()


def test_a_model_is_compiled_for_its_shapes_and_not_for_each_batch(compiled_graphs) -> None:
    task, plain = make_generated_lm(), make_generated_lm()
    task.model.compile(backend="eager")  # traced and guarded as ever, without minutes of C++
    seen = []
    for position in range(0, 160, 16):  # ragged: each batch has another number of scored tokens
        batch = task.get_batch(position, 16)
        assert task.compute_loss(batch).sum.item() == pytest.approx(plain.compute_loss(batch).sum.item(), rel=1e-5)
        seen.append(compiled_graphs["unique_graphs"])
    assert 0 < seen[0] < 3
    assert seen[-1] == seen[-4] <= 4  # the body and the head, each for the first shape and then for any


@pytest.mark.slow
def test_a_compiled_run_has_the_losses_and_names_of_another_which_can_start_from_it(places, compiled_graphs) -> None:
    fixed = ["data=pydoc_text", "observers=metrics_only", "model.dropout=0.0", "loop.max_steps=8"]
    cfg = compose_config([*SMOKE, *places, *fixed, "compile=true"])
    compiled, plain = run(cfg), run(compose_config([*SMOKE, *places, *fixed]))
    assert compiled_graphs["unique_graphs"] > 0
    assert read_series(compiled.folder, "train/loss") == pytest.approx(
        read_series(plain.folder, "train/loss"), abs=1e-4
    )
    assert read_series(compiled.folder, "val/loss") == pytest.approx(read_series(plain.folder, "val/loss"), abs=1e-4)
    weights = [load_weights(r.folder / "checkpoints" / "best" / "model.safetensors") for r in (compiled, plain)]
    assert weights[0].keys() == weights[1].keys()
    again = run(compose_config([*SMOKE, *places, *fixed, "start=warm", f"start.source={compiled.folder}"]))
    assert read_series(again.folder, "val/loss")[0] == pytest.approx(compiled.best_val_loss, abs=1e-4)


@pytest.mark.parametrize(
    ("value", "compiler", "said"),
    [
        ("fast", "g++", "compile: 'fast' is neither true nor false"),
        ("true", "no-such-compiler", r"compile: true needs the C\+\+ compiler no-such-compiler, which is not here"),
    ],
)
def test_what_cannot_be_compiled_is_refused_before_anything_is_written(
    value, compiler, said, places, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(ConfigError, match=said):
        dry_run(compose_config([*SMOKE, *places, f"compile={value}"]))
    assert not (tmp_path / "outputs").exists()
