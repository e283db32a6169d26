"""Each example of another program's loop in preflight.md, diagnosing.md and sweeping.md of docs/ runs as it stands."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.sweep import Pruned
from harness.sweep.reporting import receive_reports
from tests.integrations.trainers import make_trainer
from tests.preflight.plain_loop import PlainLoop

DOCS = Path(__file__).parents[2] / "docs"
FRAMEWORKS = ["A Trainer of transformers", "A LightningModule", "A Trainer of neuraloperator", "A loop of your own"]


def read_examples(page: str) -> dict[str, str]:
    """Return the Python blocks by the heading that they stand below, joined."""
    examples: dict[str, str] = {}
    for section in re.split(r"^##+ ", (DOCS / page).read_text(), flags=re.MULTILINE)[1:]:
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


@pytest.mark.parametrize("heading", read_examples("preflight.md"))
def test_example_of_preflight_runs_as_documented(
    heading: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    code = read_examples("preflight.md")[heading]
    exec(compile(code, "preflight.md", "exec"), make_names(heading, tmp_path))
    assert "pass  batches" in capsys.readouterr().out


def make_training_names(heading: str, folder: Path) -> dict[str, Any]:
    """Return what a script has defined that trains with a callback or reports from its own loop."""
    torch.manual_seed(0)
    names = make_names(heading, folder) | {"train_step": lambda: (torch.rand(()), 1.0), "evaluate": lambda: 0.5}
    if heading == "A LightningModule":
        names["Trainer"] = lambda **more: type(names["trainer"])(accelerator="cpu", default_root_dir=folder, **more)
    return names


@pytest.mark.parametrize("heading", read_examples("diagnosing.md"))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_example_of_live_diagnosis_runs_as_documented(
    heading: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = make_training_names(heading, tmp_path)
    exec(compile(read_examples("diagnosing.md")[heading], "diagnosing.md", "exec"), names)
    out = capsys.readouterr().out
    assert out.count("slope of train/loss: ") == 1
    assert out.count("diagnosis: ") == 1


@pytest.mark.parametrize("heading", read_examples("sweeping.md"))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_example_of_reporting_runs_alone_and_is_pruned_as_documented(heading: str, tmp_path: Path) -> None:
    code = compile(read_examples("sweeping.md")[heading], "sweeping.md", "exec")
    exec(code, make_training_names(heading, tmp_path))

    def prune_at_end(value: float, step: int, total_steps: int | None, checkpoint: str | None) -> None:
        if step == total_steps:
            raise Pruned("as a study says")

    with receive_reports(prune_at_end), pytest.raises(Pruned, match="as a study says"):
        exec(code, make_training_names(heading, tmp_path))


def test_there_is_an_example_for_each_framework() -> None:
    assert set(read_examples("sweeping.md")) == {name for name in FRAMEWORKS if "neuraloperator" not in name}
    assert list(read_examples("preflight.md")) == FRAMEWORKS
    assert list(read_examples("diagnosing.md")) == [name for name in FRAMEWORKS if "neuraloperator" not in name]


def test_examples_are_short() -> None:
    """At most 10 lines for preflight in a plain loop; for live diagnosis, 5 lines that are not the reader's own."""
    examples = [read_examples("preflight.md")["A loop of your own"].split("# preflight\n")[1]]
    examples += read_examples("diagnosing.md").values()
    own = ("for step", "loss, grad_norm =", "trainer.train()", "trainer.fit(")
    counts = [
        sum(bool(line.strip()) and not line.strip().startswith(own) for line in example.splitlines())
        for example in examples
    ]
    assert counts[0] <= 10
    assert max(counts[1:]) <= 5
