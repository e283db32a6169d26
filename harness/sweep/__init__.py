"""Hyperparameter search: a Hydra sweeper on Optuna with persistent studies, worker processes and results.

Programs that are swept import `report` and `resume_from` from here. Nothing else is loaded.
"""

from harness.sweep.reporting import Interrupted, Paused, Pruned, report, resume_from

__all__ = ["Interrupted", "Paused", "Pruned", "report", "resume_from"]
