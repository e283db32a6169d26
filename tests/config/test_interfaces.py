"""Messages about own components point to sections of docs/extending.md that exist."""

import re
from pathlib import Path

import pytest

from harness.config.interfaces import INTERFACES, check_interface
from harness.core.errors import ConfigError

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


def test_every_anchor_is_a_heading() -> None:
    headings = re.findall(r"^## (.*)$", PAGE.read_text(), re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    assert {anchor for _, _, anchor in INTERFACES.values()} <= anchors


@pytest.mark.parametrize("path", [("data", "source"), ("tokenizer", "corpus")])
def test_source_without_its_methods_points_to_the_section_on_sources(path: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"no fingerprint, iter_documents; .* \(docs/extending.md#data-source\)"):
        check_interface(path, "my_package.Source", object())
