"""The HTML page of a report: its parts, and how Chromium shows it."""

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from harness.evidence.report.document import (
    Bare,
    BulletList,
    Code,
    CommandLines,
    Name,
    Paragraph,
    Quote,
    Report,
    ReportFigure,
    ReportSection,
    ReportTable,
)
from harness.evidence.report.report_html import draw_report_figure, format_report_as_html
from harness.evidence.report.study_report import make_study_report
from harness.evidence.report.study_source import load_study_source
from tests.browser import CHROMIUM, NEEDS_CHROMIUM, Browser, start_browser
from tests.evidence.charts.hard_figures import EVIL, HARD_FIGURES, LONG
from tests.evidence.report.example_report import make_example_report
from tests.evidence.report.study_folders import add_confirmation, make_sweep_folder

WIDTHS = (390, 1200)
SMALLEST_TEXT = 10.5  # pixels on a phone


def make_hard_report() -> Report:
    """Return the example with every hard figure, and with names of strangers wherever a name may stand."""
    report = make_example_report()
    number = next(iter(report.numbers.values()))
    names = (Name(EVIL), Code(EVIL), Quote(EVIL, EVIL), Name(LONG), Code(LONG))
    table = ReportTable(
        (("",), *(((Name(f"column {index}"),)) for index in range(8))),
        tuple(((name,), *((Bare(number),),) * 7, (Name("not shown"),)) for name in names),
        names,
    )
    blocks = (Paragraph(names), BulletList((names,)), table, CommandLines((EVIL, LONG)))
    figures = tuple(
        ReportFigure(name.replace(" ", "-"), data, (f"alt of {name}: ", Name(EVIL)), names)
        for name, data in HARD_FIGURES.items()
    )
    return replace(
        report, title=f"{EVIL} {LONG}", sections=(*report.sections, ReportSection("a", EVIL, blocks + figures))
    )


class PageParser(HTMLParser):
    """Collect the elements of a page, and its numbers by id."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.numbers: list[tuple[str, str]] = []
        self._number = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._number = dict(attrs).get("data-number") or ""

    def handle_data(self, data: str) -> None:
        if self._number:
            self.numbers.append((self._number, data))
            self._number = ""


def parse_page(text: str) -> PageParser:
    parser = PageParser()
    parser.feed(text)
    return parser


def test_page_is_one_file_whose_numbers_carry_their_ids() -> None:
    report = make_example_report()
    text = format_report_as_html(report)
    page = parse_page(text)
    assert text == format_report_as_html(make_example_report())
    assert ("best.difference", "-0.1136 nats/token") in page.numbers
    assert ("baseline.val_loss", "3.6123") in page.numbers  # in a table whose header has the unit
    assert {id for id, _ in page.numbers} <= report.numbers.keys()
    images = [attributes for _, attributes in page.elements if attributes.get("role") == "img"]
    assert len(images) == 4
    assert images[0]["aria-label"] == "curves: from 3.6123 nats/token to 3.4987 nats/token."
    assert "http:" not in text
    assert "https:" not in text
    assert "@media print" in text


def test_nothing_that_strangers_wrote_is_markup() -> None:
    page = parse_page(format_report_as_html(make_hard_report()))
    assert not {"script", "img", "link", "iframe", "object"} & {tag for tag, _ in page.elements}
    assert not [key for _, attributes in page.elements for key in attributes if key.startswith("on")]
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00]", format_report_as_html(make_hard_report()))


def test_columns_of_numbers_are_aligned() -> None:
    text = format_report_as_html(make_example_report())
    assert '<th scope="col" class=number>validation loss' in text
    assert '<th scope="col">before' in text


def test_figure_of_a_file_has_its_description() -> None:
    section = make_example_report().sections[2]
    figure = section.blocks[0]
    assert isinstance(figure, ReportFigure)
    assert "<title>curves: from 3.6123 nats/token" in draw_report_figure(figure)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip(NEEDS_CHROMIUM)
    with start_browser() as started:
        yield started


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with everything that is hard to show."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(format_report_as_html(make_hard_report()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def study_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page on a sweep with a confirmation, in which a run diverged."""
    folder = make_sweep_folder(tmp_path_factory.mktemp("study") / "a study", 3, n_trials=30)
    candidates = {1: [3.1, 3.2, math.nan, 3.0, 3.1], 2: [3.6, 3.5, 3.6, 3.7, 3.5]}
    add_confirmation(folder, [3.6, 3.7, 3.5, 3.6, 3.8], candidates, margin=0.2, split="test")
    path = folder / "report.html"
    path.write_text(format_report_as_html(make_study_report(load_study_source(folder), 2.5, {})), encoding="utf-8")
    return path


FIND_TEXT_PROBLEMS = """
[...document.querySelectorAll('svg.chart')].flatMap(svg => {
  const outer = svg.getBoundingClientRect(), scale = outer.width / svg.viewBox.baseVal.width;
  const texts = [...svg.querySelectorAll('text')].map(text => ({
    box: text.getBoundingClientRect(), size: parseFloat(getComputedStyle(text).fontSize) * scale,
    words: [...text.childNodes].filter(node => node.nodeType == 3).map(node => node.data).join('')}));
  const find = ({box, size, words}, i) => [
    !(box.width > 0 && box.height > 0) && 'is invisible',
    box.left < outer.left - 1 || box.right > outer.right + 1 || box.top < outer.top - 1 || box.bottom > outer.bottom + 1
      ? 'is outside' : '',
    size < SMALLEST && 'is small: ' + size,
    ...texts.slice(i + 1).filter(other =>
      Math.min(box.right, other.box.right) - Math.max(box.left, other.box.left) > 1 &&
      Math.min(box.bottom, other.box.bottom) - Math.max(box.top, other.box.top) > 5 * scale
    ).map(other => 'overlaps ' + other.words),
  ].filter(Boolean).map(problem => svg.getAttribute('aria-label').slice(0, 30) + ': ' + words + ': ' + problem);
  return texts.flatMap(find);
})
"""


@pytest.mark.parametrize("name", ["page", "study_page"])
@pytest.mark.parametrize("width", WIDTHS)
def test_page_fits_its_window_and_text_in_figures_is_readable(
    browser: Browser, name: str, width: int, request: pytest.FixtureRequest
) -> None:
    browser.open_page(request.getfixturevalue(name), width)
    assert browser.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
    assert browser.evaluate(FIND_TEXT_PROBLEMS.replace("SMALLEST", str(SMALLEST_TEXT))) == []
    assert browser.evaluate("[...document.querySelectorAll('.scroll')].every(e => e.clientWidth <= innerWidth)")
    assert browser.messages == []


def test_every_figure_has_a_name_and_text_is_not_hidden(browser: Browser, page: Path) -> None:
    browser.open_page(page, 390)
    names = browser.list_accessible_names("image")
    assert len(names) == 4 + len(HARD_FIGURES)
    assert all(names)
    assert "Configs before and after" in browser.evaluate("document.body.innerText")
    hidden = "[...document.querySelectorAll('main *')].filter(e => e.innerText && !e.getClientRects().length).length"
    assert browser.evaluate(hidden) == 0


@pytest.mark.parametrize("is_dark", [False, True])
def test_text_has_contrast(browser: Browser, page: Path, is_dark: bool) -> None:
    browser.open_page(page, 1200, is_dark=is_dark)
    colors = browser.evaluate(
        "[getComputedStyle(document.body).backgroundColor, "
        "...['body', 'figcaption', 'a', 'svg.chart text', 'svg.chart text.soft'].map(name => {"
        " const style = getComputedStyle(document.querySelector(name));"
        " return name.startsWith('svg') ? style.fill : style.color; })]"
    )
    paper, *inks = [compute_luminance(color) for color in colors]
    assert (paper < 0.1) == is_dark
    for ink in inks:
        assert (max(paper, ink) + 0.05) / (min(paper, ink) + 0.05) >= 4.5  # WCAG 2.2, level AA


def compute_luminance(color: str) -> float:
    """Return the relative luminance of a color such as "rgb(255, 255, 255)", as WCAG defines it."""
    channels = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in channels]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_page_prints_to_pdf(browser: Browser, page: Path) -> None:
    browser.open_page(page, 1200, is_dark=True)
    pdf = browser.print_pdf()
    assert pdf.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type /Page\b", pdf)) >= 3
