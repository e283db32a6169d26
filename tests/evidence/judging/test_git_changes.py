import subprocess
from pathlib import Path

import pytest

from harness.core.errors import ConfigError
from harness.evidence.judging.git_changes import (
    ChangedLines,
    find_commit,
    find_repository,
    has_commit,
    is_seed_change,
    list_changed_files,
    list_changed_lines,
)
from harness.evidence.judging.run_log import LoggedConfig, LoggedRun


def commit_files(repo: Path, **files: str) -> str:
    for name, text in files.items():
        (repo / f"{name}.py").write_text(text)
    who = ("-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false")
    for words in (("add", "-A"), (*who, "commit", "-qm", "change", "--allow-empty")):
        subprocess.run(["git", "-C", str(repo), *words], check=True)
    found = subprocess.run(["git", "-C", str(repo), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return found.stdout.strip()


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    return tmp_path


def test_changed_evaluation_code_and_changed_seeds(repo: Path) -> None:
    table = repo / "results.tsv"
    base = commit_files(repo, train="seed = 42\nlr = 1\n", prepare="N = 10\n")
    table.write_text("logged")
    lucky = commit_files(repo, train="seed = 137\nlr = 1\n")
    wider = commit_files(repo, train="seed = 42\nlr = 2\n")
    cheat = commit_files(repo, prepare="N = 1\n")
    same = commit_files(repo)
    assert list_changed_lines(repo, base, lucky, table) == ChangedLines(("seed = 42",), ("seed = 137",))
    assert is_seed_change(list_changed_lines(repo, base, lucky, table))
    assert not is_seed_change(list_changed_lines(repo, lucky, wider, table))
    assert list_changed_lines(repo, cheat, same, table) == ChangedLines((), ())
    assert not is_seed_change(ChangedLines((), ()))
    assert list_changed_files(repo, base, wider, ["prepare.py"]) == []
    assert list_changed_files(repo, base, cheat, ["prepare.py"]) == ["prepare.py"]
    assert find_repository(repo) == repo.resolve()
    assert has_commit(repo, base)
    assert not has_commit(repo, "0" * 40)
    with pytest.raises(ConfigError, match=r"--eval-code: eval.py: not in commit"):
        list_changed_files(repo, base, cheat, ["eval.py"])


@pytest.mark.parametrize(
    ("removed", "added"),
    [
        ("seed = 42", "seed = 137  # better"),
        ("train(seed=1, lr=3e-4)", "train(seed=2, lr=3e-4)"),
        ("train(lr=3e-4)", "train(lr=3e-4, seed=2)"),
        ("", "torch.manual_seed(137)"),
        ("torch.manual_seed(seed)", "torch.manual_seed(seed + 1000)"),
        ("rng = np.random.default_rng(seed=1)", "rng = np.random.default_rng(seed=2)"),
        ("rng = np.random.default_rng(1)", "rng = np.random.default_rng(2)"),
        ('cfg["seed"] = 1', 'cfg["seed"] = 2'),
        ('{"seed": 1, "lr": 3}', '{"seed": 2, "lr": 3}'),
        ("seed: int = 1", "seed: int = 2"),
        ("python train.py --lr 1", "python train.py --lr 1 --seed 7"),
        ('parser.add_argument("--seed", type=int, default=1)', 'parser.add_argument("--seed", type=int, default=2)'),
        ('int(os.environ.get("SEED", 1))', 'int(os.environ.get("SEED", "2"))'),
        ("for seed in [1, 2]:", "for seed in [3, 4]:"),
        ("split(random_state=1)", "split(random_state=2)"),
    ],
)
def test_seeds_in_any_notation_are_no_change(removed: str, added: str) -> None:
    before, after = (("keep = 1", line) if line else ("keep = 1",) for line in (removed, added))
    assert is_seed_change(ChangedLines(before, after))


@pytest.mark.parametrize(
    ("removed", "added"),
    [
        ("train(seed=1, lr=3e-4)", "train(seed=1, lr=1e-3)"),
        ("train(seed=1, lr=3e-4)", "train(seed=2, lr=1e-3)"),
        ("", "seed_everything(1); lr = 1e-3"),
        ("n_seeds = 3", "n_seeds = 5"),
        ("seed_ratio = 0.3", "seed_ratio = 0.5"),
        ("torch.manual_seed(seed)", "torch.manual_seed(seed); model = compile(model)"),
        ('load("seed_corpus.txt")', 'load("seed_corpus_large.txt")'),
        ("", "seed_model = build(depth=4)"),
    ],
)
def test_other_changes_beside_a_seed_are_changes(removed: str, added: str) -> None:
    before, after = ((line,) if line else () for line in (removed, added))
    assert not is_seed_change(ChangedLines(before, after))


@pytest.mark.parametrize(
    ("cell", "expected"),
    [("a1b2c3d", "a1b2c3d"), ("a1b2c3d-dirty", None), ("--output=x", None), ("HEAD", None), ("exp1", None)],
)
def test_only_hashes_are_commits(cell: str, expected: str | None) -> None:
    assert find_commit(LoggedConfig("a", (LoggedRun(1, "a", "a", 1.0, cells={"commit": cell}),)), "commit") == expected
