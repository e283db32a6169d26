"""Waiting policy of CPU threads. Must be imported, and called, before torch."""

import os


def use_passive_waiting() -> None:
    """Make OpenMP threads that wait for work sleep instead of spinning, unless the user has set OMP_WAIT_POLICY.

    Spinning threads take the CPU from other processes: benchmarks/competing_runs.py measures it. OpenMP reads the
    variable once, when torch is imported; worker processes inherit it.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
