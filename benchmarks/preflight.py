"""Run preflight on all shipped experiments: print how many checks pass, warn and fail, and the seconds they take.

    python benchmarks/preflight.py
    python benchmarks/preflight.py titles=titles.txt books=books.txt qa=qa.md darcy=FOLDER run=RUN model=smollm2

Experiments that need a file, a run or a pretrained model are left out unless it is given, as in the second line."""

import argparse
import time
from collections import Counter

from harness.config.compose import compose_config
from harness.core.paths import config_dir
from harness.preflight import preflight
from harness.preflight.render import format_finding
from harness.preflight.report import LEVELS
from harness.run.preflight_adapter import open_training_setup

TITLES, BOOKS, QA = "data.source.path={titles}", "data.source.path={books}", "data.source.path={qa}"
DARCY = ["data.train={darcy}/darcy_train_16.pt", "data.validation=[{darcy}/darcy_test_16.pt]"]
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


def list_overrides(experiment: str, given: dict[str, str]) -> list[str] | None:
    """Return the overrides of an experiment, or None if something that it needs is not given."""
    try:
        return [f"experiment={experiment}", *(need.format(**given) for need in NEEDS.get(experiment, []))]
    except KeyError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("given", nargs="*", metavar="NAME=VALUE", help="a file, folder, run or model that is needed")
    given = dict(pair.split("=", 1) for pair in parser.parse_args().given)
    totals, left_out = Counter[str](), []
    for path in sorted((config_dir() / "experiment").glob("*.yaml")):
        overrides = list_overrides(path.stem, given)
        if overrides is None:
            left_out.append(path.stem)
            continue
        started_at = time.perf_counter()
        with open_training_setup(compose_config(overrides)) as setup:
            report = preflight(setup)
        counts = Counter(report.get_level(check) for check in report.findings)
        totals += counts
        levels = ", ".join(f"{counts[level]} {level}" for level in LEVELS if counts[level])
        seconds = time.perf_counter() - started_at
        print(f"{path.stem:24} {levels:44} {report.seconds:6.1f} s, {seconds:6.1f} s with building", flush=True)
        for check, finding in report:
            if finding.level in ("warn", "fail"):
                print("   ", format_finding(check, finding).replace("\n", "\n    "))
    print(f"total: {dict(totals)}; left out: {', '.join(left_out) or 'none'}")


if __name__ == "__main__":
    main()
