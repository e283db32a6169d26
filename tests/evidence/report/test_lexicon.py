"""Numbers without a source, and words that judge without a criterion, are found in any report."""

from dataclasses import replace

import pytest

from harness.evidence.report.document import Claim, Name, Paragraph, Quote, Report, ReportSection, Text
from harness.evidence.report.lexicon import check_document
from tests.evidence.report.example_report import make_example_report


def make_report_with(*text: Text) -> Report:
    blocks = tuple(map(Paragraph, text))
    return replace(make_example_report(), sections=(ReportSection("typed", "Typed", blocks),))


def test_a_typed_number_is_refused() -> None:
    with pytest.raises(ValueError, match="no source"):
        check_document(make_report_with(("It is lower by 3.1%.",)))


@pytest.mark.parametrize(
    "words",
    ["The training is stable.", "It converges faster", "significantly lower", "Better than before", "an unstable run",
     "The winner", "an improvement", "It is production ready", "It beats the baseline", "a 2nd", "no overfitting"],
)  # fmt: skip
def test_a_judgement_without_criterion_is_refused(words: str) -> None:
    with pytest.raises(ValueError, match=r"criterion|no source"):
        check_document(make_report_with((words,)))


def test_a_judgement_needs_a_criterion_that_holds() -> None:
    check_document(make_report_with(("Trial ", Name("7"), " is ", Claim("better", "best.difference < 0"), ".")))
    with pytest.raises(ValueError, match="does not hold"):
        check_document(make_report_with((Claim("better", "best.difference > 0"),)))


def test_words_of_others_are_not_ours() -> None:
    check_document(make_report_with((Name("stable diffusion 2"), Quote("the loss is 3 times better", "output.log"))))


def test_a_number_of_another_report_and_a_wrong_formula_are_refused() -> None:
    report, other = make_example_report(), make_example_report()
    with pytest.raises(ValueError, match="not a number of this report"):
        check_document(replace(report, numbers=other.numbers))
    wrong = replace(report.numbers["best.relative"], value=-30.4)
    with pytest.raises(ValueError, match=r"is not the value of best\.difference"):
        check_document(replace(report, sections=(), numbers={**report.numbers, "best.relative": wrong}))
