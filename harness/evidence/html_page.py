"""Parts that HTML pages share: one file without scripts or other files, for phones, dark screens and paper."""

import re
from collections.abc import Sequence

from harness.evidence.charts.svg_chart import CHART_STYLE, escape, list_variables

PAGE_STYLE = """
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif;
  color: var(--ink); background: var(--paper); max-width: 60rem; margin: 0 auto; padding: 1.25rem 1rem 3rem;
  overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 2.5rem 0 .75rem; padding-top: .75rem;
  border-top: 1px solid var(--grid); }
p, ul { margin: .75rem 0; max-width: 44rem; overflow-wrap: anywhere; }
ul { padding-left: 1.25rem; } li { margin: .25rem 0; }
a { color: var(--first); }
nav ul { display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; list-style: none; padding: 0; font-size: .95rem; }
code, pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; font-size: .88em; }
code { background: var(--band); padding: .1em .3em; border-radius: .25em; overflow-wrap: anywhere; }
pre { background: var(--band); padding: .75rem 1rem; border-radius: .4rem; white-space: pre-wrap;
  overflow-wrap: anywhere; margin: .75rem 0; } pre code { background: none; padding: 0; }
.verdict { border-left: .3rem solid var(--first); background: var(--band); padding: .75rem 1rem; font-size: 1.08rem; }
.scroll { overflow-x: auto; margin: 1rem 0;  /* a shadow at the right edge until the end is scrolled to */
  background: linear-gradient(to left, var(--paper) 40%, transparent) right / 3rem 100% no-repeat local,
    linear-gradient(to left, var(--soft), transparent) right / 1rem 100% no-repeat scroll; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; line-height: 1.4; }
.scroll + .caption { color: var(--soft); font-size: .92rem; line-height: 1.45; margin: -.5rem 0 1.5rem; }
th, td { text-align: left; padding: .4rem .9rem .4rem 0; border-bottom: 1px solid var(--grid); vertical-align: top; }
th { font-weight: 600; } thead th, thead td { border-bottom: 1.5px solid var(--soft); vertical-align: bottom; }
td { max-width: 18rem; overflow-wrap: break-word; min-width: 4.5rem; } td code { overflow-wrap: break-word; }
td.number, th.number { text-align: right; } td.number { white-space: nowrap; }
.number { font-variant-numeric: tabular-nums; }
tbody th { position: sticky; left: 0; background: var(--paper); min-width: 7rem;
  max-width: min(12rem, 42vw);
  font-weight: 500; overflow-wrap: break-word; } th code { overflow-wrap: break-word; }
figure { margin: 1.5rem 0 2rem; }
figcaption { font-size: .92rem; line-height: 1.45; color: var(--soft); max-width: 44rem; overflow-wrap: anywhere; }
svg.chart { display: block; width: 100%; max-width: 32rem; height: auto; margin: 0 0 .5rem; }
@media (min-width: 56rem) {
  figure { display: grid; grid-template-columns: 32rem minmax(0, 1fr); gap: 0 2rem; align-items: start; }
  figcaption { padding-top: .6rem; }
}
@media print {
  @page { margin: 16mm 14mm; }
  body { font-size: 10.5pt; max-width: none; padding: 0; }
  nav { display: none; } h1 { margin-top: 0; } h2 { break-after: avoid; margin-top: 1.6rem; }
  .scroll { overflow: visible; background: none; } table { font-size: .88em; } td { min-width: 0; }
  td.number { white-space: normal; overflow-wrap: normal; } tbody th { min-width: 2.6cm; }
  tbody th { position: static; }
  figure, tr, .verdict, pre { break-inside: avoid; } thead { display: table-header-group; }
  p, li { orphans: 3; widows: 3; } p:has(+ ul, + pre, + .scroll, + figure) { break-after: avoid; }
  figure { display: block; } svg.chart { max-width: 11cm; max-height: 20cm; }
  a { color: inherit; text-decoration: none; }
  .verdict, code, pre { background: none; } .verdict { border: 1.5pt solid; } pre { border: .5pt solid; }
}
"""
UNBROKEN = 12  # characters of a key that is never broken
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""Nothing is run or fetched, whatever the names of runs hold."""


def escape_with_breaks(text: str) -> str:
    """Return a text for HTML that may be broken within a key, a path or a command, after what separates its parts."""
    if len(text) <= UNBROKEN:
        return escape(text)
    return "<wbr>".join(map(escape, re.split(r"(?<=[./_=,:(\\-])(?=[^\W\d_])", text)))


def render_page(title: str, body: str) -> str:
    """Return the page; `body` is HTML."""
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>\n<style>\n{list_variables()}{PAGE_STYLE}{CHART_STYLE}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def render_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    label: str,
    *,
    caption: str = "",
    number_columns: frozenset[int] = frozenset(),
) -> str:
    """Return a table that scrolls in a box of its own; cells and caption are HTML, `label` is text for screen readers.

    The first cell of a row names it. `number_columns` are aligned to the right.
    """

    def cell(tag: str, index: int, content: str) -> str:
        scope = ' scope="row"' if tag == "th" else ""
        return f"<{tag}{scope}{' class=number' if index in number_columns else ''}>{content}</{tag}>"

    head = "".join(
        f'<th scope="col"{" class=number" if index in number_columns else ""}>{content}</th>'
        if content
        else "<td></td>"
        for index, content in enumerate(header)
    )
    body = "\n".join(
        "<tr>" + "".join(cell("td" if index else "th", index, content) for index, content in enumerate(row)) + "</tr>"
        for row in rows
    )
    below = f'<p class="caption">{caption}</p>' if caption else ""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}"><table>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>{below}"
    )


def render_figure(svg: str, caption: str, name: str = "") -> str:
    """Return a figure; `svg` carries its accessible name, and `caption` is HTML."""
    id = f' id="{escape(name)}"' if name else ""
    return f"<figure{id}>{svg}<figcaption>{caption}</figcaption></figure>"
