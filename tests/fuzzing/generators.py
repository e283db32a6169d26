"""Generate fuzzed lines: keys of other types, and random command lines."""

import random
from collections.abc import Callable, Sequence

from harness.cli import COMMANDS
from tests.fuzzing.line import RANGE, FuzzLine, list_options, option_keys, tiny_overrides

VALUES = {
    "removed": "", "null": "null", "empty": "''", "below 0": "-1", "0": "0", "infinity": "1e999", "nan": "nan",
    "fraction": "0.5", "boolean": "true", "list": "[1,2]", "mapping": "{a:1}", "text": "text", "long text": "x" * 3000,
    "unicode": "'größe ✓'", "path": "inputs/text.txt/below", "missing key": "'${missing}'",
    "missing variable": "'${oc.env:NOT_SET}'", "no value": "'???'", "nested target": "{_target_:os.getcwd}",
    "nested list": "[[],{}]",
}  # fmt: skip  # by kind, in Hydra's grammar
HYDRA_KEYS = [
    "hydra.run.dir", "hydra.job.chdir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.callbacks", "hydra.sweeper",
    "hydra.callbacks.parent_run", "hydra.job.name", "hydra.sweeper.n_trials", "hydra.sweeper.n_jobs", "hydra.launcher",
    "hydra.sweeper.study_name", "hydra.sweeper.storage", "hydra.sweeper.direction", "hydra.sweeper.sampler",
    "hydra.sweeper.sampler._target_", "hydra.sweeper.sampler.seed", "hydra.sweeper.sampler.n_startup_trials",
    "hydra.sweeper.params", "hydra.sweeper.max_failure_rate", "hydra.sweeper.custom_search_space", "hydra.searchpath",
]  # fmt: skip
SWEEP_ROOTS = ("sweep", "sweeps", "pruner", "preflight", "hydra")
NO_TRAINING = ("hydra.mode", "hydra.verbose", "hydra.output_subdir", "sweep.dry_run")
RANGES = [
    "optimizer.lr=interval(1e-4,1e-1)", "optimizer.lr=interval(1,0)", "optimizer.lr=interval(0.1)", "seed=1,1",
    "optimizer.lr=tag(log,interval(0,1))", "optimizer.lr=tag(log,interval(a,b))", "optimizer.lr=choice()",
    "optimizer.lr=choice(1e-3,fast)", "seed=range(1,1)", "seed=range(3)", "seed=shuffle(1,2,3)", "loop=1,2",
    "optimizer=glob(*)", "optimizer=adamw,nothing", "optimizer.lr=int(interval(1,2))", "sweep.n_trials=1,2",
    "batch.batch_size=2,4", "loop.max_steps=1,2", "optimizer=interval(0,1)", "nothing.lr=1,2", "+new=1,2",
    "~optimizer.lr=1,2", "optimizer.lr=interval(nan,inf)", "optimizer.lr=interval(1e-3,1e-3)", "name=a,b",
    "schedule.warmup_ratio=range(0,1,0.5)", "schedule.warmup_ratio=interval(-1,2)", "optimizer.betas=[0.9,0.9],[1,2]",
    "optimizer.lr=sort(2,1,reverse=true)", "optimizer.lr=str(1,2)", "optimizer.weight_decay=null,0.1", "lora=none,x",
    "sweep.enqueue=[{optimizer.lr:1e-3}]", "sweep.enqueue=[{a:1}]", "sweep.conditional={}", "sweep.allow=[seed]",
    "+sweep.conditional.optimizer=1", "sweep.objectives=[best_val_loss,tokens]", "pruner.min_resource=x", "pruner=none",
    "hydra/sweeper/sampler=grid", "hydra/sweeper/sampler=random", "hydra/sweeper/sampler=qmc", "hydra/launcher=ray",
    "sweep.storage=sqlite:///inputs", "sweep.storage=sqlite:///nowhere/study.db", "sweep.study=../up",
]  # fmt: skip
MALFORMED = [
    "=", "a=", "=1", "a b", "++", "~", "+", "seed=[1", "seed={a", "'", '"', "a=$b", "", "-", "--", "seed", "seed=1=2",
    "größe=1", "seed=✓", "seed=${", "seed=${seed}", "seed=${now:}", "@x=1", "optimizer@x=adamw", "optimizer:x=adamw",
    "seed=1,", "a.b.c=1", "+a.b.c=1", ".=1", "seed.x=1", "++seed.x=1", "optimizer=[adamw,sgd]", "seed= 1", "seed=\t",
    "seed=" + "9" * 400, "seed=\\", "hydra=x", "hydra/none=x", "+optimizer=adamw", "~optimizer=sgd",
    "++optimizer=sgd", "optimizer/=x", "/optimizer=sgd", "_target_=x", "+_target_=os.getcwd", "~_self_", "a=b=c,d",
]  # fmt: skip
FLAGS = [
    ("--nothing",), ("-x",), ("-mm",), ("--cfg",), ("--cfg", "nothing"), ("--cfg", "job", "--package", "nothing"),
    ("--info", "nothing"), ("--resolve",), ("-cd", "nowhere"), ("-cn", "nowhere"), ("-cp", "nowhere"), ("-cd", ""),
    ("--run", "--multirun"), ("--package", "loop"), ("--cfg", "job", "--resolve"), ("--help", "nothing"), ("-m",),
    ("--shell-completion",), ("--experimental-rerun", "inputs/text.txt"), ("-cd", "inputs/text.txt"),
]  # fmt: skip
NUMBERS = ["0", "-1", "1", "2", "nan", "inf", "-inf", "1e-3", "x", "", "1e999", "9" * 30, "true", "✓"]
RUN, TRIAL = "outputs/run", "outputs/sweeps/sweep/0"
RUNS = [RUN, "run", "outputs/sweeps/sweep", TRIAL, "nowhere", "", ".", "inputs/text.txt", "inputs", "é", "~", "0" * 32,
        "x" * 300]  # fmt: skip
TEXTS = ["", "hello", "✓", "x" * 400, "QUESTION: a\\nANSWER:", "\udc80"]
FILES = ["inputs/text.txt", "inputs/pairs.jsonl", "inputs/rows.jsonl", "inputs", "nowhere", "", "inputs/fields.pt",
         "x" * 300]  # fmt: skip
EXPECTATIONS = ["step 1: val/loss < 9", "step x: val/loss < 9", "", "epoch 1: a > b", "step 1: val/loss < nan", "✓"]
THRESHOLDS = ["spike_z=8", "spike_z", "spike_z=x", "spikes=1", "=", "", "min_points=0", "spike_z=nan", "min_points=1.5"]
OPTIONS: dict[str, dict[str, Sequence[str]]] = {
    "sample": {"": RUNS, " ": TEXTS, "--tokens": ["1", *NUMBERS], "--temperature": NUMBERS, "--top-k": NUMBERS,
               "--count": ["1", "0", "-1", "x"], "--seed": NUMBERS},
    "diagnose": {"": [*RUNS, *FILES], "--threshold": THRESHOLDS, "--expect": EXPECTATIONS,
                 "--uri": ["", "nothing", "sqlite:///inputs/text.txt", "sqlite://", "http://", "ftp://x", "✓"]},
    "prescribe": {"": RUNS, "--threshold": THRESHOLDS},
    "export": {"": RUNS, "--output": ["out", "inputs/text.txt", "inputs/text.txt/out", "", ".", "x" * 300]},
    "blimp": {"": RUNS, "--data": FILES, "--per-paradigm": NUMBERS, "--batch-tokens": ["64", *NUMBERS]},
    "sync": {"": [*RUNS, *FILES]},
    "repair": {"": [*RUNS, *FILES]},
    "ui": {"--port": ["x", "-1", "99999999", "1.5", ""], "--host": ["256.1.1.1", "", "✓", "not a host"]},
    "lr-range": {"--steps": ["20", "0", "-1", "x", ""], "--low": NUMBERS, "--high": NUMBERS},
    "clean": {"--to": ["out", "inputs/text.txt", "inputs", "", "nowhere/out", "x" * 300, "out.gz"]},
    "preflight": {"--only": ["cost", "data", "x", "", "✓"]},
    "verify-resume": {"--steps": ["1", "0", "-1", "x", "", "1.5"]},
}  # fmt: skip  # values of each option; "" and " " are positional
COMPOSED = ("lr-range", "clean", "preflight", "verify-resume")  # commands that take overrides
LINE_KINDS = ("groups", "ranges", "malformed", "flags", "misspelled", "commands", "plateau")


def make_key_line(rng: random.Random, kind: str) -> FuzzLine:
    """Return a run, or a dry run of a sweep, with one key removed or given a value of another type."""
    group, option = rng.choice([("", "config"), ("hydra", "")] + list(list_options()) * 2)
    if rng.random() < 0.4:
        group, option = rng.choice([("", "config"), ("loop", "default"), ("observers", "default"), ("hydra", "")])
    keys = HYDRA_KEYS if group == "hydra" else [key for key in option_keys(group, option) if key not in NO_TRAINING]
    key = rng.choice(keys or ["lora"])
    chosen: dict[str, str | None] = {group: option} if group not in ("", "hydra") else {}
    is_sweep = key.partition(".")[0] in SWEEP_ROOTS or key.startswith("observers.mlflow")
    extra = ["~observers.mlflow"] if chosen == {"observers": "default"} and not is_sweep else []
    value = VALUES[kind]
    change = f"~{key}" if kind == "removed" else f"{key}={value}"
    prefix = () if change[0] == "~" or key in ("start.source",) else ("", "", "", "+")
    overrides = [*tiny_overrides(chosen), *extra, f"{rng.choice(prefix or [''])}{change}"]
    if is_sweep:
        overrides = ["-m", *([] if group == "sweeps" else ["sweeps=none"]), *overrides, RANGE, "sweep.dry_run=true"]
    names = (key.partition(".")[0], key.rpartition(".")[2], *(["sweep"] if is_sweep else []))
    # the options of an experiment replace those above, so that another key may be wrong
    return FuzzLine("keys", kind, ("run", *overrides), () if group == "experiment" else names)


def make_command_line(rng: random.Random, kind: str) -> FuzzLine:
    """Return a random combination of groups, ranges, malformed words, flags, misspellings or a command's options."""
    makers: dict[str, Callable[[random.Random], list[str]]] = {
        "groups": _combine_groups,
        "ranges": _combine_ranges,
        "malformed": lambda rng: [*tiny_overrides({}), *rng.sample(MALFORMED, rng.choice([1, 1, 2]))],
        "flags": lambda rng: [*tiny_overrides({}), *rng.choice(FLAGS)],
        "misspelled": lambda rng: [*tiny_overrides({}), _misspell(rng, rng.choice(tiny_overrides({})))],
    }
    if kind in makers:
        return FuzzLine("lines", kind, ("run", *_avoid_real_sweep(makers[kind](rng))))
    if kind == "commands":
        return FuzzLine("lines", kind, tuple(_combine_options(rng)))
    words = [*COMMANDS, "", "nothing", "--version", "--help", "-h", "--nothing", "diagnose", "✓", "run.py", "-m"]
    command = rng.choice(words)
    tails = [["--help"], ["--nothing"], ["-x"], ["--help", "x"]]
    return FuzzLine("lines", kind, (command, *(rng.choice(tails) if command != "run" else ["--help"])))


def _combine_groups(rng: random.Random) -> list[str]:
    chosen = dict(rng.sample([pair for pair in list_options() if pair[0] != "sweeps"], rng.choice([1, 2, 2, 3])))
    if chosen.get("start") == "base" or chosen.get("tokenizer") in ("pydoc", "smollm2"):
        chosen = {"start": "warm"}  # the others would train for minutes
    overrides = tiny_overrides(dict(chosen))
    for _ in range(rng.choice([0, 1])):
        group, option = rng.choice(list_options())
        if keys := option_keys(group, option):
            overrides.append(f"{rng.choice(keys)}={VALUES[rng.choice([kind for kind in VALUES if kind != 'removed'])]}")
    return overrides


def _combine_ranges(rng: random.Random) -> list[str]:
    ranges = [RANGE, *rng.sample(RANGES, rng.choice([1, 1, 2]))]
    return ["-m", "sweeps=none", *tiny_overrides({}), *ranges[rng.choice([0, 1]) :]]


def _combine_options(rng: random.Random) -> list[str]:
    command = rng.choice([name for name in OPTIONS if name in COMMANDS])
    words = [command]
    for option, values in OPTIONS[command].items():
        value = rng.choice(values)
        if not option.strip():
            words.append(value)
        elif command == "ui" or option in ("--data", "--to") or rng.random() < 0.5:
            words += [option, value]
    if command in COMPOSED:
        words += tiny_overrides({"data": rng.choice(["text", "qa_markdown"])})
        words += [rng.choice(MALFORMED)] if rng.random() < 0.3 else []
    return words


def _misspell(rng: random.Random, word: str) -> str:
    place = rng.randrange(len(word))
    changes = [word[:place] + word[place + 1 :], word[:place] + word[place] + word[place:], word.upper(), word + "x"]
    return rng.choice(changes)


def _avoid_real_sweep(overrides: list[str]) -> list[str]:
    is_sweep = "-m" in overrides or "--multirun" in overrides
    return [*overrides, "sweeps=none", "sweep.dry_run=true"] if is_sweep else overrides
