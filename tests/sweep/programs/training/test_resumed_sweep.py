"""A sweep that resumes a run starts from the run's own settings, and searches what its checkpoint allows."""

from harness.run.resumed_settings import take_over_settings
from harness.sweep.programs.training.command_line import list_trial_overrides
from harness.sweep.programs.training.config_space import rebuild_config_space
from harness.sweep.programs.training.sweep import _leave_out_unusable_options
from tests.conftest import run_main
from tests.sweep.tiny_sweeps import compose_sweep_config, read_tiny_request

TINY = ["experiment=smoke", "device=cpu", "model.layers=1", "model.width=16", "loop.max_steps=3", "loop.evals=1",
        "observers=metrics_only", "data.val_fraction=0.01", "batch.batch_size=8"]  # fmt: skip
SWEEP = """# @package _global_
hydra:
  sweeper:
    params:
      optimizer: adamw,sgd
      optimizer.lr: tag(log, interval(1e-4, 1e-1))
      schedule.warmup_steps: int(interval(0, 2))
      model.width: 8,16
"""


def test_values_of_the_run_are_the_baseline_and_its_shapes_stay(places, tmp_path, monkeypatch) -> None:
    own = ["name=mine", "optimizer.lr=2e-3", "optimizer.weight_decay=0.3", "schedule.warmup_ratio=0.34"]
    assert run_main(monkeypatch, *TINY, *places, *own) == 0
    (tmp_path / "conf" / "sweeps").mkdir(parents=True)
    (tmp_path / "conf" / "sweeps" / "mine.yaml").write_text(SWEEP)
    given = [f"hydra.searchpath=[file://{tmp_path}/conf]", "sweeps=mine", "start=resume", "start.run=mine", *places,
             "loop.max_steps=6"]  # fmt: skip
    taken = take_over_settings(given, is_sweep=True)
    arguments = [override for override in taken if not override.startswith("hydra")]
    request = _leave_out_unusable_options(read_tiny_request(*taken), compose_sweep_config(taken), arguments)
    assert (request.cfg.optimizer.lr, request.cfg.optimizer.weight_decay, request.cfg.model.width) == (2e-3, 0.3, 16)
    assert request.cfg.schedule.warmup_ratio == 0.34
    assert set(request.space.ranges) == {"optimizer.lr", "schedule.warmup_steps"}
    notes = "\n".join(request.notices)
    assert "optimizer is not searched: the resumed run keeps optimizer=adamw" in notes
    assert "model.width is not searched, it stays 16: start.run: " in notes
    space = rebuild_config_space(request.spec, request.program)  # as workers do
    trial = space.compose_config({"optimizer.lr": 0.05, "schedule.warmup_steps": 1})
    assert (trial.optimizer.lr, trial.optimizer.weight_decay) == (0.05, 0.3)
    assert (trial.schedule.warmup_steps, trial.schedule.warmup_ratio) == (1, None)
    shown = list_trial_overrides(space.current, {"optimizer.lr": 0.05, "schedule.warmup_steps": 1})
    assert [one for one in shown if one.startswith(("optimizer.lr", "schedule.warmup"))] == [
        "optimizer.lr=0.05",
        "schedule.warmup_steps=1",
    ]
    assert sum(one.startswith("model.width") for one in shown) == 1
    assert "optimizer.lr=2e-3" in list_trial_overrides(space.current, {})
