"""Contents of optimization_results.yaml and summary.json."""

import math

from omegaconf import OmegaConf

from harness.sweep.results.result_files import optimization_results, summary_to_json, trials_to_json
from tests.sweep.studies import (
    add_every_outcome,
    add_paused_trials,
    ask_conditional_trial,
    ask_trial,
    complete_trial,
    fail_trial,
    new_study,
    quadratic_loss,
    summarize,
)


def test_results_extend_the_format_of_hydra_optuna_sweeper(tmp_path) -> None:
    study = new_study()
    for _ in range(3):
        trial = ask_conditional_trial(study)
        complete_trial(study, trial)
    best = study.best_trial
    results = optimization_results(study)
    OmegaConf.save(OmegaConf.create(results), tmp_path / "optimization_results.yaml")
    assert OmegaConf.load(tmp_path / "optimization_results.yaml") == results
    assert list(results) == ["name", "best_params", "best_value", "best_trial"]
    assert results["name"] == "optuna"
    assert set(results["best_params"]) == {"optimizer", "optimizer.lr"}
    assert (results["best_value"], results["best_trial"]) == (best.value, best.number)


def test_results_with_several_objectives() -> None:
    study = new_study(("best_val_loss", "tokens"))
    complete_trial(study, ask_trial(study, lr=1e-2, rank=8, clip=1.0), 3.1, 500.0)
    complete_trial(study, ask_trial(study), 3.0, 600.0)
    first = {"optimizer.lr": 1e-2, "lora.rank": 8, "loop.grad_clip": 1.0}
    assert optimization_results(study)["solutions"][1] == {"params": first, "values": [3.1, 500.0], "number": 0}


def test_results_without_completed_trial() -> None:
    study = new_study()
    fail_trial(study, ask_trial(study))
    assert optimization_results(study)["best_trial"] is None


def test_history_is_append_only_and_finite() -> None:
    study = add_every_outcome(new_study())
    before = summary_to_json(summarize(study, 24), "running")
    complete_trial(study, ask_trial(study, lr=1e-2, rank=64, clip=1.0))
    after = summary_to_json(summarize(study, 24), "completed", 5)
    assert [step for step, _, _ in before["history"]] == [0, 1, 2, 3, 4, 5, 6]
    assert after["history"][: len(before["history"])] == before["history"]
    best = [row["sweep/best_val_loss"] for _, row, _ in after["history"]]
    assert best == sorted(best, reverse=True)
    assert "sweep/val_loss" not in {step: row for step, row, _ in after["history"]}[3]
    assert all(math.isfinite(value) for _, row, _ in after["history"] for value in row.values())
    assert after["history"][-1][1]["sweep/val_loss"] == after["metrics"]["sweep/best_val_loss"] == 3.0
    assert before["ended_at_ms"] is None
    assert (after["status"], after["ended_at_ms"]) == ("completed", 5)


def test_values_of_added_settings_are_tagged_by_the_key_of_the_setting() -> None:
    study = new_study()
    trial = study.ask()
    trial.suggest_float("+lr", 0.1, 0.2)
    complete_trial(study, trial, 3.0)
    assert "best.lr" in summary_to_json(summarize(study, 1), "completed")["tags"]


def test_metrics_and_tags_of_summary() -> None:
    study = add_every_outcome(new_study())
    summary_json = summary_to_json(summarize(study, 24, ["experiment=default"]), "completed", 5)
    assert summary_json["metrics"]["sweep/baseline_val_loss"] == quadratic_loss({"optimizer.lr": 1e-3, "lora.rank": 8})
    assert summary_json["metrics"]["sweep/trials.failed"] == 2
    assert summary_json["metrics"]["sweep/trials.queued"] == 0
    assert summary_json["metrics"]["sweep/tokens"] == 4700
    assert summary_json["tags"]["best_trial"] == summary_json["tags"]["best_folder"] == "1"
    assert summary_json["tags"]["best.lora.rank"] == "64"
    assert summary_json["tags"]["best.command"].startswith("python run.py experiment=default optimizer.lr=0.009")
    assert all(isinstance(tag, str) for tag in summary_json["tags"].values())


def test_objective_that_is_maximized_has_its_name_and_direction() -> None:
    study = new_study(("val/acc",), ["maximize"])
    for value in (0.5, 0.9, 0.7):
        complete_trial(study, ask_trial(study), value)
    content = summary_to_json(summarize(study, 3), "completed", 5)
    assert content["objectives"] == {"val/acc": "maximize"}
    assert content["metrics"]["sweep/best_val/acc"] == 0.9
    assert [row["sweep/best_val/acc"] for _, row, _ in content["history"]] == [0.5, 0.9, 0.9]
    assert [row["sweep/val/acc"] for _, row, _ in content["history"]] == [0.5, 0.9, 0.7]
    assert content["tags"]["best_trial"] == "1"


def test_files_say_what_is_paused_and_why_trials_were_promoted() -> None:
    summary = summarize(add_paused_trials(new_study()), 200, runs=8)
    metrics = summary_to_json(summary, "running")["metrics"]
    assert metrics["sweep/trials.paused"] == 27
    assert metrics["sweep/runs"] == summary.runs_used
    trial = trials_to_json(summary)["trials"][29]
    assert (trial["status"], trial["percent_done"], trial["values"]) == ("paused", 36, [3.05])
    assert trial["promotions"][1] == {"start": 12, "target": 36, "reason": "rank"}
    assert trials_to_json(summary)["counts"]["paused"] == 27
