"""Words that judge, which a report uses only with their computed criterion, and the check of a whole document."""

import re

from harness.evidence.report.document import Claim, Report, Span, Text, iterate_numbers, iterate_texts
from harness.evidence.report.numbers import Formula, evaluate_formula

JUDGING_WORDS = re.compile(
    r"\b(un)?stable\b|\bstabil|\b(in)?significan|\bfaster\b|\bslower\b|\bbetter\b|\bworse\b|\bimprov|\boutperform|"
    r"\bsuperior\b|\binferior\b|\brobust|\breliabl|\boptimal|\bequivalent\b|\bconverge|\boverfit|\bproduction.ready|"
    r"\bprove[sdn]?\b|\bproof\b|\bbeats?\b|\bwins?\b|\bwinner\b|\bstate.of.the.art|\bexcellent|\bnoisy\b|\bspeed.?up",
    re.IGNORECASE,
)
"""Words whose truth needs a computed criterion. "Lower", "higher" and "best of n trials" say only what was measured."""


def check_document(report: Report) -> None:
    """Check that no number and no judgement in our own words lacks its source.

    Raises:
        ValueError: If a number has been typed or is not one of the report's, a word judges without a criterion, the
            criterion of a claim is not true, or a number is not the value of its formula.
    """
    values = {name: number.value for name, number in report.numbers.items()}
    for text in iterate_texts(report):
        for span in text:
            _check_span(span, values)
        _check_numbers(text, report)
    for number in report.numbers.values():
        if not isinstance(number.source, Formula):
            continue
        if repr(number.value) != repr(evaluate_formula(number.source.expression, values)):  # NaN is not equal to itself
            raise ValueError(f"{number.id}: {number.value} is not the value of {number.source.expression}")


def _check_span(span: Span, values: dict[str, float | int | None]) -> None:
    if isinstance(span, Claim) and evaluate_formula(span.criterion, values) is not True:
        raise ValueError(f"{span.text!r}: its criterion {span.criterion!r} does not hold")
    if isinstance(span, str) and re.search(r"\d", span):
        raise ValueError(f"{span!r}: a number that is typed has no source; use a Number")
    if isinstance(span, str) and (found := JUDGING_WORDS.search(span)):
        raise ValueError(f"{span!r}: {found[0]!r} judges without a criterion; use a Claim")


def _check_numbers(text: Text, report: Report) -> None:
    for number in iterate_numbers(text):
        if report.numbers.get(number.id) is not number:
            raise ValueError(f"{number.id}: not a number of this report")
