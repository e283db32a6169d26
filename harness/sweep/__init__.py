"""Hyperparameter search: a Hydra sweeper on Optuna with persistent studies, worker processes and results.

Programs that are swept import `report` from here. Nothing else is loaded.
"""

from harness.sweep.reporting import Interrupted, Pruned, report

__all__ = ["Interrupted", "Pruned", "report"]
