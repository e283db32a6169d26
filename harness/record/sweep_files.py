"""Names of the files in a sweep's folder: its description and summary for MLflow, and the journal of its study."""

import re

SWEEP_FILE, SUMMARY_FILE, JOURNAL_FILE = "sweep.json", "summary.json", "study.journal"
PROGRAM_FILE = "program.json"
"""In a sweep's folder: the program that its trials run, for commands that run more of it later."""
SPACE_PREFIX = "space."
"""Prefix of the parameters of a sweep that are the ranges of its searched keys."""
STUDIES_FOLDER = "sweeps"
"""The folder in output_dir that has one folder per study."""


def read_setting_key(key: str) -> str:
    """Return the key of the setting that a searched key sets: that of `+lr` and `++lr` is lr."""
    return key.lstrip("+")


def name_study_folder(study: str) -> str:
    """Return the name of a study's folder; characters that mean something in a path or a shell become _."""
    name = re.sub(r"[^\w.+-]", "_", study)
    return name if name.strip(".") else name.replace(".", "_")
