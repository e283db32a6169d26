"""English that every Python carries: the standard library's docstrings, read without importing a module."""

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
    """Of the Python version and the size of each file, since distributions ship more or less of the library."""
    root = _get_stdlib_dir()
    sizes = [[path.relative_to(root).as_posix(), path.stat().st_size] for path in _list_source_files(root)]
    return compute_digest("pydoc", platform.python_implementation(), platform.python_version(), sizes)


@cache
def read_docstrings() -> tuple[tuple[str, str], ...]:
    """(`os.path.join`, its docstring) and so on, in the order of the files; ValueError where there is no source."""
    root = _get_stdlib_dir()
    found = []
    for path in _list_source_files(root):
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        found += _walk_docstrings(ast.parse(path.read_bytes()), module.replace("posixpath", "os.path"))
    if not found:
        raise ValueError(f"this Python keeps no source with docstrings in {root}; use data=text data.source.path=FILE")
    return tuple(found)


def read_help_topics() -> list[str]:
    """What `help('FOR')` and its like print: chapters of the language reference."""
    from pydoc_data.topics import topics

    return [topics[name].strip() for name in sorted(topics)]


def _walk_docstrings(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    if docstring := ast.get_docstring(node):
        yield name, docstring
    for child in _iter_definitions(node):
        yield from _walk_docstrings(child, f"{name}.{child.name}")


def _iter_definitions(node: ast.AST) -> Iterator[ast.AST]:
    """The classes and functions of a body, also those under an `if` or a `try`."""
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
