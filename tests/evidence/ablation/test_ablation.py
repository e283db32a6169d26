"""Ablations of real sweeps of a tiny model: from the study to the effects, and resumed by the command."""

import json
from pathlib import Path

import pytest

from harness import cli
from harness.evidence.ablation.ablation import AblationOptions, plan_ablation, run_ablation
from harness.evidence.ablation.result import ABLATION_FILE
from harness.evidence.ablation.text import list_ablation_sections
from harness.evidence.comparing.compare_text import format_as_text
from harness.record.sweep_files import SUMMARY_FILE
from tests.evidence.confirm.test_confirmation import make_workers, sweep_tiny_model


def test_the_gain_of_a_real_sweep_is_taken_apart(
    tmp_path: Path, cache_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = sweep_tiny_model(tmp_path, f"cache_dir={cache_dir}")
    best = study.ranking[0]
    stopped = plan_ablation(study, AblationOptions(seeds=3, max_tokens=1))
    assert [change.keys for change in stopped.plan.changes] == [("optimizer.lr",), ("loop.grad_clip",)]
    assert 1337 not in stopped.plan.seeds
    result, _ = run_ablation(stopped, make_workers)
    assert (result.status, result.evaluation.effects) == ("out of budget", ())
    assert [run.status for run in result.runs].count("completed") == 1

    ablation = plan_ablation(study, AblationOptions(trial=best.number, seeds=3))
    result, end = run_ablation(ablation, make_workers)
    assert (result.status, end.status) == ("complete", "completed")
    assert {(run.config, run.seed) for run in result.runs} == {
        (name, seed)
        for name in ("baseline", "winner", "baseline with optimizer.lr", "baseline with loop.grad_clip")
        for seed in ablation.plan.seeds
    }
    assert {run.values["best_val_loss"] < 6 for run in result.runs if "optimizer.lr" in run.config} == {True}
    text = "\n".join(format_as_text(list_ablation_sections(result), None))
    assert "optimizer.lr: alone" in text
    assert "interaction of optimizer.lr and loop.grad_clip" in text
    summary = json.loads((ablation.folder / SUMMARY_FILE).read_text())
    assert "baseline with optimizer.lr/best_val_loss.mean" in summary["metrics"]
    assert summary["tags"]["backward optimizer.lr"] in ("better", "worse", "not shown")

    capsys.readouterr()
    command = ["ablate", "s", "--output-dir", str(tmp_path), "--seeds", "3", "--json"]
    assert cli.main(command) == 0  # resumed: nothing is run twice
    written = json.loads((ablation.folder / ABLATION_FILE).read_text())
    printed = json.loads(capsys.readouterr().out)
    assert {key: written[key] for key in printed} == printed
    assert [run["trial"] for config in printed["configs"] for run in config["runs"]] == [
        run.trial for name in ablation.plan.configs for run in result.runs if run.config == name
    ]
    assert cli.main([*command, "--seeds", "4"]) == 2
    assert "begun with another plan" in capsys.readouterr().err


def test_three_seeds_are_the_fewest() -> None:
    with pytest.raises(ValueError, match="--seeds: 2 must be at least 3"):
        AblationOptions(seeds=2)
