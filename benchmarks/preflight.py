"""Preflight over every shipped experiment: how many checks pass, warn and fail, and what it takes.

    python benchmarks/preflight.py
    python benchmarks/preflight.py titles=titles.txt books=books.txt qa=qa.md darcy=FOLDER run=RUN model=smollm2

The second looks at those too that need a file, a run or a pretrained model; without, they are left out by name."""

import argparse
import time

from harness.config.compose import compose_config
from harness.core.paths import config_dir
from harness.preflight import preflight
from harness.preflight.render import format_finding
from harness.preflight.report import LEVELS
from harness.run.preflight_adapter import open_training_setup

TITLES, BOOKS, QA = "data.source.path={titles}", "data.source.path={books}", "data.source.path={qa}"
DARCY = ["data.train={darcy}/darcy_train_16.pt", "data.tests=[{darcy}/darcy_test_16.pt]"]
NEEDS = {
    "headlines_before": [TITLES],
    "headlines_after": [TITLES],
    "headlines_small_before": [TITLES],
    "headlines_small_after": [TITLES],
    "ltg_bert_before": [BOOKS],
    "ltg_bert_after": [BOOKS],
    "gpt2_lora_before": [QA, "model={model}"],
    "gpt2_lora_after": [QA, "model={model}"],
    "gpt2_resume": ["start.run={run}"],
    "gpt2_resume_before": [QA, "start.run={run}", "model={model}"],
    "gpt2_resume_after": [QA, "start.run={run}", "model={model}"],
    "operator_before": DARCY,
    "operator_after": DARCY,
}


def compose_overrides(experiment: str, given: dict[str, str]) -> list[str] | None:
    """What it is composed of; None where something that it needs is not given."""
    try:
        return [f"experiment={experiment}", *(need.format(**given) for need in NEEDS.get(experiment, []))]
    except KeyError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("given", nargs="*", metavar="NAME=VALUE")
    given = dict(pair.split("=", 1) for pair in parser.parse_args().given)
    totals: dict[str, int] = dict.fromkeys(LEVELS, 0)
    left_out = []
    for path in sorted((config_dir() / "experiment").glob("*.yaml")):
        chosen = compose_overrides(path.stem, given)
        if chosen is None:
            left_out.append(path.stem)
            continue
        began_at = time.perf_counter()
        with open_training_setup(compose_config(chosen)) as subject:
            report = preflight(subject)
        levels = [report.get_level(check) for check in report.findings]
        counts = {level: levels.count(level) for level in LEVELS}
        totals = {level: totals[level] + counts[level] for level in LEVELS}
        told = ", ".join(f"{count} {level}" for level, count in counts.items() if count)
        whole = time.perf_counter() - began_at
        print(f"{path.stem:24} {told:44} {report.seconds:6.1f} s, {whole:6.1f} s with building", flush=True)
        for check, finding in report:
            if finding.level in ("warn", "fail"):
                print("   ", format_finding(check, finding).replace("\n", "\n    "))
    print(f"in all: {totals}; left out: {', '.join(left_out) or 'none'}")


if __name__ == "__main__":
    main()
