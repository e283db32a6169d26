"""The last stage of a rescue: the report on its study."""

import os
from pathlib import Path

from harness.core.terminal import print_notes
from harness.evidence.report.report_files import write_report
from harness.evidence.report.study_report import make_study_report
from harness.evidence.report.study_source import load_study_source
from harness.evidence.rescue.confirm_stage import read_conclusion
from harness.evidence.rescue.record import RescueRecord, StageResult
from harness.tracking.report_upload import upload_report

REPORT = "report"


def run_report_stage(
    study_folder: Path, storage: str | None, record: RescueRecord, store: str | None = None
) -> StageResult:
    """Write the report, and end the rescue with what the confirmation has shown.

    The report goes to the study's run in MLflow too. `store` is the address in the configuration of this command.
    """
    folder = record.path.parent / REPORT
    place = {"path": str(study_folder), "relative_path": os.path.relpath(study_folder, folder)}
    inputs = {"price_per_hour": None, "study": place}
    report = make_study_report(load_study_source(study_folder, storage), None, inputs)
    files = write_report(folder, report)
    if note := upload_report(study_folder, folder, files, store):
        print_notes([note])
    page = next(file for file in files if file.suffix == ".html")
    return StageResult(f"wrote {page}", {"folder": str(folder)}, ending=read_conclusion(record))
