"""Preflight for training loops of other frameworks. Each file is imported on demand and needs its framework."""
