"""English text that every Python has: docstrings of the standard library, parsed without importing a module."""

import ast
import os
import platform
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from harness.data.cache import compute_digest

SKIPPED_FOLDERS = {"__pycache__", "site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3"}
DEFINITION_NODES = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def compute_stdlib_digest() -> str:
    """Return a digest of the Python version and all file sizes: distributions ship different parts of the library."""
    root = _get_stdlib_dir()
    sizes = [[path.relative_to(root).as_posix(), path.stat().st_size] for path in _list_source_files(root)]
    return compute_digest("pydoc", platform.python_implementation(), platform.python_version(), sizes)


@cache
def read_docstrings() -> tuple[tuple[str, str], ...]:
    """Return pairs of a dotted name, such as `os.path.join`, and its docstring, in the order of the files.

    Raises:
        ValueError: If this Python has no source files.
    """
    root = _get_stdlib_dir()
    found: list[tuple[str, str]] = []
    for path in _list_source_files(root):
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        found += _walk_docstrings(ast.parse(path.read_bytes()), module.replace("posixpath", "os.path"))
    if not found:
        raise ValueError(f"no source files with docstrings in {root}; use data=text data.source.path=FILE")
    return tuple(found)


def read_help_topics() -> list[str]:
    """Return the chapters of the language reference that `help('FOR')` and similar calls print."""
    from pydoc_data.topics import topics

    return [topics[name].strip() for name in sorted(topics)]


def _walk_docstrings(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str
) -> Iterator[tuple[str, str]]:
    if docstring := ast.get_docstring(node):
        yield name, docstring
    for child in _iter_definitions(node):
        yield from _walk_docstrings(child, f"{name}.{child.name}")


def _iter_definitions(node: ast.AST) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield the classes and functions of a body, including those under an `if` or a `try`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, DEFINITION_NODES):
            yield child
        elif isinstance(child, ast.If | ast.Try | ast.ExceptHandler):
            yield from _iter_definitions(child)


def _get_stdlib_dir() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _list_source_files(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(set(folders) - SKIPPED_FOLDERS)
        yield from (Path(folder, name) for name in sorted(names) if name.endswith(".py"))
