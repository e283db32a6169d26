"""Upload of runs and sweeps to MLflow."""
