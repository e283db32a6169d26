"""Preflight of configured runs: the command, and the checks before a sweep."""

import json
import random
from pathlib import Path

import pytest
import torch

from harness import cli
from harness.config.compose import compose_config
from harness.preflight import CHECKS
from harness.run.preflight_adapter import open_training_setup
from tests.conftest import run_main
from tests.sweep.tiny_sweeps import TINY, TINY_WITHOUT_LORA

RUN = ["experiment=smoke", "observers=metrics_only"]


@pytest.fixture
def leaked_data(tmp_path: Path) -> list[str]:
    """Overrides for data in which each document occurs five times, in training and in validation."""
    rng = random.Random(0)
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
    texts = [" ".join(rng.choices(words, k=40)) for _ in range(60)]
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts * 5))
    return [
        "data=jsonl",
        f"data.source.path={file}",
        "tokenizer=bpe",
        "tokenizer.vocab_size=270",
        "data.val_fraction=0.1",
    ]


def test_requested_settings_come_from_config_and_lrs_from_the_loop(places) -> None:
    overrides = [
        *RUN,
        *places,
        "optimizer=muon",
        "schedule.warmup_ratio=0.1",
        "loop.max_steps=50",
        "batch.batch_size=6",
    ]
    with open_training_setup(compose_config(overrides), n_runs=24, n_parallel=2) as setup:
        requested = setup.requested
        assert (requested.total_steps, requested.warmup_steps, requested.batch_size) == (50, 5.0, 6)
        assert (requested.n_runs, requested.n_parallel, setup.batch_size) == (24, 2, 6)
        with setup.preserved_state():
            lrs = setup.lrs_at(5)
        assert lrs == pytest.approx(requested.lr)
        assert set(lrs) == {"embeddings", "matrices", "vectors"}


def test_checks_leave_the_run_unchanged(places) -> None:
    with open_training_setup(compose_config([*RUN, *places])) as setup:
        before = setup.compute_loss(setup.batches[0]).item()
        with setup.preserved_state():
            for step in (0, 7):
                setup.lrs_at(step)
            setup.train_step(setup.batches[0])
            assert setup.compute_loss(setup.batches[0]).item() != before
        assert setup.compute_loss(setup.batches[0]).item() == before
        assert all(not optimizer.state for optimizer in setup.optimizer_list)


def test_command_exits_with_0_if_no_check_fails(places, capsys) -> None:
    assert cli.main(["preflight", *RUN, *places]) == 0
    output = capsys.readouterr().out
    assert all(f" {check} " in output for check in CHECKS)
    assert "FAIL" not in output
    assert output.splitlines()[-1].startswith("preflight: ")


def test_command_exits_with_1_and_names_the_failed_check(places, leaked_data, capsys) -> None:
    assert cli.main(["preflight", *RUN, *places, *leaked_data, "--only", "evaluation"]) == 1
    output = capsys.readouterr().out
    assert "FAIL  evaluation" in output
    assert "Look at evaluation first" in output


def test_json_holds_status_and_findings(places, leaked_data, capsys) -> None:
    assert cli.main(["preflight", *RUN, *places, *leaked_data, "--only", "evaluation", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["status"], report["failed_checks"]) == ("fail", ["evaluation"])
    assert {"check", "level", "title", "observed", "expected", "hint"} == report["findings"][0].keys()


def test_command_rejects_unknown_check(capsys) -> None:
    assert cli.main(["preflight", "--only", "labels"]) == 2
    assert f"--only: labels: must be one of {', '.join(CHECKS)}" in capsys.readouterr().err


def test_failed_check_stops_the_sweep_before_a_study_exists(places, leaked_data, tmp_path, monkeypatch, capsys) -> None:
    assert run_main(monkeypatch, "-m", *TINY_WITHOUT_LORA, *places, *leaked_data, "preflight=stop") == 1
    captured = capsys.readouterr()
    assert "FAIL  evaluation" in captured.out
    assert "preflight=warn" in captured.err
    assert not (tmp_path / "outputs" / "sweeps").exists()


@pytest.mark.slow
def test_sweep_with_preflight_warn_continues_and_saves_the_findings_once(
    places, leaked_data, tmp_path, monkeypatch, capsys
) -> None:
    overrides = [*TINY_WITHOUT_LORA, *places, *leaked_data, "preflight=warn", "sweep.n_trials=1", "sweep.n_jobs=1"]
    assert run_main(monkeypatch, "-m", *overrides) == 0
    [findings] = (tmp_path / "outputs" / "sweeps").glob("*/preflight.txt")
    assert "FAIL  evaluation" in findings.read_text()
    assert "FAIL  evaluation" in capsys.readouterr().out
    assert run_main(monkeypatch, "-m", *overrides) == 0
    assert "FAIL  evaluation" not in capsys.readouterr().out


def test_unknown_preflight_mode_is_rejected(places, monkeypatch, capsys) -> None:
    assert run_main(monkeypatch, "-m", *TINY, *places, "preflight=maybe") == 2
    error = capsys.readouterr().err
    assert "preflight: " in error
    assert "maybe" in error
    assert "stop, warn, skip" in error


def test_commands_say_what_is_left_out(places, tmp_path, capsys) -> None:
    """The commands print the notes of a run: an experiment's values are for its own optimizer."""
    x = torch.rand(40, 16)
    torch.save({"x": x, "y": x.cumsum(1)}, tmp_path / "fields.pt")
    short = ["experiment=operator", *places, "data=pde_files", f"data.train={tmp_path / 'fields.pt'}", "optimizer=sgd"]
    small = ["model.modes=2", "batch.batch_size=4"]
    note = "note: optimizer=sgd: the experiment's values for optimizer=adamw are left out (lr=0.01 "
    range_test, resume = ["lr-range", "--steps", "20", "--high", "1e-3"], ["verify-resume", "--steps", "1"]
    for command in (["preflight", "--only", "model_size"], range_test, resume):
        assert cli.main([*command, *short, *small]) in (0, 1)
        assert note in " ".join(capsys.readouterr().out.split())
