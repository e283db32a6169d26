"""Each example in docs/preflight.md runs as it stands there."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.integrations.trainers import make_trainer
from tests.preflight.plain_loop import PlainLoop

PAGE = Path(__file__).parents[2] / "docs" / "preflight.md"


def read_examples() -> dict[str, str]:
    """Return the Python blocks by the heading that they stand below, joined."""
    examples: dict[str, str] = {}
    for section in re.split(r"^##+ ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        blocks = re.findall(r"^```python\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)
        if blocks:
            examples[section.partition("\n")[0]] = "\n".join(blocks)
    return examples


def make_names(heading: str, folder: Path) -> dict[str, Any]:
    """Return what the reader's script has defined before the example."""
    if heading == "A Trainer of transformers":
        return {"trainer": make_trainer(folder, max_steps=20, warmup_steps=2)}
    if heading == "A LightningModule":
        from tests.integrations.test_lightning import Classifier, Data, Trainer

        silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
        return {"module": Classifier(), "datamodule": Data(), "trainer": Trainer(max_epochs=1, **silent)}
    if heading == "A Trainer of neuraloperator":
        from tests.integrations.test_neuralop import make_training

        trainer, arguments = make_training()
        trainer.n_epochs = 1
        return {"trainer": trainer, **arguments}
    loop = PlainLoop()
    names = ("model", "optimizer", "scheduler", "get_batch", "estimate_loss")
    return {name: getattr(loop, name) for name in names}


@pytest.mark.parametrize("heading", read_examples())
def test_example_runs_as_documented(heading: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    code = read_examples()[heading]
    exec(compile(code, str(PAGE), "exec"), make_names(heading, tmp_path))
    assert "pass  batches" in capsys.readouterr().out


def test_there_is_an_example_for_each_framework() -> None:
    frameworks = {"A Trainer of transformers", "A LightningModule", "A Trainer of neuraloperator", "A loop of your own"}
    assert read_examples().keys() == frameworks


def test_the_example_of_a_plain_loop_takes_at_most_10_lines() -> None:
    lines = [
        line for line in read_examples()["A loop of your own"].split("# preflight\n")[1].splitlines() if line.strip()
    ]
    assert len(lines) <= 10
