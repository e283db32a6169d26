"""Labels of numbers in lines of a log: splits that are named in pairs or short, and names before the position."""

from pathlib import Path

import pytest

from harness.importers import read_history

TRAIN, VAL = [2.25, 1.75, 1.5, 1.125], [2.375, 2.0, 1.875, 2.125]


def read_curves(tmp_path: Path, line: str, above: str = "", name: str = "run.log") -> dict[str, list[float]]:
    numbered = enumerate(zip(TRAIN, VAL, strict=True), 1)
    path = tmp_path / name
    path.write_text(above + "".join(line.format(n=n, t=t, v=v) + "\n" for n, (t, v) in numbered))
    history = read_history(path)
    return {metric: history[metric].values.tolist() for metric in history.metric_names()}


@pytest.mark.parametrize(
    "line",
    [
        "Epoch {n} - train/val loss: {t}/{v}",
        "Epoch {n} - train/valid loss: {t} / {v}",
        "epoch {n}: Loss (train/val): {t} / {v}",
        "epoch {n} loss [train|val] = {t} | {v}",
        "[{n}/9] train_loss/val_loss: {t}/{v}",
        "Epoch {n} | Training/Validation Loss: {t}/{v}",
        "epoch {n} val/train loss: {v}/{t}",
        "epoch {n} train, val loss: {t}, {v}",
        "epoch {n} train & dev loss = {t} {v}",
        "epoch {n} tr/va loss {t}/{v}",
        "Epoch {n}: t_loss {t} v_loss {v}",
        "Epoch {n}: loss_t={t}, loss_v={v}",
        "Epoch {n}: v_loss {v}, t_loss {t}",
        "epoch {n} Tr.loss: {t} | Va.loss: {v} | best: 1.0",
        "{n}/9 | tr_loss {t} | va_loss {v}",
        "ep 00{n} ▸ tr {t} ▸ va {v} ▸ 12.3s",
        "epoch {n} tr {t} va {v}",
        "step {n} • train loss {t} • val loss {v}",
    ],
)
def test_splits_are_told_apart(tmp_path: Path, line: str) -> None:
    assert read_curves(tmp_path, line) == {"train/loss": TRAIN, "val/loss": VAL}


@pytest.mark.parametrize(
    "header", ["epoch,t_loss,v_loss", "epoch,loss_t,loss_v", "epoch,tr,va", "epoch,tr_loss,va_loss"]
)
def test_splits_of_tables_are_told_apart(tmp_path: Path, header: str) -> None:
    assert read_curves(tmp_path, "{n},{t},{v}", f"{header}\n", "log.csv") == {"train/loss": TRAIN, "val/loss": VAL}


@pytest.mark.parametrize(
    "line",
    [
        "Epoch {n}: p_loss {t} v_loss {v}",  # of a policy and of values
        "Epoch {n}: accuracy train/val: {t}/{v}",
        "Epoch {n} train/val loss: {t}",
        "step {n} tr {t}",
        "Epoch {n}: error {n}",
        "Epoch {n}: error {t}, err {v}",
    ],
)
def test_ambiguous_losses_are_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(ValueError, match=r"run\.log: no step and loss"):
        read_curves(tmp_path, line)


@pytest.mark.parametrize(
    "line",
    [
        "Cost after iteration {n}: {t}",
        "Cost after epoch {n} = {t}",
        "Loss at epoch {n}: {t}",
        "Training loss at step {n} is {t}",
        "Loss (step {n}): {t}",
        "Loss after {n} steps: {t}",
        "Average loss for epoch {n}/9: {t}",
        "Score at iteration {n} is {t}",
        "2031-01-02 10:00:00 INFO ScoreIterationListener - Score at iteration {n} is {t}",
        ">epoch={n}, lrate=0.5, error={t}",
        "iteration {n} err {t}",
        "t={n}.5s it={n} L={t}",
        "[Epoch 1 {n}28/2560][Iteration {n}][Wall Clock 1.2s] Trained 128.0 records in 0.1 seconds. "
        "Throughput is 1000.0 records/second. Loss is {t}.",
        "step {n} 900.5 samples/sec loss {t}",
    ],
)
def test_names_are_found_around_the_position(tmp_path: Path, line: str) -> None:
    assert read_curves(tmp_path, line)["train/loss"] == TRAIN
