"""Run the checks on a setup taken from another framework, and print what they find."""

from collections.abc import Callable, Iterable

from harness.core.terminal import print_fitted
from harness.preflight import Finding, PreflightReport, TrainingSetup, describe_user_error
from harness.preflight import preflight as run_checks
from harness.preflight.render import describe_start, print_finding, summarize_report
from harness.preflight.report import failed, skipped


def report_setup(setup: TrainingSetup, checks: Iterable[str], quiet: bool) -> PreflightReport:
    """Run `checks`; unless `quiet`, print the expected duration, each finding as it comes, and a summary."""
    checks = list(checks)
    if not quiet:
        print_fitted(describe_start(setup, checks))
    report = run_checks(setup, checks, on_finding=_choose_printer(quiet))
    if not quiet:
        print_fitted(summarize_report(report))
    return report


def report_unsupported(reason: str, quiet: bool) -> PreflightReport:
    """Return a report that says in one line why nothing was checked."""
    return _report_single("training", skipped("unsupported", reason), quiet)


def report_setup_error(what: str, error: Exception, quiet: bool) -> PreflightReport:
    """Return a failed report for an error that was raised before any check could run, such as by a collator."""
    finding = failed(what, f"raised {describe_user_error(error)}", "no error", "Training meets this error, too")
    return _report_single("training", finding, quiet)


def _report_single(check: str, finding: Finding, quiet: bool) -> PreflightReport:
    report = PreflightReport({check: [finding]}, 0.0)
    _choose_printer(quiet)(check, finding)
    if not quiet:
        print_fitted(summarize_report(report))
    return report


def _choose_printer(quiet: bool) -> Callable[[str, Finding], None]:
    return (lambda check, finding: None) if quiet else print_finding
