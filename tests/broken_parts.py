"""Parts of benchmarks.gpu that end badly after their first row."""

import os
import signal
from collections.abc import Iterator

from benchmarks.gpu.setup import Row, Setup


def yield_then_raise(setup: Setup) -> Iterator[Row]:
    yield {"arm": "first", "tokens/s": 10.0}
    raise ValueError("no second arm")


def yield_then_die(setup: Setup) -> Iterator[Row]:
    yield {"arm": "first", "tokens/s": 10.0}
    os.kill(os.getpid(), signal.SIGKILL)
