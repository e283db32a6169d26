"""Plain text logs of any program: `Step 1500: train loss 6.65, val loss 6.74`, bars, dictionaries, blocks of lines.

In a first pass, the lines are grouped by their templates (text/lines.py), which say what their numbers stand for
(text/templates.py and labels.py). What occurs again and again with another step and another loss is the log; source
code, settings and chatter are not. The second pass makes rows of it.
"""

from collections.abc import Iterable
from pathlib import Path

from harness.diagnosis.history import History, RunFacts
from harness.importers.assembly.histories import assemble_histories
from harness.importers.text.line_rows import build_rows
from harness.importers.text.lines import collect_lines

EXAMPLE = "step 100 | loss 3.21 | lr 1e-4 | grad norm 1.2"


def read_text_log(lines: Iterable[str], path: Path) -> list[History]:
    """Read the lines of the file `path` that hold losses, with what is beside and around them.

    Raises:
        ValueError: If no line holds a loss, or too many lines hold numbers that matter.
    """
    log = collect_lines(lines, path)
    rows, note = build_rows(log, path)
    if not rows:
        counted = "1 line" if log.n_lines == 1 else f"{log.n_lines} lines"
        shown = f"; the first line is {log.first_line!r}" if log.n_lines else ""
        raise ValueError(f"{path}: no step and loss found in {counted}; expected e.g. {EXAMPLE!r}{shown}")
    source = f"text log {path}: {len(rows)} of {log.n_lines} lines parsed{note}"
    return assemble_histories(rows, RunFacts(name=path.stem, source=source))
