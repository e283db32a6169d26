"""Checkpoints are whole or not there, and hold data only."""

import pickle

import pytest
import torch
from torch import nn

from harness.training.checkpoint import load_checkpoint, load_weights, read_state_dict, save_checkpoint, save_weights
from harness.training.loop import Trainer
from tests.toy_task import CPU, ToyTask, toy_plan, toy_state


def test_a_loaded_checkpoint_goes_on_where_the_saved_run_stood(tmp_path) -> None:
    task = ToyTask()
    state = toy_state(task)
    Trainer(task, state, toy_plan(5), CPU).train()
    save_checkpoint(state, tmp_path / "last")
    other_task = ToyTask()
    other = toy_state(other_task)
    load_checkpoint(other, tmp_path / "last")
    Trainer(task, state, toy_plan(9), CPU).train()
    Trainer(other_task, other, toy_plan(9), CPU).train()
    pairs = zip(task.model.parameters(), other_task.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_numbers_come_from_the_configuration_and_the_moments_from_the_checkpoint(tmp_path) -> None:
    task = ToyTask()
    state = toy_state(task, lr=0.05)
    Trainer(task, state, toy_plan(5), CPU).train()
    save_checkpoint(state, tmp_path / "last")
    fresh = toy_state(ToyTask(), lr=0.01)
    load_checkpoint(fresh, tmp_path / "last")
    assert set(fresh.optimizer.current_lrs().values()) == {0.01}
    moments = [s["exp_avg"].abs().sum().item() for s in fresh.optimizer.parts[0].state.values()]
    assert len(moments) == 4
    assert min(moments) > 0


def test_a_write_that_is_cut_off_leaves_the_old_checkpoint(tmp_path, monkeypatch) -> None:
    task = ToyTask()
    state = toy_state(task)
    save_checkpoint(state, tmp_path / "best")
    state.model.register_buffer("unsaveable", torch.zeros(3).to_sparse())
    with pytest.raises((ValueError, RuntimeError, NotImplementedError)):
        save_checkpoint(state, tmp_path / "best")
    load_checkpoint(toy_state(ToyTask()), tmp_path / "best")


def test_a_writer_cut_off_between_its_renames_leaves_the_old_checkpoint_to_be_found(tmp_path) -> None:
    task = ToyTask()
    state = toy_state(task)
    Trainer(task, state, toy_plan(3), CPU).train()
    save_checkpoint(state, tmp_path / "best")
    (tmp_path / "best").rename(tmp_path / "best.old")  # the first of the two
    found = toy_state(ToyTask())
    load_checkpoint(found, tmp_path / "best")
    assert found.step == 3
    save_checkpoint(state, tmp_path / "best")
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def tied_model() -> nn.ModuleDict:
    model = nn.ModuleDict({"embedding": nn.Embedding(50, 8), "head": nn.Linear(8, 50, bias=False)})
    model["head"].weight = model["embedding"].weight
    return model


def test_a_head_of_its_own_does_not_overwrite_the_embedding_it_is_tied_to(tmp_path) -> None:
    state = toy_state(ToyTask())
    state.model = tied_model()
    save_checkpoint(state, tmp_path / "tied")
    load_checkpoint(state, tmp_path / "tied")
    untied = tied_model()
    untied["head"].weight = nn.Parameter(torch.ones(50, 8))
    before = state.model["embedding"].weight.clone()
    with pytest.raises(ValueError, match=r"embedding\.weight and head\.weight differ"):
        state.load_state_dict({**state.state_dict(), "model": untied.state_dict()})
    assert torch.equal(state.model["embedding"].weight, before)


def test_a_safetensors_file_that_is_cut_off_is_refused_by_name(tmp_path) -> None:
    save_weights({"w": torch.ones(100)}, tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"cut\.safetensors is not a complete safetensors file"):
        read_state_dict(tmp_path / "cut.safetensors")


def test_tied_weights_are_written_once_and_come_back_under_both_names(tmp_path) -> None:
    model = tied_model()
    save_weights(model.state_dict(), tmp_path / "tied.safetensors")
    assert (tmp_path / "tied.safetensors").stat().st_size < 2 * 50 * 8 * 4
    weights = load_weights(tmp_path / "tied.safetensors")
    assert set(weights) == {"embedding.weight", "head.weight"}
    assert torch.equal(weights["head.weight"], model["head"].weight)


def test_a_foreign_state_dict_is_found_inside_its_wrapper(tmp_path) -> None:
    torch.save({"model_state_dict": {"w": torch.ones(2)}, "step": 3}, tmp_path / "foreign.pt")
    assert torch.equal(read_state_dict(tmp_path / "foreign.pt")["w"], torch.ones(2))


class Payload:
    def __reduce__(self):
        return print, ("code ran",)


def test_a_file_that_holds_code_is_refused_and_does_not_run(tmp_path, capsys) -> None:
    (tmp_path / "code.pt").write_bytes(pickle.dumps(Payload()))
    torch.save({"w": Payload()}, tmp_path / "wrapped.pt")
    for name in ("code.pt", "wrapped.pt"):
        with pytest.raises(ValueError, match="cannot be loaded as data"):
            read_state_dict(tmp_path / name)
    assert "code ran" not in capsys.readouterr().out
