"""lr_range.json: the losses and the band of a learning rate range test, found again by runs of the same experiment."""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.core.digests import read_json
from harness.core.lr_keys import is_lr_key
from harness.diagnosis.lr_band import LRBand, smooth_losses
from harness.record.metrics_file import write_json

RANGE_TEST_FOLDER, RANGE_TEST_FILE = "lr_range", "lr_range.json"
"""The folder lies in output_dir and has one folder with this file for each range test."""

IGNORED_GROUPS = (
    "schedule", "observers", "tracking", "output_dir", "cache_dir", "name", "locked", "unlock", "device", "seed",
    "compile", "preflight", "thresholds", "expect", "precision",
)  # fmt: skip
"""Configuration groups that do not change the result of a range test."""


def write_range_test(
    folder: Path, params: Mapping[str, str], lrs: Sequence[float], losses: Sequence[float], found: LRBand | str
) -> None:
    """Write the range test of a run with these dotted parameters; `found` is the band or why there is none."""
    content = {
        "key": range_test_key(params),
        "band": [found.low, found.high] if isinstance(found, LRBand) else None,
        "reason": found.reason if isinstance(found, LRBand) else found,
        "lrs": list(lrs),
        "losses": list(losses),
        "smoothed": smooth_losses(losses).tolist(),
    }
    write_json(folder / RANGE_TEST_FILE, content)


def load_lr_band(output_dir: Path, params: Mapping[str, str]) -> tuple[float, float] | None:
    """Return the band of the latest range test of a run with these parameters; None if there is none.

    Files that cannot be read are skipped: a damaged range test must not break the runs beside it.
    """
    key = range_test_key(params)
    for path in sorted((output_dir / RANGE_TEST_FOLDER).glob(f"*/{RANGE_TEST_FILE}"), reverse=True):
        try:
            content = read_json(path)
        except (ValueError, OSError) as error:
            print(f"warning: a range test is skipped: {error}", file=sys.stderr)
            continue
        if content.get("key") == key and content.get("band"):
            low, high = content["band"]
            return low, high
    return None


def range_test_key(params: Mapping[str, str]) -> str:
    """Return a digest of the parameters that a range test depends on.

    LRs, schedule, run length and seed are left out.
    """
    roots = {name.partition(".")[0] for name in params if "." in name}
    relevant = {
        name: value
        for name, value in params.items()
        if ("." in name or name not in roots)  # a sweep records a choice such as `optimizer` beside the keys it sets
        and name.partition(".")[0] not in IGNORED_GROUPS
        and not is_lr_key(name)
        and (not name.startswith("loop.") or name == "loop.grad_clip")
    }
    return hashlib.sha256(repr(sorted(relevant.items())).encode()).hexdigest()[:16]
