"""Invalid sweeps: one message with key, value and remedy, exit status 2, and nothing written."""

import os

import pytest

from tests.config.test_locks import FIXED
from tests.conftest import drop_announcements, run_main, run_script
from tests.sweep.tiny_sweeps import TINY, start_study, study_folder

GRID = "sweeps=grid"
NONE = "hydra.sweeper.params=null"
RANGE = "optimizer.lr=tag(log,interval(1e-4,1e-1))"

TABLE = [
    # overrides, and parts of the expected message
    (["optimizr.lr=interval(1e-4,1e-2)"], ["optimizr.lr: no such key", "did you mean optimizer.lr?"]),
    (["optimizer.lrr=1e-4,1e-2"], ["optimizer.lrr: no such key; did you mean optimizer.lr?"]),
    (["+optimizer.foo=1,2"], ["optimizer.foo: torch.optim.AdamW has no parameter 'foo'"]),
    (["optimizer=1,2"], ["optimizer=1,2: a config group takes option names, not numbers"]),
    (["optimizer=interval(1,2)"], ["optimizer=interval(1.0,2.0)", "list them: optimizer=adamw"]),
    (["data.source=1,2", "sweep.allow=[data]"], ["data.source: a section with several keys"]),
    (["lora.rank=interval(2,64)"], ["lora.rank: 2.0 is not a whole number", "write lora.rank=int(interval(2,64))"]),
    (["batch.batch_size=interval(4,8)"], ["batch.batch_size", "write batch.batch_size=int(interval(4,8))"]),
    (["lora.rank=0,2,4"], ["rank=0 must be a whole number of at least 1", "(found at lora.rank=0)"]),
    (["loop.grad_clip=interval(0,10)"], ["loop.grad_clip: 0.0 must be above 0 (found at loop.grad_clip=0.0)"]),
    (["loop.grad_clip=interval(-1,10)"], ["loop.grad_clip: -1.0 must be above 0"]),
    (["schedule.warmup_ratio=interval(0,2)"], ["warmup_ratio=2.0", "(found at schedule.warmup_ratio=2.0)"]),
    (["optimizer.lr=tag(log,interval(0,1))"], ["optimizer.lr=tag(log,interval(0,1)): ", "must start above 0"]),
    (["optimizer.lr=interval(1e-2,1e-4)"], ["lower bound is above", "write 'optimizer.lr=interval(1e-4,1e-2)'"]),
    (["optimizer.lr=interval(1e-4,inf)"], ["optimizer.lr=interval(1e-4,inf)", "finite"]),
    (["optimizer.lr=interval(1,1)"], ["optimizer.lr=interval(1,1)", "one value", "write optimizer.lr=1.0"]),
    (["optimizer.lr=choice(0.1)"], ["only one value, so nothing to search; write optimizer.lr=0.1"]),
    (["lora.rank=2,4,2"], ["lora.rank=2,4,2: a value is listed twice"]),
    (["lora.rank=range(4,4)"], ["lora.rank=range(4,4): the range is empty", "exclude high"]),
    (["lora.rank=shuffle(2,4)"], ["lora.rank=shuffle(2,4)", "every worker would shuffle the list differently"]),
    (["optimizer.lr=interval(1e-4)"], ["optimizer.lr=interval(1e-4)", "missing a required argument: 'end'"]),
    (["optimizer=glob(*)"], ["optimizer=glob(*): glob is not supported in a sweep; list the options"]),
    (["optimizer=adamw,addam"], ["optimizer has no option 'addam'", "did you mean 'adam'?"]),
    (["start=scratch,warm"], ["start.source: has no value", "(found at start=warm)"]),
    (["model=gpt_tiny,hf"], ["model=hf"]),
    (["lora=all_linear,none", "lora.rank=2,4"], ["lora.rank: no such key under lora=none", "into sweep.conditional"]),
    (["sweep.n_trials=3,4"], ["sweep.n_trials=3,4: sweep.n_trials does not affect the result of a run"]),
    (["pruner=median,none"], ["pruner=median,none: pruner does not affect the result of a run"]),
    (["output_dir=a,b"], ["output_dir=a,b", "give it one value"]),
    # searches that would change the meaning of the objective
    (["tokenizer.vocab_size=512,1024"], ["tokenizer.vocab_size", "'sweep.allow=[tokenizer.vocab_size]'"]),
    (["data.val_fraction=0.005,0.01"], ["val_fraction: it determines the data", "'sweep.allow=[data.val_fraction]'"]),
    (["task=causal_lm,other"], ["task: it determines what is learned", "'sweep.allow=[task]'"]),
    (["loop.max_steps=4,8"], ["loop.max_steps: it determines the token budget"]),
    (["loop.epochs=1,2"], ["loop.epochs: it determines the token budget"]),
    (["loop.max_tokens=1000,2000"], ["loop.max_tokens: it determines the token budget"]),
    (["loop.evals=2,4"], ["loop.evals: it determines how many evaluations"]),
    (["loop.eval_every=2,4"], ["loop.eval_every: it determines how many evaluations"]),
    (["batch.batch_size=4,8"], ["780 tokens", "loop.max_tokens=388 loop.max_steps=null", "at batch.batch_size=8"]),
    (["sweep.allow=[optimizer.lrr]"], ["sweep.allow: 'optimizer.lrr' is not searched", "did you mean 'optimizer.lr'?"]),
    # invalid search options
    (["sweep.objectives=[best_val_loss,tokens]"], ["pruner=pausing", "several objectives", "use pruner=none"]),
    (["pruner=median", "+pruner.n_startup_trial=3"], ["pruner.n_startup_trial", "did you mean 'n_startup_trials'?"]),
    (["pruner=median", "pruner.n_warmup_steps=abc"], ["pruner.n_warmup_steps: 'abc' is not a whole number"]),
    (["pruner=median", "pruner.n_startup_trials=-1"], ["pruner", "n_startup_trials=-1"]),
    (["pruner=mediann"], ["pruner=mediann", "did you mean 'median'?"]),
    (["pruner._target_=os.system"], ["pruner", "os.system"]),
    (["+hydra.sweeper.sampler.n_startup_trial=1"], ["sampler.n_startup_trial", "did you mean 'n_startup_trials'?"]),
    (["hydra/sweeper/sampler=tpee"], ["hydra/sweeper/sampler=tpee", "did you mean 'tpe'?"]),
    (["hydra.sweeper.direction=maximize"], ["direction: maximize", "best_val_loss can only be minimized"]),
    (["hydra.sweeper.max_failure_rate=2"], ["hydra.sweeper.max_failure_rate: 2", "from 0 to 1"]),
    (["hydra.sweeper.custom_search_space=os.system"], ["custom_search_space: os.system is not trusted"]),
    (["sweep.ntrials=3"], ["sweep.ntrials=3", "did you mean sweep.n_trials=3?"]),
    (["sweep.n_trials=0"], ["sweep.n_trials: 0 must be at least 1"]),
    (["hydra.sweeper.n_trials=0"], ["n_trials: 0 must be at least 1"]),
    (["sweep.n_trials=many"], ["sweep.n_trials", "'many'"]),
    (["hydra.sweeper=text"], ["hydra.sweeper: 'text' has no _target_"]),
    (["hydra.callbacks.parent_run=true"], ["hydra.callbacks.parent_run: True has no _target_"]),
    (["hydra.sweeper.max_failure_rate=[1]"], ["hydra.sweeper.max_failure_rate: [1]"]),
    (["observers=default", "observers.mlflow=nan"], ["observers.mlflow: no _target_, nan"]),
    (["hydra.sweeper.storage={a:1}"], ["sweep.storage"]),
    (["sweep.n_jobs=-1"], ["sweep.n_jobs: -1 must be at least 1"]),
    (["sweep.study=' '"], ["sweep.study: ' ' must be a name in one line"]),
    (["hydra.sweep.dir=/proc/sweep"], ["hydra.sweep.dir: /proc", "cannot be written to"]),
    (["hydra.sweep.subdir=${hydra.job.override_dirname}"], ["hydra.sweep.subdir: ", "named by their numbers"]),
    (["sweep.storage=nowhere"], ["sweep.storage: 'nowhere'", "postgresql+psycopg://"]),
    (["sweep.storage=postgresql+psycopg://u:secret@127.0.0.1:1/x"], ["sweep.storage: postgresql+psycopg://127.0.0.1"]),
    (["sweep.storage=mysql+nodriver://u:secret@127.0.0.1:1/x"], ["sweep.storage: mysql+nodriver://127.0.0.1:1/x"]),
    (["sweep.objectives=[accuracy]"], ["sweep.objectives: ['accuracy']", "best_val_loss, tokens"]),
    (["sweep.objectives=[tokens,tokens]"], ["sweep.objectives", "distinct names"]),
    (["sweep.objectives=[best_val_loss,test_loss]"], ["sweep.objectives: test_loss is measured on the test split",
     "plateau confirm"]),
    (["sweep.objectives=[test_loss]"], ["sweep.objectives: test_loss", "a sweep must not choose"]),
    (["data.test_share=0.1", "score_test=true"], ["score_test: true: a sweep that scores the test split", "confirm"]),
    (["data.test_share=0.1", "score_test=true,false"], ["score_test", "give it one value"]),
    (["data.test_share=0.1,0.2"], ["data.test_share: it determines the data"]),
    (["sweep.objectives=best_val_loss"], ["sweep.objectives: 'best_val_loss' must be a list", "[best_val_loss]"]),
    (["sweep.max_seconds=-3"], ["sweep.max_seconds: -3.0 must be above 0"]),
    (["sweep.max_tokens=10"], ["sweep.max_tokens: 10 is less than the", "tokens of one run; set at least that many"]),
    (["sweep.runs=nan"], ["sweep.runs: nan must be a number of at least 1, one whole run"]),
    (["sweep.max_tokens=0"], ["sweep.max_tokens: 0 must be at least 1"]),
    (["sweep.patience=0"], ["sweep.patience: 0 must be at least 1"]),
    (["sweep.patience=2", "sweep.objectives=[best_val_loss,tokens]"], ["sweep.patience", "must be null"]),
    (["sweep.max_failures=0"], ["sweep.max_failures: 0 must be at least 1"]),
    (["sweep.keep=-1"], ["sweep.keep: -1 must not be below 0"]),
    (["sweep.baseline=maybe"], ["sweep.baseline", "'maybe'"]),
    (["sweep.dry_run=perhaps"], ["sweep.dry_run", "'perhaps'"]),
    (["sweep.allow=loop.evals"], ["sweep.allow: 'loop.evals' must be a list; write 'sweep.allow=[loop.evals]'"]),
    (["sweep.enqueue=3"], ["sweep.enqueue: 3 must be a list"]),
    (["sweep.enqueue=[3]"], ["sweep.enqueue: 3 must map searched keys to values", "{optimizer.lr: 0.01}"]),
    (["sweep.enqueue=[{optimizer.lr: 5}]"], ["sweep.enqueue: optimizer.lr: 5 is outside tag(log,interval("]),
    (["sweep.enqueue=[{optimizer.lr: '0.01'}]"], ["sweep.enqueue: optimizer.lr: 0.01 is outside"]),
    (["lora.rank=int(interval(2,8))", "sweep.enqueue=[{lora.rank: many}]"], ["lora.rank: many is outside int("]),
    (["+sweep.conditional.optimizer=3"], ["sweep.conditional: 'optimizer' must be group=option"]),
    (["sweep.conditional=3"], ["sweep.conditional: Cannot assign int"]),
    ([NONE], ["nothing to search", "optimizer.lr=log("]),
    ([GRID], ["nothing to search"]),
    ([GRID, "optimizer.lr=interval(1e-3,1e-2)"], ["a grid cannot run interval(0.001,0.01)", "range(low,high,step)"]),
    ([GRID, "seed=range(0,1000)", "lora.rank=range(1,1000)"], ["999000", "hydra/sweeper/sampler=random"]),
    (["output_dir=/proc/outputs"], ["output_dir: /proc", "cannot be written to"]),
    (["output_dir=null"], ["output_dir: None must be a path"]),
    (["sweep.storage=sqlite:////proc/study.db"], ["sweep.storage: ", "/proc/study.db", "cannot be opened"]),
]  # fmt: skip


def type_sweep(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Return the exit status of `python run.py -m ARGUMENTS`."""
    return run_main(monkeypatch, "-m", *TINY, *arguments)


def limit_search(overrides: list[str]) -> list[str]:
    """Return overrides that search one range only, since both ends of every range are built."""
    if {GRID, NONE} & set(overrides):
        return []
    return [NONE] if any(word.startswith("optimizer.lr=") for word in overrides) else [NONE, RANGE]


@pytest.mark.parametrize(("overrides", "expected"), TABLE, ids=lambda value: " ".join(value))
def test_invalid_sweep(overrides, expected, places, tmp_path, monkeypatch, capsys) -> None:
    assert type_sweep(monkeypatch, *places, *limit_search(overrides), *overrides) == 2
    message = drop_announcements(capsys.readouterr().err).strip()
    assert "\n" not in message
    for words in expected:
        assert words in message
    assert "secret" not in message
    assert sorted(os.listdir(tmp_path)) == []


SWEEP = """# @package _global_
hydra: {sweeper: {params: {optimizer: "adamw,lion"}}}
sweep: {conditional: %s}
"""

CONDITIONS = {
    "optimzer=lion: {optimizer.lr: 'interval(1,2)'}": ["sweep.conditional.optimzer=lion", "did you mean 'optimizer'?"],
    "optimizer=lionn: {optimizer.lr: 'interval(1,2)'}": ["optimizer has no option 'lionn'", "did you mean 'lion'?"],
    "optimizer=lion: {optimizer.lr: 1}": ["optimizer=lion: optimizer.lr must be a range"],
    "optimizer=lion: {optimizer.lr: 'interval(0,1)'}": ["optimizer.lr: 0.0", "(found at optimizer=lion optimizer.lr="],
    "optimizer=lion: {optimizer.lr: 'interval(1)'}": ["optimizer.lr=interval(1): ", "'end'"],
    "optimizer=lion: 3": ["sweep.conditional.optimizer=lion: 3 must be a mapping"],
}


@pytest.mark.parametrize("conditional", CONDITIONS)
def test_invalid_conditional_range(conditional, places, tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mine.yaml").write_text(SWEEP % f"{{{conditional}}}")
    assert type_sweep(monkeypatch, "--config-dir", str(tmp_path), "sweeps=mine", *places) == 2
    message = capsys.readouterr().err.strip()
    assert "\n" not in message
    for words in CONDITIONS[conditional]:
        assert words in message
    assert sorted(os.listdir(tmp_path)) == ["sweeps"]


@pytest.mark.slow
def test_notice_of_unused_conditional_range(places, tmp_path, monkeypatch, capsys) -> None:
    """Ranges for other options of the group are no mistake where one of them applies."""
    overrides = [*places, "optimizer=adamw,lion", "sweep.dry_run=true"]
    assert type_sweep(monkeypatch, *overrides, "sweeps=optimizers") == 0
    assert "applies to no trial" not in capsys.readouterr().out
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mine.yaml").write_text(
        "# @package _global_\nsweep:\n  conditional:\n    schedule=wsd: {schedule.decay_ratio: '0.1,0.2'}\n"
    )
    assert type_sweep(monkeypatch, *overrides, f"hydra.searchpath=[file://{tmp_path}]", "sweeps=mine") == 0
    assert "sweep.conditional.schedule=wsd applies to no trial: schedule is cosine" in capsys.readouterr().out


@pytest.mark.parametrize(
    "overrides",
    [
        *(
            pytest.param(overrides, marks=pytest.mark.slow)
            for overrides in (
                ["sweep.allow=[data]", "data.val_fraction=0.005,0.01"],
                ["batch.batch_size=4,8", "loop.max_steps=null", "loop.max_tokens=2000"],
                ["hydra.sweeper.n_trials=5"],
            )
        ),
        ["sweep.allow=[loop.evals]", "loop.evals=2,4", "hydra.sweeper.n_trials=5"],
    ],
    ids=" ".join,
)
def test_valid_sweep_as_dry_run_writes_nothing(overrides, places, tmp_path, monkeypatch, capsys) -> None:
    assert type_sweep(monkeypatch, *places, "sweep.dry_run=true", *overrides) == 0
    n_trials = 5 if "hydra.sweeper.n_trials=5" in overrides else 24
    assert f"Study default: {n_trials} trials" in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path)) == []


def test_range_over_locked_key(places, tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "fixed.yaml").write_text(FIXED)
    overrides = ["--config-dir", str(tmp_path / "conf"), "-m", "experiment=fixed", "sweeps=grid", *places, "seed=1,2"]
    assert run_main(monkeypatch, *overrides) == 2
    assert capsys.readouterr().err.startswith("seed=1,2: experiment fixed locks seed")
    assert sorted(os.listdir(tmp_path)) == ["conf"]


def test_changed_space_is_rejected_before_base_training(places, monkeypatch, capsys) -> None:
    start_study(*TINY, *places)
    changed = ["lora.rank=2,4", "model.width=32", "start=base"]
    assert type_sweep(monkeypatch, *places, *changed) == 2
    output = capsys.readouterr()
    assert "space lora.rank: 2,4,8,16,32 -> 2,4\n" in output.err
    assert "config model.width: 16 -> 32\n" in output.err
    assert output.err.endswith("start a new study with sweep.study=NAME\n")
    assert "step 0" not in output.out


def test_unwritable_folder(places, tmp_path, monkeypatch, capsys) -> None:
    study_folder(tmp_path).parent.parent.mkdir()
    study_folder(tmp_path).parent.write_text("a file where the sweeps go")
    assert type_sweep(monkeypatch, *places) == 2
    assert "cannot be written to" in capsys.readouterr().err


def test_torchrun(places, monkeypatch, capsys) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert type_sweep(monkeypatch, *places) == 2
    assert capsys.readouterr().err.startswith("WORLD_SIZE=2: every process would start its own sweep")
    monkeypatch.setenv("RANK", "1")
    assert type_sweep(monkeypatch, *places) == 2
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "overrides", ["optimizer.lr=interval(0.01,1)", "optimizer.lr=1e-4,1e-2", "lora.rank=range(1,4)"]
)
def test_range_without_multirun_flag(overrides, places, tmp_path, monkeypatch, capsys) -> None:
    assert run_main(monkeypatch, *places, overrides) == 2
    assert capsys.readouterr().err == f"{overrides}: several values are a sweep; add -m, or quote the value\n"
    assert sorted(os.listdir(tmp_path)) == []


def test_message_and_exit_status_in_shell(places, tmp_path) -> None:
    done = run_script("-m", *TINY, *places, "sweep.keep=-1")
    assert done.returncode == 2
    message = drop_announcements(done.stderr)
    assert message.count("\n") == 1
    assert message.startswith("sweep.keep: -1 ")
    assert sorted(os.listdir(tmp_path)) == []


@pytest.mark.slow
def test_single_run_refuses_search_options(places, tmp_path) -> None:
    done = run_script(
        *(one for one in TINY if one != "preflight=skip"), *places, "observers=metrics_only", "pruner=none"
    )
    assert done.returncode == 2
    assert drop_announcements(done.stderr).startswith("pruner=none: only a sweep reads it; add -m")
    assert sorted(os.listdir(tmp_path)) == []
