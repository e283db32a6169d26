"""Trials that are jobs of any application with a `@hydra.main` function."""
