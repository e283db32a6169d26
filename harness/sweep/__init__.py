"""Searching: a Hydra sweeper on Optuna whose studies survive, and what is told and drawn of them."""
