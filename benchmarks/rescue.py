"""Rescue the five systems unattended; compare the results with the reports' own repairs and with random search.

`plateau rescue` is given the small "before" experiment of a system and the tokens of 12 runs. Then four configurations
are trained on the same fresh seeds and scored on the test split: before; after, as the report recommends; ours, which
is what rescue recommends, or before if it shows nothing better; and the best of a random search by validation loss, in
the space that rescue searched and with as many tokens. Where the original training had a bug, rescue is also given the
small one with that bug. Finished parts are kept in --to: the same command continues.

    python -m benchmarks.rescue --data FOLDER --to FOLDER
    python -m benchmarks.rescue --data FOLDER --to FOLDER --system headlines
    python -m benchmarks.rescue --to FOLDER --show --picture docs/images/rescue.png
"""

import argparse
import gzip
import os
import random
import shutil
import string
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.planted_faults import DOUBLE_SHIFT, TRUNCATED_WARMUP, TRUST
from benchmarks.rescue_results import ARMS, draw_picture, format_tables
from harness.config.compose import compose_config
from harness.config.overrides import format_value
from harness.core.digests import read_json
from harness.record.metrics_file import write_json
from harness.run.runner import run
from harness.sweep.swept_study import load_swept_study

ROOT = Path(__file__).resolve().parents[1]
BUDGET_RUNS = 12
SEEDS = (9001, 9002, 9003, 9004, 9005)  # used by nothing else
RESULTS_FILE = "results.json"
LIMITS = (
    "sweep.n_trials", "sweep.max_tokens", "sweep.n_jobs", "sweep.enqueue", "sweep.study", "sweep.baseline_values",
    "hydra.sweep.dir",
)  # fmt: skip
"""Settings of rescue's sweep that its space does not depend on."""
CORRUPT_ANSWERS, CORRUPT_CHARACTERS = range(85, 93), 400
"""Answers of the resumed run's text, and the random characters that replace each: read at about step 24 of 60."""


@dataclass(frozen=True)
class System:
    """A system with its small pair of experiments.

    `files` are names of data files by key. `settings` hold for all its runs. `fault` plants the bug of the original.
    """

    name: str
    title: str
    unit: str
    files: Mapping[str, str]
    settings: Sequence[str] = ()
    fault: Sequence[str] = ()
    is_resumed: bool = False

    def list_overrides(self, variant: str, data: Sequence[str]) -> list[str]:
        return [f"experiment={self.name}_small_{variant}", *data, *self.settings]


SYSTEMS = (
    System(
        "gpt2_lora", "GPT-2 + LoRA", "nats/answer token", {"data.source.path": "qa_train.md.gz"},
        ["data.test_share=0.01"], DOUBLE_SHIFT,
    ),
    System(
        "gpt2_resume", "GPT-2 resume", "nats/answer token", {"data.source.path": "qa_train.md.gz"},
        ["data.test_share=0.01"], is_resumed=True,
    ),
    System(
        "ltg_bert", "LTG-BERT", "nats/masked token", {"data.source.path": "gutenberg_children.txt.gz"},
        ["data.test_share=0.005"], TRUNCATED_WARMUP,
    ),
    System(
        "headlines", "Headlines GPT", "nats/token", {"data.source.path": "headlines.csv.gz"},
        ["data.source.column=headline", "data.test_share=0.1"],
    ),
    System(
        "operator", "Neural operator", "relative L2",
        {"data.train": "darcy_train_16.pt", "data.test": "darcy_test_16.pt"},
    ),
)  # fmt: skip


@dataclass
class SystemRecord:
    """The folder of a system, and the results of its finished parts."""

    folder: Path
    results: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / RESULTS_FILE
        if file.exists():
            self.results = read_json(file)

    def save(self, part: str, result: Any) -> None:
        self.results[part] = result
        write_json(self.folder / RESULTS_FILE, self.results)

    @property
    def places(self) -> list[str]:
        """Overrides that keep all that is written inside the folder, and use one thread."""
        uri = f"tracking.uri=sqlite:///{self.folder}/mlflow.db"
        return [
            f"output_dir={self.folder}/outputs", f"cache_dir={self.folder.parent}/cache", uri, "device=cpu",
            "device.threads=1",
        ]  # fmt: skip


def measure_system(system: System, data: Path, to: Path, extra: Sequence[str] = ()) -> SystemRecord:
    """Run what is not finished of a system. `extra` overrides hold for all its runs."""
    record = SystemRecord(to / system.name)
    files = [f"{key}={find_file(data, name)}" for key, name in system.files.items()]
    if system.is_resumed:
        files = prepare_resumed_run(system, files, record, extra)
    common = [*extra, *record.places]
    before = [*system.list_overrides("before", files), *common]
    if system.fault and "fault" not in record.results:
        record.save("fault", run_rescue(record.folder / "fault", [*before, *system.fault]))
    if "rescue" not in record.results:
        record.save("rescue", run_rescue(record.folder / "rescue", before))
    rescue = record.results["rescue"]
    if "random" not in record.results and rescue["space"]:
        record.save("random", run_random_search(record.folder / "random", rescue["space"]))
    found = {"ours": rescue["values"], "random": record.results.get("random", {}).get("values", {})}
    arms = {
        "before": before,
        "after": [*system.list_overrides("after", files), *common],
        **{arm: [*before, *(f"{key}={format_value(value)}" for key, value in values.items())]
           for arm, values in found.items()},
    }  # fmt: skip
    record.save("title", system.title)
    record.save("unit", system.unit)
    for seed in SEEDS:
        for arm in ARMS:
            measure_arm(record, arm, arms[arm], seed, rescored_as=before if system.is_resumed else None)
    return record


def find_file(data: Path, name: str) -> Path:
    """Return the file of this name anywhere in the folder of the data."""
    found = sorted(data.rglob(name))
    if not found:
        raise SystemExit(f"--data: {data}: has no {name}; docs/rescue.md says where the data come from")
    return found[0].absolute()


def prepare_resumed_run(system: System, files: Sequence[str], record: SystemRecord, extra: Sequence[str]) -> list[str]:
    """Train on a text with a corrupt passage, through the spike that it makes; return what resumes before it."""
    text = record.folder / "qa.md"
    if not text.exists():
        text.write_text(corrupt_answers(Path(files[0].partition("=")[2])))
    found = [f"data.source.path={text}"]
    source = record.folder / "source"
    if "source" not in record.results:
        shutil.rmtree(source, ignore_errors=True)
        recipe = [
            "experiment=gpt2_lora_small_before", "data.shuffle=false", "optimizer.lr=2e-2", "schedule=cosine",
            "schedule.warmup_ratio=0.1", "loop.keep_checkpoints=20", "observers=metrics_only",
        ]  # fmt: skip
        result = run(compose_config([*recipe, *found, *system.settings, *record.places, *extra]), folder=source)
        record.save("source", {"status": result.status, "seconds": result.seconds})
    return [*found, f"start.run={source}"]


def corrupt_answers(path: Path) -> str:
    """Return questions and answers of which some answers are random characters."""
    with gzip.open(path, "rt") as file:
        blocks = file.read().strip().split("\n\nQUESTION: ")
    choose = random.Random(0)
    for index in CORRUPT_ANSWERS:
        noise = "".join(choose.choices(string.ascii_lowercase + string.digits + "#%&@", k=CORRUPT_CHARACTERS))
        question, _, _ = blocks[index].partition("\n\nANSWER:")
        blocks[index] = f"{question}\n\nANSWER: {noise}"
    return "\n\nQUESTION: ".join(blocks) + "\n"


def run_rescue(folder: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Run `plateau rescue`, and return how it ended, the values that it recommends and the space that it searched."""
    started_at = time.monotonic()
    budget = ["--budget-runs", str(BUDGET_RUNS)]
    status = run_logged(folder, "-m", "harness", "rescue", *overrides, *budget, "--to", str(folder))
    file = folder / "rescue.json"
    rescue = read_json(file) if file.exists() else {"stages": {}, "ending": None}
    ending, stages = rescue["ending"], rescue["stages"]
    if not ending:
        raise SystemExit(f"{folder}: rescue ended with status {status} and without a result; see log.txt there")
    details = {name: stage["details"] for name, stage in stages.items()}
    confirmation, values = details.get("confirmation", {}), {}
    if ending["result"] == "better":
        configs = read_json(Path(confirmation["folder"]) / "confirm.json")["configs"]
        values = next(config["values"] for config in configs if config["command"] == ending["command"])
    return {
        "ending": ending,
        "values": values,
        "space": details.get("prescription", {}).get("overrides", []),
        "ranges": details.get("prescription", {}).get("ranges", []),
        "source": details.get("prescription", {}).get("source", ""),
        "diagnoses": details.get("diagnosis", {}).get("diagnoses", []),
        "sweep": details.get("sweep", {}),
        "verdicts": confirmation.get("verdicts", []),
        "confirm_seeds": confirmation.get("seeds", []),
        "seconds": time.monotonic() - started_at,
    }


def run_random_search(folder: Path, space: Sequence[str]) -> dict[str, Any]:
    """Run a random search in a space without pruning; return its best values and its cost."""
    kept = [override for override in space if not override.startswith(tuple(f"{key}=" for key in LIMITS))]
    search = [
        "hydra/sweeper/sampler=random", "pruner=none", "preflight=skip", "sweep.baseline=false", "sweep.n_jobs=1",
        f"sweep.n_trials={BUDGET_RUNS}", f"sweep.study={folder.parent.name}_random", f"hydra.sweep.dir={folder}/sweep",
    ]  # fmt: skip
    started_at = time.monotonic()
    status = run_logged(folder, "run.py", "-m", *kept, *search)
    if status:
        raise SystemExit(f"{folder}: the random search ended with status {status}; see log.txt there")
    study = load_swept_study(str(folder / "sweep"), folder)
    best = study.ranking[0]
    return {
        "values": dict(best.params),
        "val_loss": best.values[0],
        "n_trials": len(study.trials),
        "tokens": sum(trial.tokens or 0 for trial in study.trials),
        "seconds": time.monotonic() - started_at,
    }


def run_logged(folder: Path, *arguments: str) -> int:
    """Run a Python command with one thread, its output appended to a log, and return its status."""
    folder.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HARNESS_TRUST": TRUST, "PYTHONPATH": str(ROOT)}
    with (folder / "log.txt").open("a") as log:
        return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=env, stdout=log, stderr=log).returncode


def measure_arm(
    record: SystemRecord, arm: str, overrides: Sequence[str], seed: int, rescored_as: Sequence[str] | None
) -> None:
    """Train a configuration with a seed and record its loss on the test split, unless that is done.

    With `rescored_as`, the weights of "after" are scored on text that is cut as these overrides cut it, so that all
    arms are scored on the same rows. That takes one more step, which changes nothing at an LR of 1e-12.
    """
    part = f"{arm} {seed}"
    if part in record.results:
        return
    folder = record.folder / "arms" / arm / str(seed)
    shutil.rmtree(folder, ignore_errors=True)
    options = [f"seed={seed}", "score_test=true", "observers=metrics_only"]
    result = run(compose_config([*overrides, *options]), folder=folder / "run")
    scored = result
    if rescored_as and arm == "after" and result.status == "completed":
        step = [f"start.run={result.folder}", "start.checkpoint=best", "optimizer.lr=1e-12", "loop.max_steps=1"]
        scored = run(compose_config([*rescored_as, *options, *step]), folder=folder / "scored")
    shutil.rmtree(folder / "run" / "checkpoints", ignore_errors=True)
    record.save(part, {
        "status": result.status,
        "test_loss": scored.test_loss,
        "val_loss": result.best_val_loss,
        "tokens": result.tokens,
        "seconds": result.seconds,
    })  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the data, at any depth")
    parser.add_argument("--to", type=Path, required=True, help="folder of the results")
    parser.add_argument("--system", choices=[system.name for system in SYSTEMS], help="default: all")
    parser.add_argument("--show", action="store_true", help="run nothing, print the tables of what is finished")
    parser.add_argument("--picture", type=Path, help="draw the picture of what is finished")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    to = chosen.to.absolute()
    for system in () if chosen.show else SYSTEMS:
        if chosen.data is None:
            parser.error("--data: name the folder with the data")
        if chosen.system in (None, system.name):
            measure_system(system, chosen.data, to)
            print(f"{system.title}: done", flush=True)
    records = [SystemRecord(to / system.name).results for system in SYSTEMS if (to / system.name).is_dir()]
    print(*format_tables(records), sep="\n")
    if chosen.picture:
        draw_picture(records, chosen.picture)


if __name__ == "__main__":
    main()
