"""lr_range.json: the losses and the band of a learning rate range test, found again by runs of the same experiment."""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.core.credentials import hide_credentials
from harness.core.digests import read_json
from harness.core.lr_keys import is_lr_key
from harness.diagnosis.lr_band import LRBand, smooth_losses
from harness.record.metrics_file import write_json

RANGE_TEST_FOLDER, RANGE_TEST_FILE = "lr_range", "lr_range.json"
"""The folder lies in output_dir and has one folder with this file for each range test."""

IGNORED_GROUPS = (
    "schedule", "observers", "tracking", "output_dir", "cache_dir", "name", "locked", "unlock", "device", "parallel",
    "seed", "compile", "preflight", "thresholds", "expect", "precision",
)  # fmt: skip
"""Configuration groups that do not change the result of a range test."""

IGNORED_PREFIXES = (
    "task.blimp.",
    "data.eval_batch_size",
    "data.test",
    "batch.micro_batch_size",
    "model.gradient_checkpointing",
    "start.restart_schedule",
)


def add_data_digest(params: Mapping[str, str], dataset: Mapping[str, str]) -> dict[str, str]:
    """Return the dotted parameters of a run and the digests of what it reads, since files change under their names.

    The test split, which nothing reads in training, is left out.
    """
    names = ("digest.train", "digest.validation", "tokenizer")
    return {**params, **{f"data.read.{name}": dataset.get(name, "") for name in names}}


def write_range_test(
    folder: Path, params: Mapping[str, str], lrs: Sequence[float], losses: Sequence[float], found: LRBand | str
) -> None:
    """Write the range test of a run with these parameters; `found` is the band or why there is none."""
    content = {
        "params": select_relevant_params(params),
        "band": asdict(found) if isinstance(found, LRBand) else None,
        "reason": found.reason if isinstance(found, LRBand) else found,
        "lrs": list(lrs),
        "losses": list(losses),
        "smoothed": smooth_losses(losses).tolist(),
    }
    write_json(folder / RANGE_TEST_FILE, content)


def load_lr_band(output_dir: Path, params: Mapping[str, str]) -> tuple[float, float] | None:
    """Return the band of the latest range test of a run with these parameters; None if there is none."""
    found = find_range_test(output_dir, params)
    return (found.band.low, found.band.high) if found and found.band else None


@dataclass(frozen=True)
class RangeTest:
    """A recorded range test. `band` is None if it found none, for `reason`."""

    folder: Path
    params: Mapping[str, str]
    band: LRBand | None
    reason: str


def find_range_test(output_dir: Path, params: Mapping[str, str]) -> RangeTest | None:
    """Return the latest range test of a run with these parameters, preferably one with a band; None without any.

    Here and elsewhere, the parameters are those of `add_data_digest`.
    """
    relevant = select_relevant_params(params)
    tests = [test for test in read_range_tests(output_dir) if test.params == relevant]
    return next((test for test in tests if test.band), tests[0] if tests else None)


def read_range_tests(output_dir: Path) -> Iterator[RangeTest]:
    """Yield the range tests of all configurations, the latest first.

    Files that cannot be read are skipped: a damaged range test must not break the runs beside it.
    """
    for path in sorted((output_dir / RANGE_TEST_FOLDER).glob(f"*/{RANGE_TEST_FILE}"), reverse=True):
        try:
            yield read_range_test(path)
        except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
            print(f"warning: a range test is skipped: {path}: {error}", file=sys.stderr)


def read_range_test(path: Path) -> RangeTest:
    """Return the range test in a file.

    Raises:
        ValueError, OSError, KeyError, TypeError, AttributeError: If it cannot be read, or is none.
    """
    content = read_json(path)
    band = _read_band(content["band"])
    return RangeTest(path.parent, select_relevant_params(content["params"]), band, str(content["reason"]))


def _read_band(fields: Mapping[str, Any] | None) -> LRBand | None:
    if fields is None:
        return None
    numbers = {name: float(fields[name]) for name in ("low", "high", "best_lr", "ceiling")}
    if not 0 < numbers["low"] <= numbers["best_lr"] <= numbers["high"] < math.inf:
        raise ValueError("no band of LRs around the best one")
    return LRBand(**numbers, reason=str(fields["reason"]), evidence=str(fields["evidence"]))


def describe_difference(test: RangeTest, params: Mapping[str, str]) -> list[str]:
    """Return the parameters in which a range test differs from a run, as `key=value of the test`."""
    relevant = select_relevant_params(params)
    keys = sorted(relevant.keys() | test.params.keys())
    return [f"{key}={test.params.get(key, 'absent')}" for key in keys if relevant.get(key) != test.params.get(key)]


def select_relevant_params(params: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters that a range test depends on.

    LRs, schedule, run length, seed, and what changes evaluations or memory alone are left out.
    """
    roots = {name.partition(".")[0] for name in params if "." in name}
    return {
        name: hide_credentials(value)
        for name, value in sorted(params.items())
        if ("." in name or name not in roots)  # a sweep records a choice such as `optimizer` beside the keys it sets
        and name.partition(".")[0] not in IGNORED_GROUPS
        and not name.startswith(IGNORED_PREFIXES)
        and not is_lr_key(name)
        and (not name.startswith("loop.") or name == "loop.grad_clip")
    }
