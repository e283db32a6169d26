"""Measure the style of the code: `python -m tests.style`.

Prints the share of function names that are one word, comment lines per 100 lines of code, the longest files and
functions, and each docstring that opens with a word that makes it hard to read. tests/test_style.py sets the limits.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

# A docstring says what a function does ("Return ...") or what a thing is; these openings leave the verb out.
BAD_OPENINGS = ("Of", "As", "What", "Whether", "That", "So", "How", "Where", "Why")
# Turns of phrase that a reader has to decode.
BANNED_PHRASES = (
    "anew", "to the bit", "goes on with", "gone on with", "is told", "are told", "came to no good", "no more than",
    "nothing speaks", "is none of", "laid open", "by heart", "bears on", "lives no longer", "is heard no more",
)  # fmt: skip


def source_files(*folders: str) -> list[Path]:
    """Return the Python files below `folders`, given relative to the project's root."""
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def function_names(files: list[Path]) -> list[str]:
    """Return the names of all functions and methods without dunder methods."""
    return [
        node.name
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("__")
    ]


def one_word_share(names: list[str]) -> float:
    return sum("_" not in name.strip("_") for name in names) / len(names)


def docstrings(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and text of each docstring, those below constants and fields included."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def comments(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and text of each comment that is not an instruction to a tool."""
    for token in tokenize.generate_tokens(io.StringIO(file.read_text()).readline):
        if token.type == tokenize.COMMENT and not re.match(r"#\s*(noqa|fmt|type|pragma)\b", token.string):
            yield token.start[0], token.string


def find_bad_prose(files: list[Path]) -> list[str]:
    """Return "file:line: problem" for each docstring and comment that is not plain English."""
    found = []
    for file in files:
        for line, text in [*docstrings(file), *comments(file)]:
            place = f"{file.relative_to(ROOT)}:{line}"
            opening = text.split(maxsplit=1)[0] if text.strip() else ""
            if opening in BAD_OPENINGS:
                found.append(f"{place}: opens with {opening!r}")
            folded = " ".join(text.lower().split())
            found += [f"{place}: {phrase!r}" for phrase in BANNED_PHRASES if re.search(rf"\b{phrase}\b", folded)]
    return found


def main() -> None:
    files = source_files("harness")
    names = function_names(files)
    code_lines = sum(bool(line.strip()) for file in files for line in file.read_text().splitlines())
    lengths = sorted(((len(file.read_text().splitlines()), file) for file in files), reverse=True)
    print(f"files: {len(files)}, lines: {sum(length for length, _ in lengths)}, functions: {len(names)}")
    print(f"one-word function names: {one_word_share(names):.0%}")
    print(f"comments: {100 * sum(len(list(comments(file))) for file in files) / code_lines:.1f} per 100 lines")
    print("longest files:", ", ".join(f"{file.relative_to(ROOT)} {length}" for length, file in lengths[:5]))
    print(*find_bad_prose(source_files("harness", "tests", "benchmarks")), sep="\n")


if __name__ == "__main__":
    main()
