"""The programs whose runs are trials: our own training, any Hydra app, any command."""
