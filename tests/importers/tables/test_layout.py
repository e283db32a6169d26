"""Tables with any separator, above, below and between other text."""

from pathlib import Path

import pytest

from harness.diagnosis.history import History
from harness.importers import read_histories, read_history
from harness.importers.tables.layout import find_table

STEPS, TRAIN, VAL = [100, 200, 300, 400], [2.5, 2.25, 2.125, 2.0], [2.75, 2.5, 2.375, 2.3125]
ROWS = list(zip(STEPS, TRAIN, VAL, strict=True))


def read_text(folder: Path, text: str) -> History:
    (folder / "table").write_text(text)
    return read_history(folder / "table")


def check(history: History) -> None:
    assert history["train/loss"].steps.tolist() == STEPS
    assert history["train/loss"].values.tolist() == TRAIN
    assert history["val/loss"].values.tolist() == VAL


def lines(pattern: str) -> str:
    return "\n".join(pattern.format(*row) for row in ROWS) + "\n"


CSV = "step,train_loss,val_loss\n" + lines("{},{},{}")
TABLES = {
    "CSV": CSV,
    "BOM": "\ufeff" + CSV,
    "quotes": '"step","train_loss","val_loss"\n' + lines('"{}","{}","{}"'),
    "spaces around": " step , train_loss ,\tval_loss\n" + lines("  {} , {} , {}  "),
    "tabs": CSV.replace(",", "\t"),
    "semicolons": CSV.replace(",", ";"),
    "decimal commas": CSV.replace(",", ";").replace(".", ","),
    "a last separator": "step,train_loss,val_loss,\n" + lines("{},{},{},"),
    "comments above": "# run of Monday\n# lr: 3e-4, seed: 1\n" + CSV,
    "a title and a blank line above": "Results of the run\n\n" + CSV,
    "a commented header": "# step,train_loss,val_loss\n" + lines("{},{},{}"),
    "numpy": "# step train_loss val_loss\n" + lines("{:.18e} {:.18e} {:.18e}"),
    "units below": "step,train_loss,val_loss\n(1),(nats),(nats)\n" + lines("{},{},{}"),
    "pipes": "| Step | Training Loss | Validation Loss |\n|---:|:---:|---|\n" + lines("| {} | {} | {} |"),
    "pipes inside only": "step | train loss | val loss\n-----+------+-----\n" + lines("{} | {} | {}"),
    "bold cells": "|step|train loss|val loss|\n|---|---|---|\n" + lines("|**{}**|`{}`|**{}**|"),
    "box": "┏━━━━━━┳━━━━━━━━━━━━┳━━━━━━━━━━┓\n┃ Step ┃ Train Loss ┃ Val Loss ┃\n┡━━━━━━╇━━━━━━━━━━━━╇━━━━━━━━━━┩\n"
           + lines("│ {} │ {} │ {} │") + "└──────┴────────────┴──────────┘\n",
    "ASCII box": "+------+------------+----------+\n| step | train_loss | val_loss |\n+===\n"
                 + lines("| {} | {} | {} |\n+------+------------+----------+"),
    "spaces": "  step    train_loss    val_loss\n------  ------------  ----------\n" + lines("{:6}  {:12}  {:10}"),
    "one space": "step train_loss val_loss\n" + lines("{} {} {}"),
    "names of two words": "Step Train Loss Valid Loss\n" + lines("{} {} {}"),
    "names of two words apart": "Step   Training Loss   Validation Loss\n" + lines("{}    {}     {}"),
    "text around": "Starting.\nepochs: 3\n\n" + CSV.replace(",", "  ") + "\nDone. The best loss was 1.9.\n",
    "text between rows": "step  train_loss  val_loss\n" + lines("{}  {}  {}\nSaving model to out/ckpt.pt ...\n"),
    "the header every row": lines("step  train_loss  val_loss\n{}  {}  {}"),
    "other tables around": "| Hyperparameter | Value |\n|---|---|\n| lr | 0.0003 |\n| batch | 8 |\n\n## Results\n\n"
                           "| Step | Training Loss | Validation Loss |\n|---|---|---|\n" + lines("| {} | {} | {} |")
                           + "\n| Package | Version |\n|---|---|\n| torch | 2.9 |\n",
    "columns of other things": "date,step,train_loss,val_loss,acc,note\n" + lines('2031-06-07,{},{},{},0.5,"a, b"'),
    "tensors": "step,train_loss,val_loss\n" + lines('{},"tensor({}, device=\'cuda:0\')",tensor({})'),
    "fences": "It does not fall, why?\n```\n" + CSV + "```\nThanks, in advance.\n",
}  # fmt: skip


@pytest.mark.parametrize("text", TABLES.values(), ids=TABLES)
def test_table_is_read(text: str, tmp_path: Path) -> None:
    check(read_text(tmp_path, text))


@pytest.mark.parametrize("name", ["tabs", "pipes", "spaces", "box", "decimal commas"])
@pytest.mark.parametrize("prefix", ["> ", "[rank0]: ", "2031-06-07T10:00:00.1Z node-1 job[4]: ", "    "])
def test_table_below_a_prefix_is_read(name: str, prefix: str, tmp_path: Path) -> None:
    check(read_text(tmp_path, "".join(f"{prefix}{line}\n" for line in TABLES[name].splitlines())))


@pytest.mark.parametrize("missing", ["No log", "", "-", "N/A", "nan?"])
def test_cells_without_a_number_are_left_out(missing: str, tmp_path: Path) -> None:
    text = "| Step | Training Loss | Validation Loss |\n|---|---|---|\n" + lines("| {} | {} | {} |")
    history = read_text(tmp_path, text.replace("| 2.5 | 2.75", f"| {missing} | 2.75"))
    assert history["train/loss"].steps.tolist() == STEPS[1:]
    assert history["val/loss"].steps.tolist() == STEPS


def test_header_with_more_columns_counts_for_the_rows_below_it(tmp_path: Path) -> None:
    text = "step,train_loss\n100,2.5\n200,2.25\nstep,lr,train_loss,val_loss\n300,0.1,2.125,3\n400,0.1,2,2.5\n"
    history = read_text(tmp_path, text)
    assert history["train/loss"].values.tolist() == TRAIN
    assert history["val/loss"].steps.tolist() == [300, 400]


def test_header_of_an_appended_run(tmp_path: Path) -> None:
    (tmp_path / "log.tsv").write_text(2 * "step\tloss\n1\t3.0\n2\t2.5\n3\t2.0\n4\t1.5\n5\t1.25\n".replace("3.0", "3.1"))
    (tmp_path / "log.tsv").write_text("".join(
        "step\tloss\n" + "".join(f"{at}\t{start - at / 5}\n" for at in range(1, 8)) for start in (3.0, 3.1)
    ))  # fmt: skip
    assert [len(history["train/loss"]) for history in read_histories(tmp_path / "log.tsv")] == [7, 7]


def test_thousands_are_no_decimals(tmp_path: Path) -> None:
    history = read_text(tmp_path, "step\tloss\n1,000\t2.5\n2,000\t2.25\n10,000\t2.0\n")
    assert history["train/loss"].steps.tolist() == [1000, 2000, 10000]


NO_TABLES = {
    "a sentence": "Training loss, validation loss, and step are below.\nIt took 3 days, 4 hours, and 5 minutes.\n",
    "readings": "step: 1, loss: 2.5, lr: 0.1\nstep: 2, loss: 2.4, lr: 0.1\n",
    "readings between pipes": "step 100 | loss 2.5 | lr 0.1\nstep 200 | loss 2.4 | lr 0.1\n",
    "a model": "| Name | Type | Params |\n|---|---|---|\n| loss | CrossEntropyLoss | 0 |\n| net | GPT | 124 M |\n",
    "a bar": "Epoch 1: 40%|####      | 40/100 [00:05<00:07,  8.1it/s, loss=2.31, v_num=3]\n",
    "an epoch": "Epoch 1/3\n100/100 - 3s - loss: 2.5 - val_loss: 2.4\n",
}


@pytest.mark.parametrize("text", NO_TABLES.values(), ids=NO_TABLES)
def test_text_is_no_table(text: str) -> None:
    assert find_table(text.splitlines()) is None


def test_readings_outweigh_a_small_table(tmp_path: Path) -> None:
    log = "\n".join(f"step {at} loss {3 - at / 100}" for at in range(1, 50))
    table = "\n| split | loss | step |\n|---|---|---|\n| test | 2.4 | 49 |\n"
    assert len(read_text(tmp_path, log + table)["train/loss"]) == 49


def test_rows_without_cells_are_left_out(tmp_path: Path) -> None:
    text = "| Step | Training Loss | Validation Loss |\n|---|---|---|\n" + lines('| {} | {} | {} |\n|\n||\n""')
    check(read_text(tmp_path, text))
    check(read_text(tmp_path, CSV.replace("300", '"",,\n\n,,\n300')))
