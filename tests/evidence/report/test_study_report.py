"""Reports on random studies: every percentage is its formula, every judgement has its criterion, no number is typed."""

import json
import math
import random
import re
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.core.errors import ConfigError
from harness.evidence.report.confirmation_report import make_confirmation_report
from harness.evidence.report.document import Claim, Report, iterate_figures, iterate_texts, plain_text
from harness.evidence.report.lexicon import JUDGING_WORDS, check_document
from harness.evidence.report.markdown_page import format_report_markdown
from harness.evidence.report.numbers import Formula
from harness.evidence.report.study_report import make_study_report
from harness.evidence.report.study_sections import shorten_log_range
from harness.evidence.report.study_source import load_study_source
from harness.record.metrics_file import write_json
from harness.sweep.programs.command.template import read_command
from harness.sweep.study.trial_attrs import PRIOR
from tests.evidence.report.study_folders import (
    add_confirmation,
    add_paused_trials,
    make_pareto_folder,
    make_sweep_folder,
)
from tests.record.trials import write_trial


def make_report(folder: Path, price: float | None = None) -> Report:
    return make_study_report(load_study_source(folder), price, {})


def read_section(report: Report, key: str) -> str:
    """Return the words of a section."""
    found = [section for section in report.sections if section.key == key]
    return "\n".join(plain_text(text) for text in iterate_texts(replace(report, sections=tuple(found))))


def evaluate_independently(expression: str, values: dict[str, float | None]) -> Fraction:
    """Return the value of a formula by Python itself, in exact arithmetic."""
    parts = re.split(r"([a-z_][\w.]*)", expression)
    functions = {"abs": abs, "sum": lambda *parts: sum(parts)}
    names = {part: Fraction(values[part]) for part in parts if part in values}
    text = "".join(f"names[{part!r}]" if part in names else part for part in parts)
    return Fraction(eval(text, {"__builtins__": {}, "names": names, **functions}))


def check_percentages(report: Report) -> int:
    """Check every percentage against exact arithmetic, and that the text shows its parts; return their number."""
    values = {name: number.value for name, number in report.numbers.items()}
    percentages = [one for one in report.numbers.values() if "percent" in one.style]
    for one in percentages:
        assert isinstance(one.source, Formula)
        exact = evaluate_independently(one.source.expression, values)
        assert one.value == pytest.approx(float(exact), rel=1e-12)
        assert one.text == f"{float(exact):+.1f}%"
    own = re.sub(r"`[^`]*`|“[^”]*”|(?:at confidence|each at) [\d.]+%", "", format_report_markdown(report))
    for found in re.finditer(r"[-+\d.,]+%", own):
        assert found[0] in {one.text for one in percentages}
        assert re.match(r" = -?\+?[\d.e+-]+ / [\d.e+-]+\)", own[found.end() :].replace("\\", "")), own[
            found.start() - 40 :
        ][:99]
    return len(percentages)


def draw_seeds(rng: random.Random, mean: float) -> list[float]:
    """Return the values of five seeds, of which some may diverge."""
    return [math.nan if rng.random() < 0.05 else rng.gauss(mean, 1) for _ in range(5)]


@pytest.mark.parametrize("seed", range(12))
def test_percentages_and_judgements_of_random_studies(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    direction = rng.choice(["minimize", "maximize"])
    folder = make_sweep_folder(
        tmp_path / f"study {seed}", seed, direction=direction, n_trials=rng.choice([2, 5, 12]),
        objective=rng.choice(["val/loss", "accuracy 2", "bleu"]), has_baseline=rng.random() < 0.8,
    )  # fmt: skip
    if rng.random() < 0.7:
        candidates = {1: draw_seeds(rng, rng.choice([-6.0, 0.0, 6.0])), 2: draw_seeds(rng, 0.0)}
        add_confirmation(folder, draw_seeds(rng, 0.0), candidates, direction=direction, margin=rng.choice([None, 3.0]),
                         metric=load_study_source(folder).objective)  # fmt: skip
    report = make_report(folder, price=rng.choice([None, 2.5]))
    check_document(report)
    check_percentages(report)
    words = " ".join(str(span) for text in iterate_texts(report) for span in text if isinstance(span, str))
    assert not JUDGING_WORDS.search(words)
    claims = [span for text in iterate_texts(report) for span in text if isinstance(span, Claim)]
    names = SimpleNamespace(**{name.replace(".", "_"): one.value for name, one in report.numbers.items()})
    for claim in claims:
        assert eval(re.sub(r"(?<=\w)\.(?=\w)", "_", claim.criterion), {"abs": abs}, vars(names)) is True


def test_differences_without_a_confirmation_are_of_single_runs(tmp_path: Path) -> None:
    folder = make_sweep_folder(tmp_path / "plain", values=[2.0, 1.5, 1.8], n_trials=3)
    summary = read_section(make_report(folder), "summary")
    assert "Nothing was confirmed. Trial 1 has the lowest val/loss of 3 measured trials: 1.5000" in summary
    assert "a difference of -0.5000 (-25.0% = -0.5000 / 2.0000)" in summary
    assert "n = 1 of trial 1, n = 1 of the baseline" in summary
    assert "plateau confirm plain" in summary


def test_a_maximized_objective_is_higher(tmp_path: Path) -> None:
    folder = make_sweep_folder(tmp_path / "accuracy", values=[0.5, 0.8, 0.6], n_trials=3, direction="maximize",
                               objective="accuracy")  # fmt: skip
    confirmation = {1: [0.81, 0.79, 0.8, 0.82, 0.78]}
    add_confirmation(folder, [0.5, 0.51, 0.49, 0.5, 0.52], confirmation, direction="maximize", metric="accuracy")
    report = make_report(folder)
    summary = read_section(report, "summary")
    assert (
        "trial 1 is better than the baseline on the validation split: accuracy differs by +0.2960 (interval" in summary
    )
    assert "Trial 1 has the highest accuracy of 3 measured trials: 0.80000, against 0.50000" in summary
    assert "confirmed" not in summary
    assert report.numbers["confirm.trial_1.gap"].value == pytest.approx(0.8 - 0.81)
    assert "worse by 0.010000" in format_report_markdown(report)
    assert summary.count("the baseline, the configuration before the sweep") == 1


def test_an_open_confirmation_is_continued_by_the_command_that_was_typed(tmp_path: Path) -> None:
    folder = make_sweep_folder(tmp_path / "open", values=[2.0, 1.5], n_trials=2)
    path = add_confirmation(folder, [], {1: []})
    content = json.loads(path.read_text()) | {"status": "out of budget", "verdicts": []}
    del content["sha256"]
    content["seeds"], content["looks"] = [1001, 1002, 1003], [3]
    for command in ("", "plateau confirm open --seeds 3 --seed-flag --seed"):
        path.write_text(json.dumps(content | {"command": command}))
        said = read_section(make_report(folder), "confirmed")
        assert (f"{command} continues it" in said) if command else ("continues it" not in said)


def test_a_confirmation_on_the_test_split(tmp_path: Path) -> None:
    folder = make_sweep_folder(tmp_path / "tested", values=[2.0, 1.5], n_trials=2)
    add_confirmation(folder, [2.0, 2.1, 1.9, 2.0, 2.05], {1: [1.5, 1.6, 1.4, 1.5, 1.45]}, split="test")
    report = make_report(folder)
    assert "on the test split" in read_section(report, "summary")
    assert "chosen from 10 trials" in read_section(report, "summary")
    assert "no sweep has seen" not in read_section(report, "limits")
    assert report.numbers["confirm.trial_1.difference"].value == pytest.approx(1.49 - 2.01)


@pytest.mark.parametrize("margin", [None, 0.5])
def test_no_difference_is_no_equality(tmp_path: Path, margin: float | None) -> None:
    folder = make_sweep_folder(tmp_path / "same", values=[2.0, 1.99], n_trials=2)
    add_confirmation(folder, [2.0, 2.1, 1.9, 2.0, 2.05], {1: [2.05, 1.95, 2.0, 2.1, 1.9]}, margin=margin)
    report = make_report(folder)
    said = "is equivalent to the baseline" if margin else "no difference from the baseline was shown"
    assert said in read_section(report, "summary")
    assert ("are the same: a difference smaller" in read_section(report, "limits")) == (margin is None)


def test_a_verdict_that_its_runs_contradict_is_refused(tmp_path: Path) -> None:
    folder = make_sweep_folder(tmp_path / "edited", values=[2.0, 1.5], n_trials=2)
    path = add_confirmation(folder, [2.0, 2.1, 1.9], {1: [1.5, 1.6, 1.4]})
    text = path.read_text().replace('"val/loss": 1.4', '"val/loss": 0.4')
    path.write_text(re.sub(r',\s*"sha256": "\w+"', "", text))
    with pytest.raises(ConfigError, match="its verdict has status better"):
        make_report(folder)


@pytest.mark.parametrize(
    ("baseline", "candidate", "said"),
    [([math.nan] * 5, [1.0, 1.1, 0.9, 1.0, 1.05], "is better than the baseline"),
     ([1.0, 1.1, 0.9, 1.0, 1.05], [math.nan] * 5, "is worse than the baseline"),
     ([math.nan] * 5, [math.nan] * 5, "no difference from the baseline was shown")],
)  # fmt: skip
def test_seeds_that_diverged_count_as_worst(tmp_path: Path, baseline, candidate, said) -> None:
    folder = make_sweep_folder(tmp_path / "diverged", values=[2.0, 1.5], n_trials=2)
    add_confirmation(folder, baseline, {1: candidate})
    report = make_report(folder)
    assert said in read_section(report, "summary")
    assert "diverged; each counts as worse than any loss" in read_section(report, "confirmed")


def test_a_run_without_result_is_no_verdict(tmp_path: Path) -> None:
    folder = make_sweep_folder(tmp_path / "died", values=[2.0, 1.5], n_trials=2)
    path = add_confirmation(folder, [2.0, 2.1, 1.9], {1: [1.5, 1.6, math.nan]})
    content = json.loads(path.read_text())
    run = content["configs"][1]["runs"][2]
    run |= {"status": "failed", "reason": "out of memory at 7 GB"}
    reason = "1 of 3 runs failed: out of memory at 7 GB"
    nan = dict.fromkeys(("difference", "low", "high", "p"), "NaN")
    content["verdicts"] = [{"candidate": "trial 1", "status": "not shown", "n": 3, "reason": reason, **nan}]
    del content["sha256"]
    path.write_text(json.dumps(content))
    report = make_report(folder)
    assert f"trial 1: no verdict, since “{reason}”" in read_section(report, "summary")
    failed = "1 run of the confirmation failed (trial 1 with seed 1003): “out of memory at 7 GB”"
    assert failed in read_section(report, "failed")
    assert "No trial of the sweep failed or diverged" in read_section(report, "failed")
    assert failed in read_section(make_confirmation_report(path.parent, None, {}), "failed")


def test_failed_and_missing_runs_are_counted_and_did_not_diverge(tmp_path: Path) -> None:
    folder = make_sweep_folder(tmp_path / "some", values=[2.0, 1.5], n_trials=2)
    path = add_confirmation(folder, [2.0, 2.1, 1.9], {1: [1.5, 1.6, 1.7]})
    content = json.loads(path.read_text())
    content["configs"][0]["runs"][1] |= {"status": "failed", "values": {}, "seconds": 0.0, "reason": "killed"}
    content["configs"][1]["runs"][1] |= {"status": "diverged", "values": {}, "reason": "loss is nan"}
    content["configs"][1]["runs"][2] |= {"status": "running", "values": {}, "seconds": 0.0}
    content |= {"seeds": [1001, 1002, 1003, 1004], "status": "running", "verdicts": [], "looks": [4]}
    del content["sha256"]
    path.write_text(json.dumps(content))
    report = make_report(folder)
    figure = next(figure for figure in iterate_figures(report) if figure.name == "seeds")
    assert [row.values for row in figure.data.rows] == [(2.0, None, 1.9, None), (1.5, math.inf, None, None)]
    assert "Not drawn: 1 failed, 2 not run, 1 running." in plain_text(figure.caption)
    assert report.numbers["cost.the_confirmation.runs"].value == 5
    assert "1 of the runs ended without a recorded time" in read_section(report, "cost")


def test_a_confirmation_of_its_own(tmp_path: Path) -> None:
    """A confirmation of configurations that no sweep chose is a study without a sweep around it."""
    path = add_confirmation(tmp_path, [2.0, 2.1, 1.9, 2.0, 2.05], {1: [1.5, 1.6, 1.4, 1.5, 1.45]})
    for number in range(5):
        write_trial(path.parent / str(number), [2.5, 2.0], objective="val/loss", direction="minimize")
    report = make_confirmation_report(path.parent, 2.5, {})
    assert read_section(report, "summary").startswith("trial 1 is better than the baseline on the validation split")
    assert report.numbers["cost.the_confirmation.money"].value == pytest.approx(20 / 3600 * 2.5)
    assert check_percentages(report) == 0


def test_cost_is_hours_times_the_price(tmp_path: Path) -> None:
    folder = make_sweep_folder(tmp_path / "cost", values=[2.0, 1.5, 1.4], n_trials=3)
    add_confirmation(folder, [2.0, 2.1, 1.9], {1: [1.5, 1.6, 1.4]})
    numbers = make_report(folder, price=3600.0).numbers
    assert numbers["cost.the_sweep.money"].value == pytest.approx(1.5 + 2.5 + 3.5)
    assert numbers["cost.total.money"].value == pytest.approx(7.5 + 12.0)
    assert numbers["cost.total.tokens"].value is None


def test_nothing_measured_is_said_so(tmp_path: Path) -> None:
    folder = make_sweep_folder(tmp_path / "failed", n_trials=0)
    report = make_report(folder)
    assert "No trial completed" in read_section(report, "summary")
    assert "plateau confirm" not in format_report_markdown(report)


def test_best_baseline_needs_no_confirmation(tmp_path: Path) -> None:
    folder = make_sweep_folder(tmp_path / "before", values=[1.0, 1.5, 1.4], n_trials=3)
    assert read_section(make_report(folder), "summary").startswith("No trial has a lower val/loss")


def test_several_objectives_and_a_running_sweep(tmp_path: Path) -> None:
    report = make_report(make_pareto_folder(tmp_path / "front"))
    assert "its Pareto front has 3" in read_section(report, "summary")
    assert "minimize val/loss; maximize accuracy" in read_section(report, "asked")
    assert "| trial 2 | completed | 2.5000 | 0.90000 | yes |" in format_report_markdown(report)
    assert "| trial 3 | completed | 3.0000 | 0.10000 | no |" in format_report_markdown(report)
    assert "still queued or running" in read_section(report, "limits")
    assert "plateau confirm front" in format_report_markdown(report)
    assert check_percentages(report) == 0


def test_paused_trials_are_measured_and_counted_by_rung(tmp_path: Path) -> None:
    folder = make_sweep_folder(tmp_path / "paused", values=[2.0, 1.5, 1.8], n_trials=3)
    add_paused_trials(folder, [4, 4, 4, 12, 36], runs=8)
    report = make_report(folder)
    asked = read_section(report, "asked")
    assert "3 trials at most, 8 measured (completed, paused, pruned or diverged)" in asked
    assert "as much as 8 whole runs, of which the trials have done 3.6" in asked
    assert "if the budget is raised: 3 after 4 % of a run, 1 after 12 % of a run, 1 after 36 % of a run." in asked
    assert "of 8 measured trials" in read_section(report, "summary")
    assert "3 completed, 5 paused" in read_section(report, "failed")
    assert "What the paused trials would have reached: 5 of them paused." in read_section(report, "limits")
    assert "| trial 7 | paused | 8.6400 |" in format_report_markdown(report)
    [curves, *_] = [figure for figure in iterate_figures(report) if figure.name == "curves"]
    roles = [line.role for line in curves.data.lines]
    assert (roles.count("paused"), roles.count("pruned")) == (5, 0)
    assert "A circle marks where a trial is paused." in plain_text(curves.caption)


def test_a_warm_start_is_stated(tmp_path: Path) -> None:
    folder = make_sweep_folder(tmp_path / "warm", values=[2.0, 1.5, 1.8], n_trials=3)
    assert "Warm start" not in read_section(make_report(folder), "asked")
    add_paused_trials(folder, [4, 12], runs=8, attrs={PRIOR: {"source": "yesterday", "trial": 7}})
    asked = read_section(make_report(folder), "asked")
    assert "Warm start: 2 of the first trials took values of yesterday." in asked


def test_trials_without_a_record_are_still_counted(tmp_path: Path) -> None:
    folder = make_sweep_folder(tmp_path / "kept", values=[2.0, 1.5, 1.8], n_trials=3)
    for trial in folder.glob("[0-9]*"):
        shutil.rmtree(trial)
    report = make_report(folder)
    assert "a difference of -0.5000 (-25.0% = -0.5000 / 2.0000)" in read_section(report, "summary")
    assert "No run has a record" in read_section(report, "diagnosed")


@pytest.mark.parametrize(("words", "options"), [(["x.py"], " --seed-flag --seed"), (["x.py", "--seed", "3"], "")])
def test_proposed_commands_name_the_seed_of_the_program(tmp_path: Path, words: list[str], options: str) -> None:
    folder = make_sweep_folder(tmp_path / "typed", values=[2.0, 1.5], n_trials=2)
    template = read_command(["python", *words, "--lr", "log(1e-4,1e-1)"], {}, {}).to_json()
    write_json(folder / "program.json", {"study": "typed", "storage": None, "settings": {"template": template},
               "command": [], "cwd": "", "launcher": "basic", "n_jobs": 1, "n_threads": None})  # fmt: skip
    report = make_report(folder)
    assert f": plateau confirm typed{options}." in read_section(report, "summary")
    assert f"plateau ablate typed{options} does" in read_section(report, "limits")


def test_scope_ranges_and_confidence_are_as_they_were(tmp_path: Path) -> None:
    folder = make_sweep_folder(tmp_path / "said", values=[2.0, 1.5], n_trials=2)
    add_confirmation(folder, [2.0, 2.1, 1.9, 2.0, 2.05], {1: [1.5, 1.6, 1.4, 1.5, 1.45]}, metric="test_loss")
    report = make_report(folder)
    assert "other than val/loss, test_loss, other data" in read_section(report, "limits")
    assert "log(1e-4,0.1)" in read_section(report, "asked")
    assert re.search(r"at confidence \d\d(\.\d)?%, p", read_section(report, "summary"))
    assert "Ran with" not in read_section(report, "sources")
    assert shorten_log_range("int(tag(log,interval(4,64)))") == "int(log(4,64))"
    assert shorten_log_range("tag(log,interval(0.001,1.0))") == "log(1e-3,1)"


def test_a_grid_does_not_change_all_parameters_together(tmp_path: Path) -> None:
    folder = make_sweep_folder(tmp_path / "grid", values=[2.0, 1.5, 1.4, 1.3, 1.2])
    assert "changed together from trial to trial" in read_section(make_report(folder), "results")
    settings = (folder / "sweep.yaml").read_text()
    (folder / "sweep.yaml").write_text(settings.replace("TPESampler", "GridSampler"))
    assert "changed together from trial to trial" not in read_section(make_report(folder), "results")
