"""The command report: what it writes, refuses, checks and logs."""

import json
import re
from pathlib import Path

import pytest

from harness import cli
from harness.core.errors import ConfigError
from harness.evidence.report.report_files import check_report_folder
from harness.tracking import store_uri
from tests.commands.test_compare import write_log
from tests.evidence.report.study_folders import add_confirmation, make_sweep_folder
from tests.tracking.stores import free_port, new_store, only_run
from tests.tracking.test_sweep_uploader import write_sweep_json


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = make_sweep_folder(tmp_path / "outputs" / "sweeps" / "tuned", values=[2.0, 1.5, 1.8], n_trials=3)
    add_confirmation(folder, [2.0, 2.1, 1.9, 2.0, 2.05], {1: [1.5, 1.6, 1.4, 1.5, 1.45]})
    return folder


@pytest.fixture
def report(study: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "report"
    assert cli.main(["report", str(study), "--to", str(folder), "--price-per-hour", "2.5"]) == 0
    return folder


def check(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capsys.readouterr()
    return cli.main(["report", "--check", str(folder)]), capsys.readouterr().out


def test_a_report_is_written_and_checked(report, capsys) -> None:
    assert sorted(path.name for path in report.iterdir()) == ["figures", "index.html", "report.json", "report.md"]
    markdown = (report / "report.md").read_text()
    assert "**trial 1 is better than the baseline" in markdown
    for name in re.findall(r"\]\((figures/[^)]+)\)", markdown):
        assert (report / name).read_text().startswith("<svg")
    numbers = json.loads((report / "report.json").read_text())["numbers"]
    assert numbers["best.relative"]["source"] == {"formula": "best.difference / abs(trial_0.value) * 100"}
    assert numbers["trial_1.value"]["source"]["read_from"] == "tuned/1"
    ids = set(re.findall(r'data-number="([^"]+)"', (report / "index.html").read_text()))
    assert ids <= numbers.keys()
    assert {"best.relative", "confirm.trial_1.low", "cost.total.money"} <= ids
    assert check(report, capsys)[0] == 0


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [("report.md", "-25.0%", "-35.0%", "report.md, line"),
     ("report.md", "is better than", "is far better than", "report.md, line"),
     ("index.html", "-25.0%", "-35.0%", "index.html: best.relative: shows -35.0%, the sources give -25.0%"),
     ("index.html", "is chosen partly for its luck", "is 30% lower", "index.html, line"),
     ("report.json", '"value": 1.8,', '"value": 1.7,', "trial_2.value: value is 1.7, the sources give 1.8"),
     ("report.json", '"best.difference', '"best.other', "best.difference"),
     ("figures/curves.svg", "<path", "<!-- --><path", "curves.svg, line")],
)  # fmt: skip
def test_an_edited_number_or_word_is_found(report, capsys, name, old, new, said) -> None:
    text = (report / name).read_text()
    assert old in text
    (report / name).write_text(text.replace(old, new, 1))
    status, printed = check(report, capsys)
    assert status == 1
    assert said in printed


def test_a_report_of_another_version_is_checked_by_its_numbers_and_digests(report, capsys) -> None:
    """The words of another version cannot be made again, and differ without fault."""
    path = report / "report.json"
    path.write_text(re.sub(r'"renderer": "\w+"', '"renderer": "0123"', path.read_text()))
    assert check(report, capsys)[0] == 0
    page = report / "index.html"
    page.write_text(page.read_text().replace("-25.0%", "-35.0%"))
    status, printed = check(report, capsys)
    assert status == 1
    assert "index.html: changed since another version" in printed
    assert "index.html: best.relative: shows -35.0%, the sources give -25.0%" in printed
    (report / "report.md").write_text("")
    assert "report.md: changed" in check(report, capsys)[1]


@pytest.mark.parametrize("price", ["abc", [1], True])
def test_edited_inputs_are_invalid(report, capsys, price) -> None:
    content = json.loads((report / "report.json").read_text())
    content["inputs"]["price_per_hour"] = price
    (report / "report.json").write_text(json.dumps(content))
    assert check(report, capsys)[0] == 2


def test_a_changed_source_is_found(report, study, capsys) -> None:
    add_confirmation(study, [2.0, 2.1, 1.9, 2.0, 2.05], {1: [1.9, 2.1, 2.0, 2.0, 2.0]})
    status, printed = check(report, capsys)
    assert status == 1
    assert "confirm.trial_1.difference: value is -0.52" in printed


def test_a_missing_source_or_report_is_invalid_input(report, study, tmp_path, capsys) -> None:
    (study / "study.journal").rename(study / "journal.moved")
    assert check(report, capsys)[0] == 2
    study.rename(tmp_path / "elsewhere")
    assert check(report, capsys)[0] == 2
    assert check(tmp_path / "nothing", capsys)[0] == 2
    (report / "report.json").write_text("[]")
    assert check(report, capsys)[0] == 2


def test_a_report_that_moved_with_its_sources_is_checked(report, study, tmp_path, capsys) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    (tmp_path / "outputs").rename(moved / "outputs")
    report.rename(moved / "report")
    assert check(moved / "report", capsys)[0] == 0


def test_a_second_report_replaces_the_first(report, study) -> None:
    (report / "figures" / "old.svg").write_text("<svg/>")
    assert cli.main(["report", str(study), "--to", str(report)]) == 0
    assert not (report / "figures" / "old.svg").exists()
    assert 'price_per_hour": null' in (report / "report.json").read_text()
    assert not list(report.parent.glob("report.*"))


def test_a_folder_with_other_files_is_refused(report, study, tmp_path, capsys) -> None:
    (report / "thesis.tex").write_text("years of work")
    assert cli.main(["report", str(study), "--to", str(report)]) == 2
    assert "thesis.tex" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    other = tmp_path / "other"
    (other / "figures").mkdir(parents=True)
    (other / "figures" / "a.png").write_text("")
    (tmp_path / "link").symlink_to(report)
    for folder in (tmp_path / "file", other, tmp_path / "link", tmp_path):
        with pytest.raises(ConfigError, match="--to: "):
            check_report_folder(folder)


def test_runs_and_logs(tmp_path, capsys) -> None:
    logs = [str(write_log(tmp_path / "first.log", 4.0)), str(write_log(tmp_path / "second.log", 3.8, 9))]
    folder = tmp_path / "report"
    assert cli.main(["report", *logs, "--to", str(folder)]) == 0
    markdown = (folder / "report.md").read_text()
    assert "The best validation loss of B is 3.0000, against 3.5000 of A: a difference of -0.5000 (-14.3% =" in markdown
    assert check(folder, capsys)[0] == 0
    Path(logs[1]).write_text(Path(logs[1]).read_text().replace("3.0000", "2.9000"))
    assert check(folder, capsys)[0] == 1
    assert cli.main(["report", logs[0], "--to", str(folder)]) == 0
    assert "It is one run." in (folder / "report.md").read_text()
    assert check(folder, capsys)[0] == 0


def test_a_run_of_ours(finished, tmp_path, capsys) -> None:
    folder = tmp_path / "report"
    assert cli.main(["report", str(finished), "--to", str(folder), "--price-per-hour", "1"]) == 0
    markdown = (folder / "report.md").read_text()
    assert "of 2 met" in markdown
    assert "nats/token" in markdown
    assert check(folder, capsys)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--to", "x"], "STUDY|RUN: missing"),
        (["nothing", "--to", "x"], "nothing"),
        (["a", "--check", "x"], "--check: takes"),
        (["a", "--price-per-hour", "free", "--to", "x"], "not a price"),
        (["a", "--price-per-hour", "-1", "--to", "x"], "not a price"),
    ],
)
def test_invalid_input(arguments, said, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_study_among_runs_is_refused(study, capsys) -> None:
    assert cli.main(["report", str(study), str(study / "1"), "--to", "x"]) == 2
    assert "is a study" in capsys.readouterr().err


@pytest.fixture
def uploaded(study, tmp_path, monkeypatch) -> Path:
    """Return the sweep of `study`, whose parent run is in a store."""
    store = new_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    for trial in study.glob("[0-9]*"):
        (trial / "trial_record.jsonl").rename(trial / "record.moved")  # only the parent is wanted
    write_sweep_json(study, store)
    assert cli.main(["sync", str(study)]) == 0
    for trial in study.glob("[0-9]*"):
        (trial / "record.moved").rename(trial / "trial_record.jsonl")
    return study


def test_the_report_is_logged_to_the_run_of_the_sweep(uploaded, tmp_path, capsys) -> None:
    folder = tmp_path / "report"
    assert cli.main(["report", str(uploaded), "--to", str(folder)]) == 0
    assert "note:" not in capsys.readouterr().err
    client, run = only_run(f"sqlite:///{tmp_path}/mlflow.db")
    logged = {file.path for file in client.list_artifacts(run.info.run_id, "report")}
    assert logged == {"report/index.html", "report/report.md", "report/report.json", "report/figures"}


def test_a_store_that_is_gone_or_not_the_users_is_a_note(uploaded, tmp_path, monkeypatch, capsys) -> None:
    folder = str(tmp_path / "report")
    (tmp_path / "mlflow.db").rename(tmp_path / "moved.db")
    assert cli.main(["report", str(uploaded), "--to", folder]) == 0
    assert "note: the report is not in MLflow: there is no store" in capsys.readouterr().err
    assert not (tmp_path / "mlflow.db").exists()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert cli.main(["report", str(uploaded), "--to", folder]) == 0
    assert "not your tracking store" in capsys.readouterr().err
    (tmp_path / "moved.db").rename(tmp_path / "mlflow.db")
    (tmp_path / "config.yaml").write_text(f"tracking:\n  uri: sqlite:///{tmp_path}/mlflow.db\n")
    monkeypatch.setattr(store_uri, "config_dir", lambda: tmp_path)  # the configuration of a checkout names it
    assert cli.main(["report", str(uploaded), "--to", folder]) == 0
    assert "note:" not in capsys.readouterr().err
    server = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    write_sweep_json(uploaded, server)
    assert cli.main(["report", str(uploaded), "--to", folder]) == 0
    assert "refused" in capsys.readouterr().err
