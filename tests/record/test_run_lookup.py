"""Names by which a run is found, in every command."""

from pathlib import Path

import pytest

from harness.core.errors import ConfigError
from harness.record.run_lookup import RunNotFoundError, describe_study_name, find_run, list_runs, list_studies
from tests.record.run_folders import write_run, write_study

OLD, NEW, OTHER = "2026-01-02_03-04-05_mine", "2026-03-02_03-04-05_mine", "2026-02-02_03-04-05_adamw-cosine"


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three runs, two of them called `mine`, and a study of three trials; the current folder is another one."""
    folder = tmp_path / "outputs"
    write_run(folder / NEW, [1.0], run_id="abcdef" + "0" * 26)
    write_run(folder / OLD, [2.0], run_id="abcd99" + "0" * 26)
    write_run(folder / OTHER, [3.0])
    study = write_study(folder / "sweeps" / "lora-rank", tags={"best_trial": "2", "best_folder": "2"})
    for number in range(3):
        write_run(study / str(number), [1.0], run_id=f"{number}{number}{number}{number}" + "f" * 28)
    named = write_study(folder / "sweeps" / "our_team_lr_2", tags={"best_trial": "0", "best_folder": "0"})
    for number in range(2):
        write_run(named / str(number), [1.0])
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    return folder


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("last", NEW),
        (OLD, OLD),
        ("2026-01", OLD),
        ("adamw-cosine", OTHER),
        ("ada", OTHER),
        ("abcdef" + "0" * 26, NEW),
        ("abcd9", OLD),
        ("mine 2026-01-02_03-04-05", OLD),  # as MLflow names runs
        ("lora-rank/1 adamw 3e-3", "sweeps/lora-rank/1"),
        ("our team/lr 2/1 adamw 3e-3", "sweeps/our_team_lr_2/1"),
        ("our team/lr 2/best", "sweeps/our_team_lr_2/0"),
        ("our te/1", "sweeps/our_team_lr_2/1"),
        ("lora-rank/best", "sweeps/lora-rank/2"),
        ("lora-rank/0", "sweeps/lora-rank/0"),
        ("lo/1", "sweeps/lora-rank/1"),
        ("sweeps/lora-rank/best", "sweeps/lora-rank/2"),
        ("1111", "sweeps/lora-rank/1"),
        ("../outputs/adamw-cosine", OTHER),
        ("../outputs/sweeps/lora-rank/best", "sweeps/lora-rank/2"),
        ("{outputs}/sweeps/lora-rank/best", "sweeps/lora-rank/2"),
    ],
)
def test_run_is_found_by_what_it_is_called(name, found, outputs) -> None:
    assert find_run(name.format(outputs=outputs), outputs, "RUN").resolve() == outputs / found


def test_path_in_the_current_folder_comes_first(outputs) -> None:
    Path("mine").mkdir()
    assert find_run("mine", outputs, "RUN") == Path("mine")


def test_last_is_the_newest_run_whatever_is_in_the_current_folder(outputs) -> None:
    Path("last").mkdir()
    assert find_run("last", outputs, "RUN").name == NEW
    assert find_run("./last", outputs, "RUN") == Path("last")


@pytest.mark.parametrize("name", ["mine", "../outputs/mine"])
def test_name_of_several_runs_is_the_newest_and_says_so_once(name, outputs, capsys) -> None:
    assert [find_run(name, outputs, "start.run").name for _ in range(2)] == [NEW, NEW]
    line = f"start.run: 'mine' is the newest of 2 runs with this name, {NEW}; name others by folder\n"
    assert capsys.readouterr().err == line


def test_run_and_study_of_one_name_are_listed(outputs) -> None:
    write_study(outputs / "sweeps" / "mine")
    with pytest.raises(ConfigError, match="'mine' stands for 3 runs"):
        find_run("mine", outputs, "RUN", takes_studies=True)
    assert find_run("mine", outputs, "RUN").name == NEW


def test_ambiguous_beginning_lists_the_runs_newest_first(outputs) -> None:
    with pytest.raises(ConfigError) as error:
        find_run("min", outputs, "start.run")
    assert str(error.value) == f"start.run: 'min' stands for 2 runs; name one of them:\n  {NEW}\n  {OLD}"
    assert not isinstance(error.value, RunNotFoundError)
    with pytest.raises(ConfigError, match="'abcd' stands for 2 runs"):
        find_run("abcd", outputs, "RUN")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mien", "is not a file, a folder, or a run in {outputs}; did you mean 'mine'? `plateau list` shows all"),
        ("lora-rnk/best", "did you mean 'lora-rank/best'?"),
        ("zzz", "is not a file, a folder, or a run in {outputs}; see `plateau list`"),
        ("", "is not a file, a folder, or a run in"),
        ("a" * 5000, "is not a file, a folder, or a run in"),
        ("nul\0", "is not a file, a folder, or a run in"),
        ("lora-rank/7", "has no folder of trial 7; it has 0 to 2"),
    ],
)
def test_name_that_is_not_found_names_the_nearest(name, message, outputs) -> None:
    with pytest.raises(RunNotFoundError) as error:
        find_run(name, outputs, "RUN")
    assert message.format(outputs=outputs) in str(error.value)
    assert "\n" not in str(error.value)


def test_study_is_no_run(outputs) -> None:
    assert find_run("lora", outputs, "RUN", takes_studies=True) == outputs / "sweeps" / "lora-rank"
    for name in ("lora-rank", str(outputs / "sweeps" / "lora-rank")):
        with pytest.raises(ConfigError, match=r"is a study; name one of its trials: lora-rank/best or lora-rank/3"):
            find_run(name, outputs, "RUN")


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({}, "no trial in .* has completed yet"),
        ({"best_trials": "0,2"}, "several objectives .*; use lora-rank/0 or lora-rank/2"),
        ({"best_trial": "../../2026"}, "no trial in .* has completed yet"),
    ],
)
def test_study_without_one_best_trial(tags, message, outputs) -> None:
    for path in (outputs / "sweeps" / "lora-rank").glob("*.json"):
        path.unlink()
    write_study_files(outputs / "sweeps" / "lora-rank", tags)
    with pytest.raises(ConfigError, match=message):
        find_run("lora-rank/best", outputs, "RUN")


def write_study_files(folder: Path, tags: dict[str, str]) -> None:
    for path in write_study(folder.with_name("draft"), tags=tags).iterdir():
        path.rename(folder / path.name)


def test_damaged_summary_is_named(outputs) -> None:
    (outputs / "sweeps" / "lora-rank" / "summary.json").write_text("{")
    with pytest.raises(ConfigError, match=r"summary.json is damaged.*; name a trial by its number"):
        find_run("lora-rank/best", outputs, "RUN")


def test_prefix_is_not_taken_where_it_may_be_another_name(outputs) -> None:
    with pytest.raises(RunNotFoundError):
        find_run("ada", outputs, "RUN", takes_prefixes=False)


def test_second_run_in_a_second_has_the_same_name(outputs) -> None:
    write_run(outputs / f"{OTHER}_1", [1.0])
    assert find_run("adamw-cosine", outputs, "RUN").name == f"{OTHER}_1"
    write_run(outputs / "2026-02-02_03-04-05_gpt_2", [1.0])  # there is no gpt of that second
    assert find_run("gpt_2", outputs, "RUN").name.endswith("gpt_2")


def test_last_without_runs(tmp_path) -> None:
    with pytest.raises(RunNotFoundError, match=r"there is no run in .* yet"):
        find_run("last", tmp_path, "RUN")
    write_study(tmp_path / "sweeps" / "one")
    with pytest.raises(RunNotFoundError, match="trials are STUDY/best or STUDY/3"):
        find_run("last", tmp_path, "RUN")


def test_runs_and_studies_are_listed_newest_first(outputs) -> None:
    assert [run.path.name for run in list_runs(outputs)] == [NEW, OTHER, OLD]
    assert [run.name for run in list_runs(outputs)] == ["mine", "adamw-cosine", "mine"]
    assert [study.name for study in list_studies(outputs)] == ["our_team_lr_2", "lora-rank"]
    assert list_runs(outputs / "absent") == []


def test_a_study_is_called_by_its_name_where_that_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere, and where a file of the current folder has this name, it is called by its path."""
    monkeypatch.chdir(tmp_path)
    study = write_study(tmp_path / "multirun/train")
    assert describe_study_name(study) == "train"
    assert describe_study_name(write_study(tmp_path / "logs/other")) == "logs/other"
    Path("train").mkdir()
    assert describe_study_name(study) == "multirun/train"
    assert find_run("multirun/train", tmp_path, "STUDY", takes_studies=True).resolve() == study.resolve()
