"""The markdown of a report as a renderer reads it: nothing that strangers named becomes markup."""

import re

import pytest
from markdown_it import MarkdownIt

from harness.evidence.report.document import (
    BulletList,
    Code,
    CommandLines,
    Name,
    Paragraph,
    Quote,
    Report,
    ReportSection,
    ReportTable,
)
from harness.evidence.report.markdown_page import format_report_markdown
from tests.evidence.report.example_report import make_example_report

HOSTILE = [
    "a|b", "*bold* _x_ ~~y~~", "`tick", "```", "<img src=x onerror=alert(1)>", "[link](http://evil)", "# head",
    "- item", "1. item", "2) item", "+ item", "===", "---", "> quote", "&amp; &lt;", "back\\slash", "$x$", "@somebody",
    "line\nbreak", "tab\there", "``two", "\\|", "|", "https://evil.example", "   spaces   ", "",
]  # fmt: skip


def render(report: Report) -> str:
    return MarkdownIt("commonmark").enable("table").render(format_report_markdown(report))


def read_words(page: str) -> str:
    text = re.sub(r"<[^>]+>", "\n", page)
    for name, char in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        text = text.replace(name, char)
    return text


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str) -> None:
    sections = (
        ReportSection("s", "Section", (
            Paragraph((Name(text), " and ", Quote(text, "x"), ".")),
            BulletList(((Name(text),), (Code(text),))),
            ReportTable((("",), (Name(text),)), (((Name(text),), (Code(text),)), (("a",), ("b",)))),
            CommandLines((text,)),
        )),
    )  # fmt: skip
    page = render(Report(text or "none", sections, {}))
    assert page.count("<table>") == page.count("<h1>") == page.count("<h2>") == page.count("<pre>") == 1
    assert page.count("<tr>") == 3
    assert page.count("<td") == 4
    assert page.count("<li>") == 2
    assert not re.search(r"<(img|a|em|strong|del|blockquote|ol)\b", page)
    line = " ".join(text.split())
    assert " ".join(read_words(page).split()).count(line) >= 6


def test_the_example_is_a_document_with_tables_figures_and_commands() -> None:
    page = render(make_example_report())
    assert page.count("<table>") == 2
    assert re.findall(r'<img src="([^"]+)"', page)[0] == "figures/curves.svg"
    assert "<strong>Nothing was confirmed" in page
    assert 'class="language-sh"' in page
    assert "6e-4 | `x` &lt;b&gt;" in page
