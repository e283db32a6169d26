"""Logs are recognized as those of transformers or Lightning by their beginning."""

import pytest

from harness.importers import read_history
from harness.importers.programs.recognition import guess_program

TRAINER = "{'loss': 2.31, 'grad_norm': 0.8, 'learning_rate': 4.9e-05, 'epoch': 0.12}\n"
FACTORY = '{"current_steps": 5, "total_steps": 90, "loss": 1.9, "lr": 1e-05, "epoch": 0.1, "percentage": 5.6}\n'
CARD = "| Training Loss | Epoch | Step | Validation Loss |\n|:---:|:---:|:---:|:---:|\n| 2.5 | 1.0 | 40 | 2.2 |\n"
LOGGER = "epoch,step,train_loss,val_loss\n0,49,2.6,\n0,99,2.4,\n0,99,,2.5\n1,149,2.2,\n"
BOTH = "epoch,step,loss_epoch,loss_step\n0,49,2.6,2.1\n0,99,2.4,2.2\n"
BAR = "Epoch 3: 100%|████| 40/40 [00:02<00:00, 17.1it/s, v_num=2, train_loss=0.31]\n"


@pytest.mark.parametrize(
    ("head", "program"),
    [
        (TRAINER, "transformers"),
        ("  3%|3 | 10/300 [00:09<04:30]" + TRAINER, "transformers"),
        ("{'eval_loss': 2.2, 'eval_runtime': 3.1, 'epoch': 1.0}\n", "transformers"),
        (FACTORY, "transformers"),
        (CARD, "transformers"),
        (LOGGER, "lightning"),
        (BOTH, "lightning"),
        (BAR, "lightning"),
        ("step 10 | loss 3.2 | lr 3e-4\n", None),
        ("step,epoch,loss\n10,1,3.2\n20,1,3.1\n", None),
        ("{'step': 10, 'loss': 3.2}\n", None),
        ('{"step": 10, "loss": 3.2}\n', None),
        ("", None),
        ('"', None),
    ],
)
def test_program_is_recognized(head: str, program: str | None) -> None:
    assert guess_program(head) == program


@pytest.mark.parametrize(("text", "program"), [(TRAINER, "transformers"), (LOGGER, "lightning")])
def test_history_says_the_program(text: str, program: str, tmp_path) -> None:
    path = tmp_path / "log"
    path.write_text(text)
    assert read_history(path).facts.program == program
