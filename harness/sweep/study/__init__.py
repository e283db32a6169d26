"""The Optuna study of a sweep: setup, storage, trial queue, budget, sampler and pruner."""
