"""Preflight as a user meets it: the command, before a sweep, over what is shipped."""

import json
import random
from pathlib import Path

import pytest

from harness import cli
from harness.config.schema import compose_config
from harness.preflight import CHECKS
from harness.run.preflight_adapter import open_training_setup
from tests.conftest import run_main
from tests.sweep.tiny_sweeps import TINY, TINY_WITHOUT_LORA

RUN = ["experiment=smoke", "observers=metrics_only"]


@pytest.fixture
def leaked(tmp_path: Path) -> list[str]:
    """Overrides for data in which every document stands five times, so that what is held out is learned."""
    chance = random.Random(0)
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
    texts = [" ".join(chance.choices(words, k=40)) for _ in range(60)]
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts * 5))
    return [
        "data=jsonl",
        f"data.source.path={file}",
        "tokenizer=bpe",
        "tokenizer.vocab_size=270",
        "data.val_fraction=0.1",
    ]


def test_what_is_asked_for_is_read_from_the_configuration_and_what_runs_from_the_loop(places) -> None:
    chosen = [*RUN, *places, "optimizer=muon", "schedule.warmup_ratio=0.1", "loop.max_steps=50", "batch.batch_size=6"]
    with open_training_setup(compose_config(chosen), runs=24, at_once=2) as subject:
        assert (subject.asked.total_steps, subject.asked.warmup_steps, subject.asked.batch_size) == (50, 5.0, 6)
        assert (subject.asked.runs, subject.asked.at_once, subject.batch_size) == (24, 2, 6)
        with subject.preserved_state():
            peak = subject.lrs(5)
        assert peak == pytest.approx(subject.asked.lr)
        assert set(peak) == {"embeddings", "matrices", "vectors"}


def test_checking_a_run_leaves_no_trace_in_it(places) -> None:
    with open_training_setup(compose_config([*RUN, *places])) as subject:
        before = subject.compute_loss(subject.batches[0]).item()
        with subject.preserved_state():
            for step in (0, 7):
                subject.lrs(step)
            subject.step(subject.batches[0])
            assert subject.compute_loss(subject.batches[0]).item() != before
        assert subject.compute_loss(subject.batches[0]).item() == before
        assert all(not optimizer.state for optimizer in subject.optimizer_list)


def test_the_command_checks_a_run_and_exits_0_where_nothing_failed(places, capsys) -> None:
    assert cli.main(["preflight", *RUN, *places]) == 0
    told = capsys.readouterr().out
    assert all(f" {check} " in told for check in CHECKS)
    assert "FAIL" not in told
    assert told.splitlines()[-1].startswith("preflight: ")


def test_a_fault_is_named_and_the_command_exits_1(places, leaked, capsys) -> None:
    assert cli.main(["preflight", *RUN, *places, *leaked, "--only", "evaluation"]) == 1
    told = capsys.readouterr().out
    assert "FAIL  evaluation" in told
    assert "Look at metric first" in told


def test_a_check_that_does_not_exist_is_refused_with_those_that_do(capsys) -> None:
    assert cli.main(["preflight", "--only", "labels"]) == 2
    assert f"--only: 'labels' is none of {', '.join(CHECKS)}" in capsys.readouterr().err


def test_a_failed_check_stops_the_sweep_before_there_is_a_study(places, leaked, tmp_path, monkeypatch, capsys) -> None:
    assert run_main(monkeypatch, "-m", *TINY_WITHOUT_LORA, *places, *leaked, "preflight=stop") == 1
    captured = capsys.readouterr()
    assert "FAIL  evaluation" in captured.out
    assert "to search all the same: preflight=warn" in captured.err
    assert not (tmp_path / "outputs" / "sweeps").exists()


def test_with_preflight_warn_the_sweep_goes_on_and_keeps_what_was_found(
    places, leaked, tmp_path, monkeypatch, capsys
) -> None:
    chosen = [*TINY_WITHOUT_LORA, *places, *leaked, "preflight=warn", "sweep.n_trials=1", "sweep.n_jobs=1"]
    assert run_main(monkeypatch, "-m", *chosen) == 0
    [kept] = (tmp_path / "outputs" / "sweeps").glob("*/preflight.txt")
    assert "FAIL  evaluation" in kept.read_text()
    capsys.readouterr()
    assert run_main(monkeypatch, "-m", *chosen) == 0
    assert "Preflight" not in capsys.readouterr().out


def test_another_word_for_preflight_is_refused(places, monkeypatch, capsys) -> None:
    assert run_main(monkeypatch, "-m", *TINY, *places, "preflight=maybe") == 2
    assert "preflight: 'maybe' is none of stop, warn, skip" in capsys.readouterr().err
