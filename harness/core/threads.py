"""CPU cores, and the waiting policy of CPU threads, which must be set before torch is imported."""

import os


def use_passive_waiting() -> None:
    """Make OpenMP threads that wait for work sleep instead of spinning, unless the user has set OMP_WAIT_POLICY.

    Spinning threads take the CPU from other processes: benchmarks/competing_runs.py measures it. OpenMP reads the
    variable once, when torch is imported; worker processes inherit it.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def count_cores() -> int:
    """Return the number of processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
