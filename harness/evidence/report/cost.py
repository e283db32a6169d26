"""The cost of what was run: tokens, hours of training and money."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.evidence.report.document import Block, Code, Name, Paragraph, ReportSection, ReportTable, Text
from harness.evidence.report.numbers import Given, Number, NumberBook, Reading, Style
from harness.evidence.report.phrases import make_id
from harness.evidence.report.study_numbers import cell_of

HOUR_S = "3600"
PRICE_ID = "price"


@dataclass(frozen=True)
class CostItem:
    """A group of runs; `tokens` is None if no program counted them, `seconds` if none was recorded.

    `n_untimed` of the runs have no recorded time.
    """

    name: str
    place: str
    runs: int
    tokens: int | None
    seconds: float | None
    n_untimed: int = 0


def add_price(book: NumberBook, price: float | None) -> Number | None:
    """Add the price of an hour, if the user gave one."""
    if price is None:
        return None
    return book.read(PRICE_ID, price, "an hour", Given("--price-per-hour"), "money")


def report_cost(book: NumberBook, items: Sequence[CostItem], price: float | None) -> ReportSection:
    """Return a table of costs with their sum, and how they were computed."""
    given = add_price(book, price)
    rows = [_add_item(book, item, given) for item in items]
    if len(items) > 1:
        rows.append(_add_total(book, items, given))
    header: list[Text] = [("",), ("runs",), ("tokens",), ("hours of training",)]
    header += [("money",)] if given else []
    words: list[Text] = [
        ("Hours are the sum over runs of the time from start to end of each, failed and pruned ones included; runs "
         "that shared a machine count each for itself.",)
    ]  # fmt: skip
    if untimed := sum(item.n_untimed for item in items):
        place = Reading(", ".join(item.place for item in items), "runs without a recorded time")
        words.append((book.read("cost.untimed", untimed, "", place, "whole"), " of the runs ended without a recorded "
                      "time, such as when their worker was killed; the hours lack it."))  # fmt: skip
    if given:
        words.append(("Money is hours times the price, ", given, ", in the currency of the price."))
    else:
        words.append(("Money: not computed, since ", Code("--price-per-hour"), " was not given."))
    if any(item.tokens is None for item in items):
        words.append(("Tokens are unknown where the program does not count them.",))
    blocks: list[Block] = [ReportTable(tuple(header), tuple(rows)), *map(Paragraph, words)]
    return ReportSection("cost", "Cost", tuple(blocks))


def _add_item(book: NumberBook, item: CostItem, price: Number | None) -> tuple[Text, ...]:
    id = make_id("cost", item.name)
    runs = book.read(f"{id}.runs", item.runs, "", Reading(item.place, "runs"), "whole")
    tokens = book.read(
        f"{id}.tokens", item.tokens, "tokens", Reading(item.place, "sum of tokens over its runs"), "count"
    )
    seconds = Reading(item.place, "sum of seconds over its runs")
    book.read(f"{id}.seconds", item.seconds, "s", seconds, "duration")
    hours = book.compute(f"{id}.hours", f"{id}.seconds / {HOUR_S}", "h", "hours")
    return _make_row(book, id, item.name, [runs, tokens, hours], price)


def _add_total(book: NumberBook, items: Sequence[CostItem], price: Number | None) -> tuple[Text, ...]:
    ids = [make_id("cost", item.name) for item in items]

    def add(name: str, unit: str, style: Style) -> Number:
        return book.compute(f"cost.total.{name}", f"sum({', '.join(f'{id}.{name}' for id in ids)})", unit, style)

    total = [add("runs", "", "whole"), add("tokens", "tokens", "count"), add("hours", "h", "hours")]
    return _make_row(book, "cost.total", "total", total, price)


def _make_row(
    book: NumberBook, id: str, name: str, numbers: Sequence[Number], price: Number | None
) -> tuple[Text, ...]:
    cells = [cell_of(number) for number in numbers]
    if price is not None:
        cells.append(cell_of(book.compute(f"{id}.money", f"{id}.hours * {PRICE_ID}", "", "money")))
    return ((Name(name),), *cells)
