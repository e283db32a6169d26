"""Checkpoints are atomic and hold data only."""

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from harness.core.shortage import describe_shortage
from harness.training.checkpoint import (
    STATE_FILE,
    WEIGHTS_FILE,
    load_checkpoint,
    load_weights,
    read_state_dict,
    save_checkpoint,
    save_weights,
)
from harness.training.loop import Trainer
from tests.observers.test_metrics_writer import limit_file_size
from tests.toy_task import CPU, ToyTask, toy_plan, toy_state


def test_loaded_checkpoint_resumes_bit_identically(tmp_path: Path) -> None:
    tasks = [ToyTask(dropout=0.2), ToyTask(dropout=0.2)]
    straight, resumed = map(toy_state, tasks)
    Trainer(tasks[0], straight, toy_plan(5), CPU).train()
    save_checkpoint(straight, tmp_path / "last")
    Trainer(tasks[0], straight, toy_plan(9), CPU).train()
    load_checkpoint(resumed, tmp_path / "last")
    Trainer(tasks[1], resumed, toy_plan(9), CPU).train()
    pairs = zip(straight.model.parameters(), resumed.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    for counter in straight.COUNTERS:
        assert getattr(resumed, counter) == getattr(straight, counter)


def test_failed_write_keeps_old_checkpoint(tmp_path: Path) -> None:
    task = ToyTask()
    state = toy_state(task)
    save_checkpoint(state, tmp_path / "best")
    state.model.register_buffer("unsaveable", torch.zeros(3).to_sparse())
    with pytest.raises((ValueError, RuntimeError, NotImplementedError)):
        save_checkpoint(state, tmp_path / "best")
    load_checkpoint(toy_state(ToyTask()), tmp_path / "best")


def test_finds_checkpoint_after_crash_between_renames(tmp_path: Path) -> None:
    task = ToyTask()
    state = toy_state(task)
    Trainer(task, state, toy_plan(3), CPU).train()
    save_checkpoint(state, tmp_path / "best")
    (tmp_path / "best").rename(tmp_path / "best.old")  # as if the process died before the second rename
    found = toy_state(ToyTask())
    load_checkpoint(found, tmp_path / "best")
    assert found.step == 3
    save_checkpoint(state, tmp_path / "best")
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_failed_write_of_the_optimizer_says_why(tmp_path: Path) -> None:
    """The weights fit and the moments do not; once the draft is removed, the disk has space again."""
    task = ToyTask()
    task.model = nn.Sequential(nn.Linear(3, 64), nn.Linear(64, 1))
    state = toy_state(task)
    Trainer(task, state, toy_plan(2), CPU).train()
    save_checkpoint(state, tmp_path / "step-2")
    weights, moments = ((tmp_path / "step-2" / name).stat().st_size for name in (WEIGHTS_FILE, STATE_FILE))
    assert weights < moments
    with limit_file_size(weights), pytest.raises(Exception) as raised:  # noqa: PT011  # torch's own type
        save_checkpoint(state, tmp_path / "step-3")
    assert "file size limit reached" in describe_shortage(raised.value, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-2"]


def make_tied_model() -> nn.ModuleDict:
    model = nn.ModuleDict({"embedding": nn.Embedding(50, 8), "head": nn.Linear(8, 50, bias=False)})
    model["head"].weight = model["embedding"].weight
    return model


def test_untied_weights_are_refused_by_tied_model(tmp_path: Path) -> None:
    state = toy_state(ToyTask())
    state.model = make_tied_model()
    save_checkpoint(state, tmp_path / "tied")
    load_checkpoint(state, tmp_path / "tied")
    untied = make_tied_model()
    untied["head"].weight = nn.Parameter(torch.ones(50, 8))
    before = state.model["embedding"].weight.clone()
    with pytest.raises(ValueError, match=r"embedding\.weight and head\.weight differ"):
        state.load_state_dict({**state.state_dict(), "model": untied.state_dict()})
    assert torch.equal(state.model["embedding"].weight, before)


def test_truncated_safetensors_file_is_refused(tmp_path: Path) -> None:
    save_weights({"w": torch.ones(100)}, tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"cut\.safetensors is not a complete safetensors file"):
        read_state_dict(tmp_path / "cut.safetensors")


def test_tied_weights_are_written_once(tmp_path: Path) -> None:
    model = make_tied_model()
    save_weights(model.state_dict(), tmp_path / "tied.safetensors")
    assert (tmp_path / "tied.safetensors").stat().st_size < 2 * 50 * 8 * 4
    weights = load_weights(tmp_path / "tied.safetensors")
    assert set(weights) == {"embedding.weight", "head.weight"}
    assert torch.equal(weights["head.weight"], model["head"].weight)


def test_read_state_dict_unwraps_nested_dict(tmp_path: Path) -> None:
    torch.save({"model_state_dict": {"w": torch.ones(2)}, "step": 3}, tmp_path / "foreign.pt")
    assert torch.equal(read_state_dict(tmp_path / "foreign.pt")["w"], torch.ones(2))


class Payload:
    def __reduce__(self) -> tuple:
        return print, ("code ran",)


def test_file_with_code_is_refused_without_running_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "code.pt").write_bytes(pickle.dumps(Payload()))
    torch.save({"w": Payload()}, tmp_path / "wrapped.pt")
    for name in ("code.pt", "wrapped.pt"):
        with pytest.raises(ValueError, match="cannot be loaded as data"):
            read_state_dict(tmp_path / name)
    assert "code ran" not in capsys.readouterr().out
