from harness.preflight import PreflightReport
from harness.preflight.render import format_finding, summarize_report
from harness.preflight.report import failed, passed, skipped, warned


def test_format_finding() -> None:
    finding = warned("peak LR", "0.01", expected="0.005", hint="Look for a cap")
    assert format_finding("cost", passed("time", "2 s/step", "1 s")) == "pass  cost               time: 2 s/step"
    assert format_finding("data", skipped("documents", "no text")) == "skip  data               documents: no text"
    first, second = format_finding("effective_settings", finding).splitlines()
    assert first == "WARN  effective_settings peak LR: 0.01; expected 0.005"
    assert second.strip() == "Look for a cap"


def test_summarize_report() -> None:
    failure, success = failed("loss", "1"), passed("loss", "2")
    report = PreflightReport({"alignment": [success], "data": [success, failure], "overfit": [failure]}, 1.5)
    assert summarize_report(report) == (
        "preflight: 2 failed, 1 passed, in 1.5 s. Look at data first; overfit may follow from it"
    )
