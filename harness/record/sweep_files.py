"""Names of the files in a sweep's folder: its description and summary for MLflow, and the journal of its study."""

SWEEP_FILE, SUMMARY_FILE, JOURNAL_FILE = "sweep.json", "summary.json", "study.journal"
STUDIES_FOLDER = "sweeps"
"""The folder in output_dir that has one folder per study."""
