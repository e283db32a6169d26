"""The list of kinds is complete: an option that names kinds has to know all that a rule can find."""

import ast

from harness.diagnosis.kinds import KINDS
from tests.style import ROOT, source_files


def test_every_kind_that_a_rule_yields_is_listed() -> None:
    found = {
        node.args[0].value
        for file in source_files("harness/diagnosis")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Diagnosis"
        if isinstance(node.args[0], ast.Constant)
    }
    computed = {"learning rate too low", "learning rate too high"}
    assert found - {"expectation"} | computed == set(KINDS)
    page = (ROOT / "docs" / "diagnosis.md").read_text()
    assert [kind for kind in KINDS if f"| {kind}" not in page and "/ too high |" not in page] == []
