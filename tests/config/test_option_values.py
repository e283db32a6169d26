"""Values of an experiment hold for the options it was written for; other options have their own."""

from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from harness.config.compose import (
    check_compositions,
    compose_config,
    format_search_path,
    list_left_out,
)
from harness.config.option_values import describe_left_out
from harness.core.paths import config_dir

OTHER_OPTIONS = [
    *(("headlines", "optimizer", option) for option in ("sgd", "lion", "muon")),
    ("headlines", "schedule", "wsd"),
    ("headlines", "tokenizer", "wordpiece"),
    ("headlines", "data", "pydoc_qa"),
    ("headlines", "model", "gpt_tiny"),
    ("operator", "optimizer", "sgd"),
    ("operator", "task", "causal_lm"),
    ("ltg_bert", "optimizer", "adamw"),
    ("gpt2_resume", "data", "pydoc_text"),
    ("gpt2_resume", "start", "scratch"),
]


@pytest.mark.parametrize(("experiment", "group", "option"), OTHER_OPTIONS)
def test_other_option_has_its_own_values(experiment: str, group: str, option: str) -> None:
    cfg = compose_config([f"experiment={experiment}", f"{group}={option}"])
    own = compose_config([f"{group}={option}"])
    assert OmegaConf.to_container(cfg[group], resolve=False) == OmegaConf.to_container(own[group], resolve=False)


def test_own_option_and_command_line_keep_their_values() -> None:
    plain = compose_config(["experiment=headlines"])
    assert compose_config(["experiment=headlines", "optimizer=adamw"]) == plain
    other = compose_config(["experiment=headlines", "optimizer=lion", "optimizer.lr=3e-4"])
    assert (other.optimizer.lr, other.optimizer.weight_decay) == (3e-4, 0.1)
    assert other.schedule == plain.schedule
    assert list_left_out(["experiment=headlines", "optimizer=adamw", "optimizer.lr=3e-4"]) == ()


def test_option_that_another_option_brings() -> None:
    """model=hf brings tokenizer=pretrained, which has no vocabulary size to set."""
    cfg = compose_config(["experiment=ltg_bert", "model=hf_masked", "model.name=bert"])
    assert set(cfg.tokenizer) == {"_target_", "name"}


def test_note_names_what_was_left_out() -> None:
    parts = list_left_out(["experiment=headlines", "optimizer=sgd"])
    assert describe_left_out(parts) == [
        "optimizer=sgd: the experiment's values for optimizer=adamw are left out "
        "(lr=0.001 betas=[0.9,0.95] weight_decay=0.1)"
    ]
    parts = [*parts, *list_left_out(["experiment=headlines", "optimizer=lion"])]
    assert describe_left_out(parts)[0].startswith("optimizer=sgd,lion: ")


def test_experiment_that_builds_on_another(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - headlines\n  - part\n  - override /optimizer: sgd\n  - _self_\n\n"
        "optimizer: {momentum: 0.5}\n"
    )
    (tmp_path / "experiment" / "part.yaml").write_text("# @package _global_\ntokenizer: {vocab_size: 777}\n")
    overrides = [format_search_path([f"file://{tmp_path}"]), "experiment=mine"]
    cfg, sgd = compose_config(overrides), compose_config(["optimizer=sgd"])
    assert dict(cfg.optimizer) == {**sgd.optimizer, "momentum": 0.5}
    assert (cfg.tokenizer.vocab_size, cfg.tokenizer.fit_on) == (777, "all")
    assert list_left_out(overrides) == ()  # what its author chose needs no note
    headlines = compose_config(["experiment=headlines"])
    assert compose_config([*overrides, "optimizer=adamw"]).optimizer == headlines.optimizer


def test_every_job_of_other_sweepers_has_the_values_of_its_option() -> None:
    with check_compositions(), initialize_config_dir(str(config_dir()), job_name="run"):
        loader = GlobalHydra.instance().config_loader()
        sweep = loader.load_configuration("config", ["experiment=headlines", "optimizer=adamw,sgd"], RunMode.MULTIRUN)
        jobs = [
            loader.load_sweep_config(sweep, ["experiment=headlines", f"optimizer={option}"])
            for option in ("adamw", "sgd")
        ]
    assert [job.optimizer.lr for job in jobs] == [1e-3, 0.03]
    assert "betas" not in jobs[1].optimizer
