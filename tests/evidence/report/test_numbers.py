"""Numbers, formulas and the document that may hold no typed number."""

import math

import pytest

from harness.evidence.report.document import plain_text
from harness.evidence.report.lexicon import check_document
from harness.evidence.report.numbers import NumberBook, Reading, evaluate_formula, format_styled
from tests.evidence.report.example_report import make_example_report


def test_a_formula_is_evaluated_over_other_numbers() -> None:
    values = {"a.x": 3.0, "b": -2.0, "c": None, "zero": 0}
    assert evaluate_formula("(a.x - b) / abs(b) * 100", values) == 250
    assert evaluate_formula("sum(a.x, b, 4)", values) == 5
    assert evaluate_formula("a.x - c", values) is None
    assert evaluate_formula("a.x / zero", values) is None
    assert evaluate_formula("b < 0 and a.x >= 3", values) is True
    assert evaluate_formula("b < 0 and c > 1", values) is None


@pytest.mark.parametrize(
    "expression", ["nothing + 1", "__import__('os')", "a.x ** 2", "[1]", "'text'", "max(a.x, key=b)", "a.x +"]
)
def test_anything_else_is_no_formula(expression: str) -> None:
    with pytest.raises(ValueError, match=r"formula over numbers|there is no number"):
        evaluate_formula(expression, {"a.x": 1.0, "b": 2.0})


def test_values_that_are_unknown_or_not_finite_are_words() -> None:
    assert format_styled(None, "loss") == "unknown"
    assert format_styled(math.nan, "percent") == "not finite"
    assert format_styled(-math.inf, "signed") == "minus infinite"


def test_an_id_has_one_number_and_a_form_that_formulas_can_name() -> None:
    book = NumberBook()
    first = book.read("a.x", 1.0, "", Reading("folder", "loss"))
    assert book.read("a.x", 1.0, "", Reading("folder", "loss")) is first
    with pytest.raises(ValueError, match="two numbers"):
        book.read("a.x", 2.0, "", Reading("folder", "loss"))
    with pytest.raises(ValueError, match="not an id"):
        book.read("7.x", 1.0, "", Reading("folder", "loss"))


def test_the_example_holds_no_typed_number() -> None:
    report = make_example_report()
    check_document(report)
    assert plain_text(report.sections[0].blocks[0].text).endswith("lower by -0.1136 nats/token, -3.1%.")  # type: ignore[union-attr]
