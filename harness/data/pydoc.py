"""English that every Python carries: the standard library's docstrings, read without importing a module."""

import ast
import os
import platform
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from harness.data.cache import digest

SKIPPED_FOLDERS = {"__pycache__", "site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3"}
NAMED_BY = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def fingerprint() -> str:
    """Of the Python version and the size of each file, since distributions ship more or less of the library."""
    root = _root()
    sizes = [[path.relative_to(root).as_posix(), path.stat().st_size] for path in _files(root)]
    return digest("pydoc", platform.python_implementation(), platform.python_version(), sizes)


@cache
def docstrings() -> tuple[tuple[str, str], ...]:
    """(`os.path.join`, its docstring) and so on, in the order of the files; ValueError where there is no source."""
    root = _root()
    found = []
    for path in _files(root):
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        found += _documented(ast.parse(path.read_bytes()), module.replace("posixpath", "os.path"))
    if not found:
        raise ValueError(f"this Python keeps no source with docstrings in {root}; use data=text data.source.path=FILE")
    return tuple(found)


def topics() -> list[str]:
    """What `help('FOR')` and its like print: chapters of the language reference."""
    from pydoc_data.topics import topics

    return [topics[name].strip() for name in sorted(topics)]


def _documented(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    if docstring := ast.get_docstring(node):
        yield name, docstring
    for child in _definitions(node):
        yield from _documented(child, f"{name}.{child.name}")


def _definitions(node: ast.AST) -> Iterator[ast.AST]:
    """The classes and functions of a body, also those under an `if` or a `try`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, NAMED_BY):
            yield child
        elif isinstance(child, ast.If | ast.Try | ast.ExceptHandler):
            yield from _definitions(child)


def _root() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _files(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(set(folders) - SKIPPED_FOLDERS)
        yield from (Path(folder, name) for name in sorted(names) if name.endswith(".py"))
