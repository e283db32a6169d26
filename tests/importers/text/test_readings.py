"""Readings of text logs, and what is none: kinds of logs with source code, settings and chatter around them."""

import math
from pathlib import Path

import pytest

from harness.diagnosis.history import History
from harness.importers import read_histories, read_history

Points = list[tuple[float, float]]


def read_log(tmp_path: Path, text: str) -> History:
    path = tmp_path / "train.log"
    path.write_text(text)
    return read_history(path)


def points(history: History, name: str) -> Points:
    return list(zip(history[name].steps.tolist(), history[name].values.tolist(), strict=True))


def repeat(line: str, numbers: Points) -> str:
    return "\n".join(line.format(at=int(at), value=value) for at, value in numbers) + "\n"


LOSSES: Points = [(20, 3.75), (40, 3.5), (60, 3.25), (80, 3.125)]
LOG = repeat("step {at}/90 - loss: {value}", LOSSES)
CODE = '''"""Best run: step 1500: val loss 3.28."""
import torch
# at step 100 the loss was 9.5, at step 200 it was 8.5
class Trainer:
    def __init__(self, lr=0.5, epochs=3):
        self.step = 0
        self.loss = 0.0
    if step % 10 == 0:
        print(f"step {step} loss {loss:.3f} lr 0.1")
lr = 0.02  # tuned
val_loss = 0
loss = 99.5
'''
SETTINGS = """Namespace(lr=0.3, epochs=9, loss='mse', steps=4000)
learning_rate: 0.25
eval_steps: 50
train_loss_weight: 2.5
+ python train.py --lr 0.5 --loss 2.5 --steps 100
Tokens: 3,141,592
"""
CHATTER = """Epoch 7 of the data was cached
INFO 2031-06-07 10:00:00 loader.py:88] 128 samples, loss weights 0.5
Downloading: 100%|██████████| 31/31 [00:01<00:00, 28.1it/s]
Map:  50%|█████     | 500/1000 [00:01<00:00, 400.00 examples/s]
"""
TRACEBACK = """Traceback (most recent call last):
  File "train.py", line 501, in step
    loss = 0.0
RuntimeError: step 81 failed with loss 1e9
"""


@pytest.mark.parametrize("above", ["", CODE, SETTINGS, CHATTER, CODE + SETTINGS + CHATTER, CODE * 2])
@pytest.mark.parametrize("below", ["", CODE, TRACEBACK, SETTINGS, "best loss: 3.0 at step 60\n", "Tokens: 3,141,592\n"])
def test_source_code_settings_and_chatter_are_no_readings(tmp_path: Path, above: str, below: str) -> None:
    history = read_log(tmp_path, above + LOG + below)
    assert {name: points(history, name) for name in history.metric_names()} == {"train/loss": LOSSES}
    assert history.facts.total_steps == 90
    assert history.facts.peak_lr is None
    assert history.facts.tokens_per_step is None


BLOCKS = {
    "header above": "2031-05-02 10:00:01 host:0 train:50{value:.0f} INFO [step={at}/90]\n    train/ce_loss={value}",
    "bar, then a date": " 2%|# | {at}/90 [00:10<01:00, 3.1s/it][2031-06-07 11:00:01,100] [INFO] skip\nloss: {value}",
    "bar without a length": "{at}it [00:10,  3.1it/s]\n{{'loss': {value}, 'lr': 0.5}}",
    "step below": "loss = {value}\nlr = 0.5\nstep = {at}\n",
    "dictionary on several lines": '{{\n  "loss": {value},\n  "lr": 0.5,\n  "step": {at}\n}}',
    "table of a reinforcement learner": "----\n| train/ |    |\n|  loss      | {value} |\n|  iterations | {at} |\n----",
    "section": "=== step {at} ===\ntrain loss {value}\n",
    "tensor": "step {at}: loss=tensor({value}, device='cuda:0', grad_fn=<NllLossBackward0>)",
    "array": "step {at}: {{'loss': np.float64({value}), 'acc': Array(0.5, dtype=float32)}}",
    "words": "Loss after {at} steps: {value}",
    "pair": "OrderedDict([('step', {at}), ('loss', {value})])",
    "behind": "{at}: {value} train loss, 0.5 accuracy",
    "no name for the step": "{at} | loss {value} | 12.5 ms",
    "bar of another program": "train: 10%|#  | {at}/90 [00:01<00:09, 2.2it/s, loss={value}, lr=0.5]",
    "time per step": "iter {at} loss {value} (eta 1:02:03, 0.41 s/iter, time per iter: 0.41)",
    "prefix of a container": "2031-06-07T10:00:00.123456789Z node-07 trainer[812]: step {at} loss {value}",
    "mean beside the value": "Step {at}\tLoss {value} (9.5)\tTime 0.5 (0.5)",
    "columns after a name": "train step={at} loss={value} aux_loss=9.5 kl loss 0.5 loss_scale=65536",
    "steps with thousands": "[Step 1,0{at}] loss: {value}",
    "magnitudes": "step 1.0{at}k loss {value}nats",
}


@pytest.mark.parametrize("kind", BLOCKS)
def test_kinds_of_lines(tmp_path: Path, kind: str) -> None:
    offset = {"steps with thousands": 1000, "magnitudes": 1000}.get(kind, 0)
    read = points(read_log(tmp_path, repeat(BLOCKS[kind], LOSSES)), "train/loss")
    assert read == [(at + offset, value) for at, value in LOSSES]


EPOCHS = {
    "lines below a header": "Epoch {at}\n  train: loss {value}\n  valid: loss {value}5\n",
    "lines above a footer": "train loss {value}\nval loss {value}5\nepoch {at} done\n",
    "sections": "Epoch {at}/90\nTraining\nloss: {value}\nValidation\nloss: {value}5\n",
    "bars": "Epoch {at}:  99%|# | 8/8 [00:01<00:00, 9.0it/s, loss={value}]\nEvaluating: 100%|#| 2/2 [00:00<00:00]\n"
    "val_loss: {value}5",
    "brackets": "[Epoch {at}] [TRAIN] loss {value}\n[Epoch {at}] [VAL] loss {value}5",
    "one line": "epoch {at} train_loss {value} valid_loss {value}5 best_valid_loss 1.5",
    "dev": "ep {at}: loss {value}; dev: loss {value}5",
    "words in brackets": "Epoch {at}: Loss (train): {value}, Loss (val): {value}5",
    "evaluation with a bar": "Epoch {at} loss {value}\nValidation:  50%|# | 1/2 [00:01<00:01, loss=9.5]\r"
    "Validation: 100%|##| 2/2 [00:02<00:00, loss={value}5]",
}


@pytest.mark.parametrize("kind", EPOCHS)
def test_training_and_validation_are_told_apart(tmp_path: Path, kind: str) -> None:
    losses = [(1, 3.75), (2, 3.5), (3, 3.25), (4, 3.125)]
    history = read_log(tmp_path, repeat(EPOCHS[kind], losses))
    scale = history.facts.steps_per_epoch or 1
    assert [(at / scale, value) for at, value in points(history, "train/loss")] == losses
    validation = [(at / scale, value) for at, value in points(history, "val/loss")]
    assert validation == [(at, float(f"{value}5")) for at, value in losses]


def test_bar_of_the_training_gives_the_step_and_other_bars_do_not(tmp_path: Path) -> None:
    lines = ["Loading weights: 100%|##| 28/28 [00:00<00:00, 9it/s]", "  0%|  | 0/90 [00:00<?, ?it/s]"]
    for number, (at, value) in enumerate(LOSSES, 1):
        lines.append(f" {at}%|# | {at}/90 [00:10<00:10, 2.0it/s]{' ' * 40}\r")
        lines.append(f"{{'loss': {value}, 'grad_norm': 1.5, 'epoch': {number / 2}}}")
        lines += [f" {at}%|# | {at}/90 [00:10<00:10, 2.0it/s]", *(f"{n}%|# | {n}/25 [00:00<00:00]" for n in (1, 25))]
        lines.append(f"{{'eval_loss': {value + 1}, 'eval_runtime': 2.5, 'epoch': {number / 2}}}")
    history = read_log(tmp_path, "\n".join(lines))
    assert points(history, "train/loss") == LOSSES
    assert points(history, "val/loss") == [(at, value + 1) for at, value in LOSSES]
    assert history.facts.steps_per_epoch == 40


def test_decimal_commas(tmp_path: Path) -> None:
    log = "".join(f"step 1,{n}00 | loss 3,{9 - n}25 | lr 0,0003 | tok/s 12,5\n" for n in (1, 2, 3))
    history = read_log(tmp_path, log)
    assert points(history, "train/loss") == [(1100, 3.825), (1200, 3.725), (1300, 3.625)]
    assert history.facts.peak_lr == 0.0003


def test_thousands_beside_decimal_points(tmp_path: Path) -> None:
    history = read_log(tmp_path, "".join(f"step {n},000 | loss 1,234.5 | tokens 1,{n}00\n" for n in (1, 2, 3)))
    assert points(history, "train/loss") == [(1000, 1234.5), (2000, 1234.5), (3000, 1234.5)]


@pytest.mark.parametrize("end", ["Loss is nan, stopping training\n", "loss: nan\n", "step 100/90 - loss: nan\n"])
def test_loss_that_is_not_finite_is_read_where_it_is_printed_once(tmp_path: Path, end: str) -> None:
    assert math.inf in read_log(tmp_path, LOG + end)["train/loss"].values


@pytest.mark.parametrize("form", ["[rank{rank}]: step {at} loss {value}", "step {at} loss {value} rank {rank}"])
def test_rows_of_ranks_are_one(tmp_path: Path, form: str) -> None:
    lines = [form.format(rank=rank, at=at, value=value) for at, value in LOSSES for rank in range(3)]
    lines += [form.format(rank=rank, at=100, value="nan" if rank == 2 else 3.0) for rank in range(3)]
    assert points(read_log(tmp_path, "\n".join(lines)), "train/loss") == [*LOSSES, (100, math.inf)]


def test_mean_of_an_epoch_is_no_step(tmp_path: Path) -> None:
    lines = []
    for epoch in (1, 2):
        lines += [f"epoch {epoch} step {step}/60 loss {5 - epoch}.{9 - step // 20}" for step in (20, 40, 60)]
        lines += [f"epoch {epoch} done: loss {7 - epoch}.5, lr 0.5"]
    history = read_log(tmp_path, "\n".join(lines))
    assert points(history, "train/loss") == [(20, 4.8), (40, 4.7), (60, 4.6), (80, 3.8), (100, 3.7), (120, 3.6)]


def test_chunks_of_a_final_evaluation_are_no_steps(tmp_path: Path) -> None:
    chunks = "".join(f"  chunk [{n}/99] bpb={1 + n / 100}\n" for n in range(1, 100))
    assert points(read_log(tmp_path, LOG + chunks), "train/loss") == LOSSES


@pytest.mark.parametrize(
    "log",
    [
        CODE,
        SETTINGS * 3,
        CHATTER,
        "".join(f"[{n}/5][10/90] Loss_D: 0.5 Loss_G: {n}.5\n" for n in range(5)),
        "".join(f"step {n} policy_loss 0.5 value_loss {n}.5\n" for n in range(5)),
        "".join(f"tests/test_loss.py::test_{n} PASSED [ {n}%]\n" for n in range(20)),
    ],
    ids=["code", "settings", "chatter", "rivals", "actor and critic", "tests"],
)
def test_log_without_a_loss_is_refused(tmp_path: Path, log: str) -> None:
    with pytest.raises(ValueError, match=r"train\.log"):
        read_log(tmp_path, log)


def test_two_runs_in_one_log_are_two(tmp_path: Path) -> None:
    other = [(20, 3.75), (40, 3.625), (60, 3.5), (80, 3.375)]
    (tmp_path / "log").write_text(SETTINGS + LOG + SETTINGS + repeat("step {at}/90 - loss: {value}", other))
    first, second = read_histories(tmp_path / "log")
    assert points(first, "train/loss") == LOSSES
    assert points(second, "train/loss") == other


def test_lines_without_a_loss_may_begin_before_the_losses_and_outlast_them(tmp_path: Path) -> None:
    path = tmp_path / "solver.log"
    path.write_text(
        "".join(f"Iteration {n}, lr = 0.001\nIteration {n + 20}, loss = {3 - n / 1e4}\n" for n in range(1600, 1820, 20))
    )
    assert len(read_history(path)["train/lr"]) == 11
    rows = [f"iteration {n}/ 900 | lm loss: {2 - n / 100} | grad norm: 0.7 |\n" for n in range(1, 15)]
    rows += [f"iteration {n}/ 900 | grad norm: nan |\n" for n in range(15, 40)]
    path.write_text("".join(rows))
    norms = read_history(path)["train/grad_norm"]
    assert (norms.steps[-1], math.isfinite(norms.values[-1])) == (39, False)
