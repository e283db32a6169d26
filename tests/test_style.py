"""Names and prose stay readable. `python -m tests.style` prints the numbers behind these limits."""

import ast
from collections import defaultdict

from tests.style import ROOT, find_bad_prose, function_names, one_word_share, source_files

# One of each per command and per preflight check; `preflight` is also that of each framework.
EXEMPT_NAMES = {"main", "check", "preflight"}


def test_at_most_30_percent_of_function_names_are_one_word() -> None:
    assert one_word_share(function_names(source_files("harness"))) <= 0.30


def test_docstrings_and_comments_are_plain_english() -> None:
    assert not find_bad_prose(source_files("harness", "tests", "benchmarks"))


def test_no_public_name_is_defined_in_two_packages() -> None:
    packages = defaultdict(set)
    for file in source_files("harness"):
        package = file.relative_to(ROOT / "harness").parts[0]
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                packages[node.name].add(package)
    assert not {name: sorted(found) for name, found in packages.items() if len(found) > 1 and name not in EXEMPT_NAMES}


def test_tests_mirror_the_package() -> None:
    """A test module lies in the folder of what it tests; tests/systems tests the five example systems end to end."""
    folders = {file.parent.relative_to(ROOT / "tests") for file in source_files("tests")}
    packages = {file.parent.relative_to(ROOT / "harness") for file in source_files("harness")}
    assert {str(folder) for folder in folders - packages} == {"systems", "fuzzing"}
