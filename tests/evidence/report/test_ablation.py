"""Ablations in reports: effects, shares and interactions with their sources, and what is refused."""

import json
import math
import random
import re
from pathlib import Path

import pytest

from harness import cli
from harness.core.errors import ConfigError
from harness.evidence.charts import draw_chart
from harness.evidence.charts.figure_data import Intervals
from harness.evidence.report.document import Claim, iterate_figures, iterate_texts
from harness.evidence.report.lexicon import JUDGING_WORDS, check_document
from harness.evidence.report.markdown_page import format_report_markdown
from tests.evidence.report.study_folders import add_ablation, add_confirmation, make_sweep_folder
from tests.evidence.report.test_study_report import check_percentages, make_report, read_section

WITHOUT = "winner without c1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_sweep_folder(tmp_path / "apart", values=[3.0, 2.0], n_trials=2)


def test_effects_shares_and_interactions(folder: Path) -> None:
    add_ablation(folder, [-0.4, -0.6, 0.0], together=-0.5, noise=0.02, n_seeds=6)
    report = make_report(folder)
    text = read_section(report, "ablated")
    assert "trial 1 is better than the baseline on the test split, in the runs of the ablation: loss differs by" in text
    found = re.search(r"c0: alone it is better, by (\S+) \(share of the whole: (\S+) = (\S+) / (\S+)\); on top", text)
    assert found
    assert found[1] == found[3]
    numbers = report.numbers
    assert numbers["ablation.gain.difference"].text == found[4]
    assert numbers["ablation.change_1.forward.share"].text == found[2]
    assert numbers["ablation.change_1.forward.difference"].value == pytest.approx(-0.4, abs=0.05)
    assert numbers["ablation.change_1.backward.difference"].value == pytest.approx(-0.9, abs=0.05)
    assert numbers["ablation.interaction_1.difference"].value == pytest.approx(-0.5, abs=0.1)
    assert "c2: alone no effect was shown; on top of the others no effect was shown. No interaction" in text
    assert text.count("It brings more with the others than alone.") == 2
    assert numbers["ablation.sum"].value == pytest.approx(-1.0, abs=0.1)
    assert check_percentages(report) == 5


def test_every_number_of_the_file_is_computed_from_its_runs(folder: Path) -> None:
    content = json.loads(add_ablation(folder, [-0.4, -0.6, 0.3]).read_text())
    numbers = make_report(folder).numbers
    names = [change["name"] for change in content["changes"]]
    for effect in content["effects"]:
        id = f"ablation.change_{names.index(effect['change']) + 1}.{effect['kind']}"
        assert numbers[f"{id}.difference"].value == pytest.approx(effect["difference"])
        assert numbers[f"{id}.low"].value == effect["low"]
    for index, interaction in enumerate(content["interactions"], 1):
        assert numbers[f"ablation.interaction_{index}.difference"].value == pytest.approx(interaction["difference"])


def test_the_figure_has_both_ways_of_each_change(folder: Path) -> None:
    add_ablation(folder, [-0.4, -0.6, 0.0])
    [figure] = [one for one in iterate_figures(make_report(folder)) if one.name == "effects"]
    assert isinstance(figure.data, Intervals)
    assert [(row.label, row.series) for row in figure.data.rows] == [
        ("all changes", "together"),
        *((name, series) for name in ("c0", "c1", "c2") for series in ("alone", "on top of the others")),
    ]
    drawn = draw_chart(figure.data).render("")
    assert [drawn.count(f">{name}<") for name in ("c0", "alone", "on top of the others", "together")] == [1, 1, 1, 1]


def test_an_ablation_replaces_the_joint_effect_and_is_a_verdict(folder: Path) -> None:
    report = make_report(folder)
    assert "none was changed alone; plateau ablate apart does" in read_section(report, "limits")
    assert "one joint effect" in read_section(report, "configs")
    add_ablation(folder, [-0.4, -0.6])
    report = make_report(folder)
    assert read_section(report, "summary").startswith("trial 1 is better than the baseline on the test split")
    assert "Nothing was confirmed" not in format_report_markdown(report)
    assert "none was changed alone" not in read_section(report, "limits")
    assert "shares of the changes add up" in read_section(report, "limits")
    assert "joint effect" not in read_section(report, "configs")
    assert report.numbers["cost.the_ablation.tokens"].value == 4 * 5 * 100
    add_confirmation(folder, [3.0, 3.1, 2.9, 3.0, 3.05], {1: [2.0, 2.1, 1.9, 2.0, 2.05]})
    report = make_report(folder)
    assert "better than the baseline on the validation split: val/loss" in read_section(report, "summary")
    assert (
        "Changes of trial 1 with an effect that was shown on fresh seeds, alone: c0 (better), c1 (better); on top of"
        in read_section(report, "summary")
    )
    assert "on data that no sweep has seen" not in read_section(report, "limits")


def test_an_ablation_of_another_trial_says_nothing_of_the_best(tmp_path: Path) -> None:
    folder = make_sweep_folder(tmp_path / "other", values=[3.0, 2.0, 1.0], n_trials=3)
    add_ablation(folder, [-0.4, -0.6])
    report = make_report(folder)
    assert read_section(report, "summary").startswith("Nothing was confirmed. Trial 2 has the lowest")
    assert "none was changed alone" in read_section(report, "limits")
    assert "trial 1 is better" in read_section(report, "ablated")


def test_no_share_of_a_difference_that_was_not_shown(folder: Path) -> None:
    add_ablation(folder, [-1.0, 1.0], noise=0.05)
    report = make_report(folder)
    assert "trial 1: no difference from the baseline was shown on the test split" in read_section(report, "ablated")
    assert "c0: alone it is better, by -" in read_section(report, "ablated")
    assert not [name for name in report.numbers if name.endswith("share")]


def test_runs_that_diverged_or_failed_are_named(folder: Path) -> None:
    failed = {"baseline with c0": [math.inf] * 5, WITHOUT: [None]}
    add_ablation(folder, [-0.4, -0.6, 0.0], failed=failed)
    text = read_section(make_report(folder), "ablated")
    assert "c0: alone it is worse (5 of 5 runs of baseline with c0 diverged)" in text
    assert f"it has no result, since “{WITHOUT}: 1 of 1 runs failed: out of memory”" in text
    assert "The ablation of trial 1 is not complete: its status is failed, since" in text
    assert f"1 of 1 runs of {WITHOUT} failed: “out of memory”." in text
    assert "Its interaction with the others has no number" in text
    assert "Interaction of all changes: no number, since “5 of 5 runs of baseline with c0 diverged”." in text
    assert "c0 alone: “candidate: 5 of 5 seeds diverged; each counts as worse than any loss”." in text
    assert "The effects alone sum" not in text
    assert "continues it" not in text


def test_an_ablation_that_is_not_over_has_no_effects_yet(folder: Path) -> None:
    add_ablation(folder, [-0.4, -0.6, 0.0], failed={WITHOUT: [2.0]})
    report = make_report(folder)
    assert "its status is out of budget. plateau ablate apart, with the options" in read_section(report, "ablated")
    assert read_section(report, "summary").startswith("Nothing was confirmed.")
    assert "none was changed alone" in read_section(report, "limits")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [('"status": "better"', '"status": "worse"', "has status worse, its runs give better"),
     (r'("kind": "forward",[^}]*?"difference": )[^,]+', r"\g<1>-0.9", "forward c0: has difference -0.9"),
     (r'("is_shown": )\w+', r"\g<1>true", "interaction c0: has is_shown True"),
     (r'("loss": )[-.\d]+', r"\g<1>0.5", "its runs give"),
     (r'("share": )[-.\d]+', r"\g<1>0.99", "has share 0.99"),
     (r'("after": \{\s*"c0": )1', r"\g<1>2", "not those that its changes make"),
     (r'"status": "complete"', '"status": "out of budget"', "is not what its effects say"),
     (r'"changes": \[[^\]]*\]', '"changes": []', "not that of an ablation"),
     (r'"effects": \[', '"effects": [3, ', "not that of an ablation")],
)  # fmt: skip
def test_a_file_that_its_runs_contradict_is_refused(folder: Path, old: str, new: str, said: str) -> None:
    path = add_ablation(folder, [-0.4, -0.6, 0.0])
    text, count = re.subn(old, new, path.read_text(), count=1)
    assert count
    path.write_text(re.sub(r',\s*"sha256": "\w+"', "", text))
    with pytest.raises(ConfigError, match=re.escape(said)):
        make_report(folder)


def test_check_recomputes_the_ablation(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, report = add_ablation(folder, [-0.4, -0.6, 0.0]), tmp_path / "report"
    assert cli.main(["report", str(folder), "--to", str(report)]) == 0
    assert (report / "figures" / "effects.svg").is_file()
    assert cli.main(["report", "--check", str(report)]) == 0
    page = report / "index.html"
    share = json.loads((report / "report.json").read_text())["numbers"]["ablation.change_1.forward.share"]["text"]
    page.write_text(page.read_text().replace(share, "+99.9%"))
    assert cli.main(["report", "--check", str(report)]) == 1
    assert "ablation.change_1.forward.share: shows +99.9%" in capsys.readouterr().out
    edited = path.read_text().replace('"status": "better"', '"status": "worse"', 1)
    path.write_text(re.sub(r',\s*"sha256": "\w+"', "", edited))
    assert cli.main(["report", "--check", str(report)]) == 2
    assert "ablation.json: gain: has status worse" in capsys.readouterr().err


@pytest.mark.parametrize("seed", range(8))
def test_words_and_percentages_of_random_ablations(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    direction = rng.choice(["minimize", "maximize"])
    folder = make_sweep_folder(tmp_path / f"study {seed}", seed, direction=direction, n_trials=4)
    effects = [rng.choice([0.0, -0.5, 0.5, 2.0]) for _ in range(rng.choice([2, 3, 5]))]
    values = {0: None, 1: {"baseline": [math.inf, 3.0, 3.1, 2.9, 3.0]}, 2: {"winner": [math.inf] * 5},
              3: {"baseline with c1": [1.0] * 5}}[seed % 4]  # fmt: skip
    add_ablation(folder, effects, together=rng.choice([0.0, 1.0]), direction=direction, failed=values)
    report = make_report(folder, 2.5)
    check_document(report)
    check_percentages(report)
    format_report_markdown(report)
    spans = [span for text in iterate_texts(report) for span in text]
    assert not JUDGING_WORDS.search(" ".join(span for span in spans if isinstance(span, str)))
    assert seed or any(isinstance(span, Claim) for span in spans)
