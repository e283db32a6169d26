"""`harness.watch`: a training loop of the user's own, diagnosed while it runs."""

import math
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import harness
from harness.integrations.loop_steps import LoopSteps


def losses(steps: int, diverges_after: int | None = None) -> Iterator[float]:
    """Yield losses that fall by 2% to 3% per doubling, and may explode later on."""
    generator = random.Random(0)
    for step in range(steps):
        loss = 2 + 2 * (step + 1) ** -0.1 + generator.gauss(0, 0.01)
        yield loss if diverges_after is None or step < diverges_after else loss * 1.3 ** (step - diverges_after)


def test_a_real_loop_at_a_far_too_high_lr_stops_itself(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model, x = torch.nn.Linear(8, 1), torch.randn(64, 8)
    y = x.sum(1, keepdim=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0)
    with harness.watch(total_steps=500, lr=2.0, stop_on={"divergence"}) as run:
        for step in range(500):
            loss = torch.nn.functional.mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(step, loss=loss, lr=2.0)
            if run.should_stop:
                break
    assert step < 60
    assert run.diagnoses[0].kind == "divergence"
    out = capsys.readouterr().out
    assert out.count(" · divergence: ") == 1
    assert "a learning rate of 0.67, a third of the present one" in out
    assert out.count(" found: divergence (step") == 1


def test_what_is_found_is_returned_once(capsys: pytest.CaptureFixture[str]) -> None:
    with harness.watch(total_steps=200, quiet=True) as run:
        returned = [
            one for step, loss in enumerate(losses(200, diverges_after=100)) for one in run.log(step, loss=loss)
        ]
    assert [one.kind for one in returned] == list(dict.fromkeys(one.kind for one in returned))
    assert "divergence" in [one.kind for one in returned]
    assert not run.should_stop
    assert capsys.readouterr().out == ""


def test_a_healthy_run_ends_with_what_the_curves_show(capsys: pytest.CaptureFixture[str]) -> None:
    with harness.watch(total_steps=120, lr=1e-3) as run:
        for step, loss in enumerate(losses(120)):
            run.log(step, loss=loss, lr=1e-3 * (1 - step / 120), val_loss=loss if step % 20 == 19 else None)
    out = capsys.readouterr().out
    assert not run.diagnoses
    assert out.startswith("diagnosis: ")
    assert "slope of val/loss" in out


def test_epochs_alone_are_enough(capsys: pytest.CaptureFixture[str]) -> None:
    with harness.watch(total_epochs=12) as run:
        for epoch in range(12):
            run.log(epoch=epoch, train_loss=2.5 / (epoch + 1), valid_loss=2 + abs(epoch - 4) / 8)
    assert [one.kind for one in run.diagnoses] == ["overfitting"]
    assert "epoch 4 · overfitting" in capsys.readouterr().out  # as the loop calls it


def test_without_a_length_what_depends_on_it_is_found_once_it_has_lasted() -> None:
    run = harness.watch(quiet=True)
    found = [step for step in range(300) if run.log(step, loss=2.0 + 0.01 * math.sin(37 * step))]
    assert 99 <= found[0] < 200  # counted from 0


def test_without_a_length_an_interrupt_is_no_end() -> None:
    run = harness.watch(quiet=True)
    assert not [step for step in range(90) if run.log(step, loss=2.0 + 0.01 * math.sin(37 * step))]
    run.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert not run.diagnoses


def test_steps_that_a_gradient_scaler_skips_are_no_divergence() -> None:
    """At first its scale is too large; later on, single steps and pairs overflow."""
    with harness.watch(total_steps=300, stop_on="divergence", quiet=True) as run:
        for step, loss in enumerate(losses(300)):
            is_skipped = step < 12 or step in (100, 101, 200)
            run.log(step, loss=math.nan if step in (100, 101) else loss, grad_norm=math.inf if is_skipped else 1.0)
            assert not run.should_stop


def test_a_loss_that_stays_nan_is_divergence_after_five_rows() -> None:
    run = harness.watch(total_steps=300, stop_on="divergence", quiet=True)
    stops = []
    for step, loss in enumerate(losses(60)):
        run.log(step, loss=math.nan if step >= 50 else loss)
        stops.append(run.should_stop)
    assert stops.index(True) == 54


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"accuracy": 0.5}, "'accuracy' is no metric it knows; the names are loss, val_loss, lr, grad_norm"),
        ({"loss": torch.ones(3)}, r"loss: a Tensor of shape \(3,\) is no number; give the mean"),
        ({"loss": "high"}, "loss: a str is no number"),
    ],
)
def test_wrong_values_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        harness.watch(quiet=True).log(1, **values)


def test_a_row_needs_a_place() -> None:
    with pytest.raises(TypeError, match=r"give a step, or an epoch if the loop counts no steps"):
        harness.watch(quiet=True).log(loss=1.0)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="stop_on: 'divergance' is not a diagnosis; choose from divergence, "):
        harness.watch(stop_on={"divergance"})
    with pytest.raises(ValueError, match="total_steps: 0 is not positive"):
        harness.watch(total_steps=0)
    with pytest.raises(AttributeError, match="no attribute 'wacth'"):
        harness.wacth  # noqa: B018


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": "1e-3"}, "watch: lr: '1e-3' is a str, not a number; give a number or leave it out"),
        ({"total_steps": "100"}, "watch: total_steps: '100' is a str, not a number"),
        ({"total_epochs": [3]}, r"watch: total_epochs: \[3\] is a list, not a number"),
        ({"grad_clip": True}, "watch: grad_clip: True is a bool, not a number"),
        ({"stop_on": None}, "stop_on: None is no name of a diagnosis; give names such as"),
        ({"stop_on": 5}, "stop_on: 5 is no name of a diagnosis"),
    ],
)
def test_settings_of_another_type_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        harness.watch(**settings)


def test_a_place_that_is_no_number_is_refused_at_once() -> None:
    run = harness.watch(quiet=True)
    with pytest.raises(TypeError, match=r"run\.log: step: 'a' is a str, not a number"):
        run.log("a", loss=1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"run\.log: epoch: nan is no place in a run"):
        run.log(epoch=math.nan, loss=1.0)
    run.log(epoch=1, loss=1.0)
    with pytest.raises(ValueError, match="the rows before had an epoch and no step; give a step in all of them"):
        run.log(2, loss=1.0)


def test_a_mistake_in_the_first_call_is_all_that_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TypeError), harness.watch(total_steps=100) as run:
        run.log(0, los=1.0)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("is_read", [True, False])
def test_a_run_that_was_stopped_says_so(is_read: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with harness.watch(total_steps=300, stop_on="divergence") as run:
        for step, loss in enumerate(losses(120)):
            run.log(step, loss=math.nan if step >= 50 else loss)
            if is_read and run.should_stop:
                break
    assert ("diagnosis: training stopped at step 54: divergence (stop_on)" in capsys.readouterr().out) == is_read


def test_values_may_be_tensors_that_change_later() -> None:
    total = torch.zeros(())
    run = harness.watch(total_steps=60, quiet=True)
    for step, loss in enumerate(losses(60)):
        total.zero_().add_(loss)
        run.log(step, loss=total, grad_norm=torch.tensor(1.0, requires_grad=True))
    values = run._loop.history["train/loss"].values
    assert values.tolist() == pytest.approx(list(losses(60)))


def test_values_on_a_gpu_are_read_later() -> None:
    """A meta tensor cannot be read, as one on a GPU cannot without waiting."""
    run = harness.watch(total_steps=60, quiet=True)
    for step in range(9):
        run.log(step, loss=torch.ones((), device="meta"))
    assert not len(run._loop.history["train/loss"])
    assert not run.is_disabled


def test_an_error_in_the_diagnosis_never_ends_the_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr("harness.diagnosis.live.diagnose", fail)
    with harness.watch(total_steps=60) as run:
        for step, loss in enumerate(losses(60)):
            run.log(step, loss=loss, val_loss=loss)
    captured = capsys.readouterr()
    assert captured.err == "warning: diagnosis is disabled after ZeroDivisionError: planted; the training continues\n"
    assert captured.out == ""


def test_only_the_first_process_prints(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "1")
    with harness.watch(total_steps=100) as run:
        for step, loss in enumerate(losses(100, diverges_after=50)):
            assert not run.log(step, loss=loss)
    assert capsys.readouterr().out == ""


def test_all_processes_stop_at_the_same_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second process asks the group, which answers for the first."""
    group = SimpleNamespace(
        is_available=lambda: True, is_initialized=lambda: True, get_rank=lambda: 1, get_world_size=lambda: 2
    )
    monkeypatch.setitem(sys.modules, "torch.distributed", group)
    monkeypatch.setattr("harness.core.distributed.is_true_anywhere", lambda flag: True)
    run = harness.watch(total_steps=100, stop_on="divergence")
    assert [run.should_stop for _ in range(11)] == [False] * 9 + [True] * 2


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(0, None), (1, None), (2, None), (0, None), (1, None)], [0, 1, 2, 3, 4]),  # steps start over in each epoch
        ([(1, 0), (2, 0), (1, 1), (2, 1)], [1, 2, 3, 4]),
        ([(100, None), (200, None), (300, None), (200, None)], [100, 200, 300, 200]),  # back to a checkpoint
        ([(None, 0), (None, 1), (None, 2)], [1, 2, 3]),  # after the epoch
        ([(None, 1), (None, 2)], [1, 2]),
        ([(None, 0.0), (None, 0.5), (None, 1.0)], [0, 50, 100]),
    ],
)
def test_steps_are_those_of_the_whole_run(rows: list[tuple[int | None, float | None]], expected: list[int]) -> None:
    steps = LoopSteps()
    assert [steps.number_row(step, epoch, is_training_row=True) for step, epoch in rows] == expected


def test_an_evaluation_that_is_numbered_by_epochs_belongs_to_the_latest_step() -> None:
    steps = LoopSteps(total_epochs=10)
    numbered = []
    for epoch in range(3):
        for step in range(50 * epoch, 50 * epoch + 50):
            steps.number_row(step, epoch, is_training_row=True)
        numbered += [steps.number_row(epoch, None, is_training_row=False), steps.number_row(None, epoch, False)]
    assert numbered == [49, 49, 99, 99, 149, 149]
    facts = {"steps_per_epoch": 50, "steps_unit": "steps", "epoch_offset": 0, "total_steps": 500}
    assert steps.find_facts() == facts


SCRIPT = """
import math
import torch.distributed as dist
import harness

dist.init_process_group("gloo")
with harness.watch(total_steps=400, stop_on={"divergence"}) as run:
    for step in range(400):
        if dist.get_rank() == 0:
            run.log(step, loss=2.0 if step < 100 else math.nan)
        if run.should_stop:
            break
print("rank", dist.get_rank(), "stopped at", step, flush=True)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_all_processes_of_a_plain_loop_stop_at_the_same_step(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1", "PATH": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    stops = sorted(line for line in done.stdout.splitlines() if " stopped at " in line)
    assert stops == ["rank 0 stopped at 109", "rank 1 stopped at 109"], done.stderr
    assert done.stdout.count(" · divergence: ") == 1
