"""Preflight and live diagnosis for training loops of other frameworks. Each file is imported on demand."""
