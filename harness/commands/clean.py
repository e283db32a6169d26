"""Write a cleaned copy of a text file, and a list of the changes.

    plateau clean data=qa_markdown data.source.path=notes.md --to cleaned.md

Drops duplicate, empty and broken documents and outlying passages, repairs broken encoding, and writes Unix line ends.
cleaned.md.changes lists each change with its reason. The original file is not modified.
"""

import gzip
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.commands.arguments import CommandParser, ParagraphFormatter, add_overrides, parse_overrides
from harness.config.compose import compose_config
from harness.config.validation import check_writable, validate_config
from harness.core.errors import ConfigError
from harness.core.files import write_atomically
from harness.data.cleaning import CLEANABLE_SOURCES, CleaningChange, clean_text
from harness.data.text_files import normalize_text, read_unchanged_text
from harness.run.build import instantiate_component

MAX_BYTES = 250_000_000  # cleaning takes about 12 times the file's size in memory


def main(arguments: Sequence[str]) -> int:
    parser = CommandParser(prog="plateau clean", description=__doc__, formatter_class=ParagraphFormatter)
    add_overrides(parser)
    parser.add_argument("--to", type=Path, metavar="FILE", required=True, help="the cleaned copy; .gz is compressed")
    parser.add_argument("--force", action="store_true", help="overwrite FILE if it exists")
    args = parse_overrides(parser, arguments)
    source, file = _load_source(args.overrides)
    _check_output(args.to, file, args.force)
    try:
        raw = read_unchanged_text(file, MAX_BYTES)
        before = normalize_text(raw)
        after, changes = clean_text(source, before)
    except ValueError as error:
        raise ConfigError(f"data.source: {'' if str(file) in str(error) else f'{file}: '}{error}") from error
    if not after.strip():
        reasons = ", ".join(sorted({change.reason.partition(":")[0] for change in changes})) or "it is blank"
        raise ConfigError(f"data.source.path: nothing of {file} would be left ({reasons}); see plateau preflight")
    changes = [*_find_normalizations(raw), *changes]
    _write_file(args.to, after)
    _write_file(get_changes_path(args.to), _format_table(changes))
    print(_summarize_changes(changes, before, after, args.to))
    return 0


def _find_normalizations(raw: str) -> Iterator[CleaningChange]:
    """Yield what `normalize_text` changes, in one entry for the whole file each."""
    if raw.startswith("\ufeff"):
        yield CleaningChange(1, "removed", "byte order mark", "")
    if count := raw.count("\r\n"):
        line = raw.count("\n", 0, raw.index("\r\n")) + 1
        yield CleaningChange(line, "replaced", f"CRLF by LF: {count:,} line ends", "", count)


def get_changes_path(copy: Path) -> Path:
    """Return the path of the list of changes."""
    return copy.with_name(f"{copy.name}.changes")


def _load_source(overrides: Sequence[str]) -> tuple[Any, Path]:
    """Return the configured source and the file that it reads."""
    cfg = compose_config(overrides)
    if "path" not in (cfg.data.get("source") or {}).keys():  # noqa: SIM118, finds keys whose value is missing
        raise ConfigError("data: clean needs a text file; choose data=text, qa_markdown, jsonl or headlines")
    validate_config(cfg)
    source = instantiate_component(cfg, "data", "source")
    if not isinstance(source, CLEANABLE_SOURCES):
        raise ConfigError(f"data: clean needs a text file, but {type(source).__name__} reads something else")
    files = source.list_files()
    if len(files) != 1:
        raise ConfigError(f"data.source.path: names {len(files)} files; clean takes one at a time")
    return source, files[0]


def _check_output(to: Path, file: Path, force: bool) -> None:
    for path in (to, get_changes_path(to)):
        if path.exists() and path.samefile(file):
            raise ConfigError(f"--to: {path} is the original file; name another one")
        if path.is_dir() or (path.exists() and not force):
            raise ConfigError(f"--to: {path} exists; name another file, or overwrite it with --force")
    if not to.absolute().parent.is_dir():
        raise ConfigError(f"--to: there is no folder {to.absolute().parent}; create it, or name another")
    check_writable("--to", to.absolute().parent)


def _write_file(path: Path, text: str) -> None:
    content = text.encode()
    write_atomically(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def _format_table(changes: Sequence[CleaningChange]) -> str:
    """Return the changes as tab-separated values."""
    rows = [("line", "action", "reason", "excerpt"), *((str(c.line), c.action, c.reason, c.excerpt) for c in changes)]
    return "".join("\t".join(row) + "\n" for row in rows)


def _summarize_changes(changes: Sequence[CleaningChange], before: str, after: str, to: Path) -> str:
    counts: Counter[tuple[str, str]] = Counter()
    for change in changes:
        counts[change.action, change.reason.partition(":")[0]] += change.count
    lines = [f"{number:>8,}  {action:<8} {reason}" for (action, reason), number in counts.most_common()]
    lines.append(f"{to}: {len(after):,} of {len(before):,} characters")
    lines.append(f"{get_changes_path(to)}: list of changes" if changes else "no changes")
    return "\n".join(lines)
