"""The files of a report: report.json, report.md, index.html and figures, written together or not at all."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from harness.core.errors import ConfigError
from harness.core.files import write_folder_atomically
from harness.evidence.report.document import Quote, Report, iterate_figures, iterate_texts
from harness.evidence.report.markdown_page import FIGURES_FOLDER, format_report_markdown
from harness.evidence.report.numbers import Formula, Given, NumberSource, Reading
from harness.evidence.report.report_html import draw_report_figure, format_report_as_html

REPORT_JSON, MARKDOWN, PAGE = "report.json", "report.md", "index.html"
RENDERER, FILES = "renderer", "files"
"""Keys of report.json: a digest of the code that wrote the other files, and digests of these."""
SCHEMA = 1


def render_report(report: Report) -> dict[str, str]:
    """Return the content of every file of a report, by its path in the folder."""
    files = {MARKDOWN: format_report_markdown(report), PAGE: format_report_as_html(report)}
    files |= {f"{FIGURES_FOLDER}/{one.name}.svg": draw_report_figure(one) for one in iterate_figures(report)}
    document = report_to_json(report)
    document |= {RENDERER: compute_renderer_digest(), FILES: {name: digest_text(text) for name, text in files.items()}}
    return {REPORT_JSON: json.dumps(document, allow_nan=False, indent=1, ensure_ascii=False) + "\n", **files}


def digest_text(text: str) -> str:
    """Return a digest of the lines of a text, however they end."""
    return hashlib.sha256("\n".join(text.splitlines()).encode()).hexdigest()[:16]


@cache
def compute_renderer_digest() -> str:
    """Return a digest of the code that words and draws reports; other code may write other words around the numbers."""
    package = Path(__file__).parents[1]
    sources = sorted(
        [*(package / "report").rglob("*.py"), *(package / "charts").rglob("*.py"), package / "html_page.py"]
    )
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def write_report(folder: Path, report: Report) -> list[Path]:
    """Write a report to `folder`, which may hold an earlier one, and return the paths of its files.

    Raises:
        ConfigError: If the folder holds something else.
    """
    check_report_folder(folder)
    files = render_report(report)

    def write(draft: Path) -> None:
        for name, content in files.items():
            (draft / name).parent.mkdir(exist_ok=True)
            (draft / name).write_text(content)

    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    write_folder_atomically(folder.absolute(), write)
    return [folder / name for name in files]


def check_report_folder(folder: Path) -> None:
    """Check that a report may be written to `folder`: that it is absent, empty, or holds a report and no more.

    Raises:
        ConfigError: If it does not.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir():
        raise ConfigError(f"--to: {folder}: is not a folder; name one for the report")
    if folder.is_symlink():
        raise ConfigError(f"--to: {folder}: is a link; name the folder itself")
    others = sorted(
        entry.name for entry in folder.iterdir() if entry.name not in (REPORT_JSON, MARKDOWN, PAGE, FIGURES_FOLDER)
    )
    others += [path.name for path in (folder / FIGURES_FOLDER).glob("*") if path.suffix != ".svg"]
    if others:
        raise ConfigError(f"--to: {folder}: holds other files ({others[0]}); name a folder of its own for the report")
    if any(folder.iterdir()) and not (folder / REPORT_JSON).is_file():
        raise ConfigError(f"--to: {folder}: holds files that are no report; name a folder of its own for the report")


def report_to_json(report: Report) -> dict[str, Any]:
    """Return the content of report.json, as docs/reporting.md describes it; numbers that are not finite are text."""
    quotes = dict.fromkeys(
        (span.text, span.source) for text in iterate_texts(report) for span in text if isinstance(span, Quote)
    )
    return {
        "schema": SCHEMA,
        "title": report.title,
        "inputs": report.inputs,
        "numbers": {
            number.id: {
                "value": _to_plain(number.value),
                "unit": number.unit,
                "text": number.text,
                "source": _source_to_json(number.source),
            }
            for number in report.numbers.values()
        },
        "figures": {
            figure.name: {"data": _to_plain(asdict(figure.data)), "sources": list(figure.sources)}
            for figure in iterate_figures(report)
        },
        "quotes": [{"text": text, "source": source} for text, source in quotes],
    }


def _source_to_json(source: NumberSource) -> dict[str, Any]:
    match source:
        case Reading():
            found = {"read_from": source.place, "metric": source.metric, "step": source.step, "note": source.note}
        case Formula():
            found = {"formula": source.expression, "note": source.note}
        case Given():
            found = {"given": source.option}
    return {key: value for key, value in found.items() if value not in (None, "")}


def _to_plain(value: Any) -> Any:
    """Return what JSON can hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {name: _to_plain(inner) for name, inner in value.items()}
    return [_to_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
