"""The settings tables in docs/systems match the composed experiments."""

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from harness.config.compose import compose_config, flatten_config, without_sweep_keys
from tests.conftest import ROOT

PAGES = sorted((ROOT / "docs" / "systems").glob("*.md"))
SYSTEMS = ["gpt2_lora", "gpt2_resume", "headlines", "ltg_bert", "operator"]
HEADER = "| key | before | after | source |"


def read_settings_table(page: Path) -> dict[str, list[str]]:
    """Return before, after and source by key from the first table under HEADER."""
    lines = page.read_text().split(HEADER)[1].splitlines()[2:]
    rows = [line.strip("|").split("|") for line in lines[: lines.index("") if "" in lines else None]]
    return {row[0].strip().strip("`"): [cell.strip().strip("`") for cell in row[1:]] for row in rows}


def compose_values(experiment: str) -> dict[str, str]:
    return flatten_config(OmegaConf.to_container(without_sweep_keys(compose_config([f"experiment={experiment}"]))))


def test_every_system_has_page_sweep_and_experiments() -> None:
    assert [page.stem for page in PAGES] == SYSTEMS
    for system in SYSTEMS:
        assert (ROOT / "sweeps" / f"{system}.yaml").is_file()
        for variant in ("", "_before", "_after"):
            assert (ROOT / "conf" / "experiment" / f"{system}{variant}.yaml").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_settings_table_matches_composed_configs(page: Path) -> None:
    before, after = compose_values(f"{page.stem}_before"), compose_values(f"{page.stem}_after")
    settings = read_settings_table(page)
    for key, (value_before, value_after, source) in settings.items():
        assert (value_before, value_after) == (before.get(key, "-"), after.get(key, "-")), key
        assert source, key
    different = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)} - {"name"}
    assert different <= settings.keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_states_sample_size_and_no_machine_paths(page: Path) -> None:
    text = page.read_text()
    assert re.search(r"n = \d", text)
    assert not re.search(r"(?<![\w.])/(work|tmp|home)/", text)
