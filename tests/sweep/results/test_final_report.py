"""The text printed at the end of a sweep."""

import shlex

from optuna.distributions import CategoricalDistribution
from optuna.trial import create_trial

from harness.sweep.results.final_report import format_sweep_summary
from harness.sweep.study.trial_attrs import RESULT
from tests.sweep.studies import (
    COMMAND_LINE,
    add_every_outcome,
    add_paused_trials,
    ask_conditional_trial,
    ask_trial,
    complete_trial,
    fail_trial,
    new_study,
    summarize,
)


def test_report_of_every_outcome() -> None:
    summary = summarize(add_every_outcome(new_study()), 24, ["loop.max_steps=120"])
    text = format_sweep_summary(summary, COMMAND_LINE, "default")
    lines = text.splitlines()
    assert lines[0] == "sweep default: 3 completed · 1 pruned · 1 diverged · 2 failed · 1 running (of 24 requested)"
    assert "  trial 6 failed: out of memory" in lines
    assert "best: trial 1 · val loss 3.002" in lines
    command = lines[lines.index("best: trial 1 · val loss 3.002") + 1]
    assert shlex.split(command) == [
        "python", "run.py", "loop.max_steps=120", "optimizer.lr=0.009", "lora.rank=64", "loop.grad_clip=1.0",
    ]  # fmt: skip
    assert "baseline: trial 0, the current configuration · val loss 4.300: the best is 1.298 lower" in lines
    again = lines.index("best of 5 trials (completed, pruned or diverged); confirm it on fresh seeds")
    assert lines[again + 1] == "  plateau confirm default"
    advice = lines.index("lora.rank: 64 is near the upper bound 64; try")
    assert lines[advice + 1] == "  'lora.rank=int(tag(log,interval(2,256)))' sweep.study=NAME"
    assert "little effect" not in text
    assert lines[-1].startswith("cost: 4,700 tokens and ")
    assert lines[-1].endswith(" of training in 6 trials")  # of 8, one died with its worker, and one still runs


def test_seeds_are_averaged_and_not_extended() -> None:
    study, ranges = new_study(), {"seed": CategoricalDistribution([1, 2, 3]),
                                  "optimizer": CategoricalDistribution(["adamw", "lion"])}  # fmt: skip
    for optimizer, loss in (("lion", 4.0), ("adamw", 3.0)):
        for seed in (1, 2, 3):
            params, attrs = {"seed": seed, "optimizer": optimizer}, {RESULT: {"status": "completed", "tokens": 9}}
            study.add_trial(create_trial(params=params, distributions=ranges, value=loss - seed / 10, user_attrs=attrs))
    text = format_sweep_summary(summarize(study, 6), COMMAND_LINE, "default")
    assert (
        "over seeds, and its standard deviation from seed to seed:\n  2.800 ± 0.1 (3 seeds) · optimizer=adamw\n" in text
    )
    assert "\n  3.800 ± 0.1 (3 seeds) · optimizer=lion\n" in text
    assert "upper bound" not in text
    assert "fresh seeds" not in text


def test_report_when_baseline_is_best() -> None:
    study = new_study()
    complete_trial(study, ask_trial(study, lr=1e-2, rank=32, clip=1.0, baseline=True))
    complete_trial(study, ask_trial(study, lr=1e-3, rank=8, clip=1.0))
    text = format_sweep_summary(summarize(study, 2), COMMAND_LINE, "default")
    assert "val loss 3.100: no trial was better" in text
    assert "confirm" not in text


def test_report_with_failed_baseline() -> None:
    study = new_study()
    fail_trial(study, ask_trial(study, lr=1e-2, baseline=True), "failed", "out of memory")
    complete_trial(study, ask_trial(study))
    text = format_sweep_summary(summarize(study, 2), COMMAND_LINE, "default")
    assert "baseline: trial 0, the current configuration: failed (out of memory)" in text
    assert "lower" not in text.partition("baseline")[2].partition("\n")[0]


def test_report_without_completed_trial() -> None:
    study = new_study()
    fail_trial(study, ask_trial(study), "failed", "out of memory")
    text = format_sweep_summary(summarize(study, 1), COMMAND_LINE, "default")
    assert "no trial completed, so there is no best trial" in text
    assert "python run.py" not in text
    assert "fresh seeds" not in text


def test_report_of_idle_params() -> None:
    study = new_study()
    for _ in range(40):
        complete_trial(study, ask_trial(study))
    lines = format_sweep_summary(summarize(study, 40), COMMAND_LINE, "default").splitlines()
    [line] = [line for line in lines if line.startswith("little effect")]
    assert line.startswith("little effect in 40 completed trials (by PED-ANOVA and fANOVA): loop.grad_clip ")


def test_report_of_conditional_boundary_hit() -> None:
    study = new_study()
    study.enqueue_trial({"optimizer": "muon", "optimizer.lr @ optimizer=muon": 0.099})
    complete_trial(study, ask_conditional_trial(study))
    at = "optimizer.lr with optimizer=muon: 0.099 is near the upper bound 0.1; try in sweep.conditional, with "
    text = format_sweep_summary(summarize(study, 1), COMMAND_LINE, "default")
    assert f"{at}sweep.study=NAME\n  tag(log,interval(0.0001,0.4))" in text


def test_report_of_pareto_front() -> None:
    study = new_study(("best_val_loss", "tokens"))
    for value, tokens in ((3.0, 1_200_000), (3.5, 600_000), (3.6, 700_000)):
        complete_trial(study, ask_trial(study), value, tokens)
    text = format_sweep_summary(summarize(study, 3), COMMAND_LINE, "default")
    assert text.count("python run.py") == text.count("on the Pareto front: trial ") == 2
    assert "Pareto front of 3 trials" in text


def test_report_of_paused_trials() -> None:
    summary = summarize(add_paused_trials(new_study()), 200, runs=8)
    lines = format_sweep_summary(summary, COMMAND_LINE, "default").splitlines()
    assert lines[0] == "sweep default: 2 completed · 27 paused · 1 interrupted · 1 running (4.1 of 8 runs)"
    assert "best of 29 trials (completed or paused); confirm it on fresh seeds" in lines
    paused = "paused: 19 at 4 %, 7 at 12 %, 1 at 36 %; "
    remedy = "run the same command to continue the best of them"
    assert f"{paused}raise sweep.runs and {remedy}" in lines
    assert f"{paused}{remedy}" in format_sweep_summary(summary, COMMAND_LINE, "default", "interrupted").splitlines()
