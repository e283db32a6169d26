"""The task, the model, the data and the tokenizer go together, or one sentence says what does."""

import itertools
import re
from pathlib import Path

import pytest
from torch import nn

from harness.commands.run import main
from harness.config.compatibility import check_task_parts
from harness.config.compose import compose_config, to_plain_dict
from harness.config.validation import validate_config
from harness.core.distributed import join_process_group, select_device
from harness.core.errors import ConfigError
from harness.run.build import build_task

TINY = {
    "gpt_tiny": ["model.layers=1", "model.width=16", "model.heads=2"],
    "ltg_bert_xs": ["model.layers=1", "model.width=16", "model.heads=2", "model.hidden=16"],
    "fno": ["model.modes=4", "model.width=4", "model.layers=1"],
    "pydoc_qa": ["data.val_fraction=0.01"],
    "pydoc_text": ["data.val_fraction=0.05"],
    "darcy": ["data.train=8", "data.held_out=4"],
    "bpe": ["tokenizer.vocab_size=512", "tokenizer.corpus={_target_:harness.data.sources.PydocQA}"],
    "pydoc": ["tokenizer.vocab_size=512"],
    "wordpiece": ["tokenizer.vocab_size=512"],
}
TASKS = ("causal_lm", "masked_lm", "headlines", "operator")
MODELS = ("gpt_tiny", "ltg_bert_xs", "fno")
DATA = ("pydoc_qa", "pydoc_text", "darcy")
TOKENIZERS = ("pydoc", "wordpiece")
OPTIONS = {
    **{f"task={option}": [f"task={option}"] for option in TASKS},
    **{f"{group}={option}": [f"{group}={option}", *TINY[option]]
       for group, options in (("model", MODELS), ("data", DATA), ("tokenizer", TOKENIZERS)) for option in options},
}  # fmt: skip
PAIRS = [pair for pair in itertools.combinations(OPTIONS, 2) if pair[0].split("=")[0] != pair[1].split("=")[0]]


@pytest.mark.slow  # a minute: builds 60 tasks
@pytest.mark.parametrize("choices", [(choice,) for choice in OPTIONS] + PAIRS, ids=" ".join)
def test_options_build_or_one_sentence_says_why_not(choices: tuple[str, ...]) -> None:
    overrides = [override for choice in choices for override in OPTIONS[choice]]
    message = find_problem(["start=scratch", "lora=none", "device=cpu", *overrides])
    assert not message or re.fullmatch(r"[\w.]+(=\S+)?: [^\n]+(use|choose|set|add) [^\n]+", message)


def find_problem(overrides: list[str]) -> str:
    """Build the task; return why it cannot be built, or an empty string."""
    cfg = compose_config(overrides)
    try:
        build_task(cfg, validate_config(cfg), join_process_group(select_device("cpu")))
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("overrides", "problem", "remedy"),
    [
        (["data=darcy"], "task=causal_lm: does not go with data=darcy", "task=operator model=fno; experiment=operator"),
        (["task=operator"], "task=operator: does not go with model=gpt_tiny", "; use model=fno data=darcy|pde_files"),
        (["model=fno", "data=pydoc_qa"], "task=operator: does not go with data=pydoc_qa", "; use data=darcy|pde_files"),
        (["experiment=headlines", "model=fno"], "task=headlines: does not go with model=fno", "; use model=gpt_"),
        (["model=gpt_small", "task=operator"], "task=operator: does not go with model=gpt_small", "model=fno"),
    ],
)
def test_message_names_options_that_go_together(
    overrides: list[str], problem: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(overrides)
    message = capsys.readouterr().err
    assert message.startswith(problem)
    assert remedy in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("target", "reason"),
    [("tests.config.test_compatibility.NoModel", "which is not a torch Module"),
     ("tests.config.test_compatibility.OtherModel", "which takes no vocab_size")],
)  # fmt: skip
def test_message_says_why_an_own_component_does_not_fit(target: str, reason: str, monkeypatch) -> None:
    monkeypatch.setenv("HARNESS_TRUST", target)
    plain = {**to_plain_dict(compose_config([])), "model": {"_target_": target, "_partial_": True}}
    with pytest.raises(ConfigError, match=f"task=causal_lm: does not go with model={target}, {reason}; use model=gpt_"):
        check_task_parts(plain)


class NoModel:
    def __init__(self, vocab_size: int) -> None:
        pass


class OtherModel(nn.Module):
    def __init__(self, tokens: int) -> None:
        pass


def test_neural_operator_brings_what_it_needs() -> None:
    cfg = compose_config(["model=fno"])
    validate_config(cfg)
    assert cfg.task._target_.endswith("build_operator_task")
    assert cfg.data._target_.endswith("build_darcy_data")
    assert "tokenizer" not in cfg


def test_own_components_without_annotations_are_not_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_parts.py").write_text("def model(**options): ...\ndef task(*, model, data, tokenizer=None): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("HARNESS_TRUST", "own_parts.model,own_parts.task")
    cfg = compose_config(["lora=none", "start=scratch"])
    cfg.model = {"_target_": "own_parts.model", "_partial_": True}
    validate_config(cfg)
    cfg.task = {"_target_": "own_parts.task", "_partial_": True}
    validate_config(cfg)
