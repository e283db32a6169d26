"""plateau judge: options, output, exit status."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli import main
from tests.conftest import ROOT
from tests.evidence.judging.loops import baseline_rows, write_table
from tests.evidence.judging.test_git_changes import commit_files
from tests.evidence.judging.test_study_runs import make_study

KEPT, NOISE, WORSE = (f"bbbbbb2  {value}  4.1  run  wider" for value in (1.265, 1.284, 1.295))


@pytest.mark.parametrize(
    ("rows", "status", "verdict"),
    [
        ([*baseline_rows(), KEPT], 0, "keep"),
        ([*baseline_rows(), NOISE], 1, "discard"),
        ([*baseline_rows(), WORSE], 1, "discard"),
        ([*baseline_rows()[:2], KEPT], 2, "cannot tell"),
        ([*baseline_rows(), "bbbbbb2  0.0  0.0  crash  wider"], 2, "not comparable"),
    ],
)
def test_exit_status_and_documents(tmp_path, capsys, rows: list[str], status: int, verdict: str) -> None:
    table = str(write_table(tmp_path, *rows))
    assert main(["judge", table]) == status
    output = capsys.readouterr().out
    assert output.startswith(verdict.upper())
    assert ("99.952% interval [-" in output) == (verdict == "keep" or NOISE in rows)
    assert main(["judge", table, "--json"]) == status
    document = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert (document["schema"], document["verdict"], document["exit_status"]) == (1, verdict, status)
    assert document["reasons"]


def test_the_json_keys_are_those_of_the_page(tmp_path, capsys) -> None:
    main(["judge", str(write_table(tmp_path, *baseline_rows(), KEPT)), "--json"])
    page = (ROOT / "docs" / "judging.md").read_text()
    for key, value in json.loads(capsys.readouterr().out).items():
        assert f"`{key}`" in page
        for inner in value if isinstance(value, dict) else []:
            assert f"`{inner}`" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metric", "loss"], "--metric: loss: there is no such column"),
        (["--candidate", "zzz"], "--candidate: zzz: no row"),
        (["--candidate", "row=2"], None),
        (["--ignore", "zzz"], "--ignore: zzz"),
        (["--repo", "."], "--repo"),
        (["--storage", "sqlite:///a.db"], "--storage: the database of a study"),
        (["--eval-code", "prepare.py"], "--eval-code"),
        (["--maximize", "--minimize"], "not allowed with"),
    ],
)
def test_invalid_options_end_with_status_2(tmp_path, capsys, monkeypatch, arguments: list[str], message) -> None:
    table = str(write_table(tmp_path, *baseline_rows(), KEPT))
    monkeypatch.chdir(tmp_path)
    assert main(["judge", table, *arguments]) == 2
    shown = capsys.readouterr()
    assert (message or "its only change is the seed") in (shown.err if message else shown.out)


def test_commits_of_the_table_are_compared(tmp_path, capsys) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    base = commit_files(tmp_path, train="seed = 42\nlr = 1\n", prepare="N = 10\n")
    lucky = commit_files(tmp_path, train="seed = 137\nlr = 1\n")
    cheat = commit_files(tmp_path, train="lr = 3\n", prepare="N = 1\n")
    rows = [row.replace("aaaaaa1", base) for row in baseline_rows()]
    by_seed = write_table(tmp_path, *rows, f"{lucky}  1.265  4.1  run  better training")
    assert main(["judge", str(by_seed)]) == 2
    assert "differ in the seed only" in capsys.readouterr().out.replace("\n            ", " ")
    by_cheat = write_table(tmp_path, *rows, f"{cheat}  1.265  4.1  run  better training")
    assert main(["judge", str(by_cheat)]) == 0
    assert "--eval-code prepare.py" in capsys.readouterr().out.replace("\n            ", " ")
    by_flags = write_table(tmp_path, *rows, f"{base}  1.265  4.1  run  --lr 3e-4", name="flags.tsv")
    assert main(["judge", str(by_flags)]) == 0
    assert "do not differ" in capsys.readouterr().out
    assert main(["judge", str(by_cheat), "--eval-code", "prepare.py"]) == 2
    assert "prepare.py" in capsys.readouterr().out
    assert main(["judge", str(by_cheat), "--eval-code", "train.py", "--repo", str(tmp_path)]) == 2


def test_a_direction_against_the_name_of_the_metric_is_noted(tmp_path, capsys) -> None:
    assert main(["judge", str(write_table(tmp_path, *baseline_rows(), KEPT)), "--maximize"]) == 1
    assert "whose name says that less is better" in capsys.readouterr().out.replace("\n            ", " ")


def test_a_study_is_judged_by_its_folder(tmp_path, capsys) -> None:
    make_study(tmp_path / "lr", [1.285, 1.2862, 1.2841, 1.2855], [(0.1, 1.29), (0.2, 1.2)])
    assert main(["judge", str(tmp_path / "lr")]) == 0
    assert "trial 5" in capsys.readouterr().out
    assert main(["judge", str(tmp_path / "lr"), "--metric", "loss"]) == 2


def test_a_study_in_a_database_is_judged(tmp_path, capsys) -> None:
    storage = f"sqlite:///{tmp_path}/studies.db"
    make_study(tmp_path / "lr", [1.285, 1.2862, 1.2841, 1.2855], [(0.1, 1.29), (0.2, 1.2)], storage)
    assert main(["judge", str(tmp_path / "lr"), "--storage", storage]) == 0
    assert "of this test alone" in capsys.readouterr().out.replace("\n            ", " ")


def test_a_table_loads_no_training_library(tmp_path) -> None:
    table = write_table(tmp_path, *baseline_rows(), KEPT)
    code = (
        f"import sys; from harness.cli import main; main(['judge', {str(table)!r}]);"
        "sys.exit(str({'torch', 'mlflow', 'optuna', 'hydra', 'transformers'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.strip() == "set()"


def test_a_folder_that_is_no_study_is_refused(tmp_path: Path, capsys) -> None:
    assert main(["judge", str(tmp_path)]) == 2
    assert "not that of a study" in capsys.readouterr().err
