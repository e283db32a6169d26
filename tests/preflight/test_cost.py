import re
import time
from dataclasses import replace
from typing import Any

import psutil

from harness.preflight import EvalResult, Finding
from harness.preflight.cost import check
from tests.preflight.healthy_trainings import Training


def check_cost(**requested: Any) -> dict[str, Finding]:
    setup = Training().make_setup()
    setup.requested = replace(setup.requested, **requested)
    with setup.preserved_state():
        return {finding.title: finding for finding in check(setup)}


def test_cost_of_run_and_sweep() -> None:
    findings = check_cost(n_runs=24, n_parallel=2)
    assert re.fullmatch(
        r"[\d.e-]+ s/step; .* for 40 steps and 4 evaluations; .* for 24 runs, 2 in parallel, without pruning",
        findings["time"].observed,
    )
    assert findings["memory"].level == "pass"
    assert "for 2 parallel runs" in findings["memory"].observed


def test_partial_evaluation_is_extrapolated() -> None:
    training = Training()
    evaluate = training.evaluate

    def evaluate_slowly(batch_size: int) -> EvalResult:
        time.sleep(0.1)
        return evaluate(batch_size)

    training.evaluate, training.overrides = evaluate_slowly, {"eval_fraction": 0.001}
    finding, _ = check(training.make_setup())
    minutes = re.search(r"(\d+) min \d+ s for 40 steps and 4 evaluations", finding.observed)
    assert minutes is not None
    assert int(minutes[1]) >= 6  # 4 * 0.1 s / 0.001 is 400 s


def test_parallel_runs_that_exceed_memory_warn() -> None:
    n_runs = 2 * psutil.virtual_memory().total // psutil.Process().memory_info().rss
    finding = check_cost(n_runs=n_runs, n_parallel=n_runs)["memory"]
    assert finding.level == "warn"
    assert "micro_batch_size" in finding.hint


def test_cost_is_skipped_without_train_step() -> None:
    training = Training()
    training.overrides = {"train_step": None}
    [finding] = check(training.make_setup())
    assert finding.level == "skip"
