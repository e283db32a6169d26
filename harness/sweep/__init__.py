"""Hyperparameter search: a Hydra sweeper on Optuna with persistent studies, worker processes and reports."""
