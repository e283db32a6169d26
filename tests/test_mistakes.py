"""Mistakes of new users: exit status 2, one or two lines with a remedy that works, and nothing written."""

import os
import re
import shlex
import sys
from pathlib import Path

import pytest

from harness import cli
from harness.config.compose import compose_config
from harness.config.group_options import list_groups
from harness.core import paths
from harness.sweep.space.range_syntax import parse_ranges
from tests import mistakes
from tests.conftest import drop_announcements

TIMED = {"run -m sweep.storage=nosuch://host/db sweep.dry_run=true", "run -m lora.ranks=2,4", "run -m lora.rank=0,4"}
"""Mistakes that are found after something was built."""
CASES = [
    pytest.param(*case, marks=[pytest.mark.slow] if number % 5 or case[0] in TIMED or "model=hf" in case[0] else [])
    for cases in mistakes.JOURNEYS.values()
    for number, case in enumerate(cases)
]

CASES_BY_LINE = {line: remedy for cases in mistakes.JOURNEYS.values() for line, remedy in cases}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Path:
    """Return a folder with a user's files, good and bad ones."""
    folder = tmp_path_factory.mktemp("mistakes")
    mistakes.write_files(folder)
    (folder / ".cache").symlink_to(cache_dir)
    return folder


def list_files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if ".cache" not in path.parts)


def find_suggestions(message: str) -> list[list[str]]:
    """Return the overrides that a message suggests after what it repeats of the input; a list for each alternative."""
    message = re.sub(r" \([^()]*\)$", "", message)  # what there is, or where it was found
    remedy = message[re.search(r"[;?] |: (?=.*such as )|dashes: |$", message).start() :]
    roots = [*list_groups(), *compose_config([])]
    setting = rf"(?:{'|'.join(roots)})(?:[./]\w+)*=[^\s;?'`]+(?<![,.])"
    found = [[quoted] for quoted in re.findall(rf"'({setting})'", remedy)]
    for run in re.findall(rf"(?<!')\b{setting}(?: {setting})*(?!')", remedy):
        *before, last = run.replace("…", "x").split()
        key, _, value = last.partition("=")
        found += [
            [*before, f"{key}={option}"] for option in value.split("|") if (key, option) != ("experiment", "NAME")
        ]
    return found


def compose_remedy(line: str, message: str, remedy: list[str]) -> None:
    """Compose what was typed with a remedy in the place of the key or the option that the message begins with."""
    typed = {one.partition("=")[0]: one for one in shlex.split(line) if "=" in one and not one.startswith("-")}
    kept = []
    for key, override in typed.items():
        is_wrong = message.startswith(f"{override}:") or ("." in key and message.startswith(f"{key}:"))
        is_replaced = any(key == one.partition("=")[0] or key.startswith(f"{one.partition('=')[0]}.") for one in remedy)
        kept += [] if is_wrong or is_replaced else [override]
    _, fixed, _ = parse_ranges([*kept, *remedy])
    compose_config([f"{key}={value}" for key, value in fixed.items()])


@pytest.mark.parametrize(("line", "remedy"), CASES)
def test_mistake_gets_one_helpful_message(line, remedy, folder, monkeypatch, capsys) -> None:
    arguments = shlex.split(line)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["plateau", *arguments])
    monkeypatch.setattr(paths, "is_checkout", lambda: False)  # results go to the current folder
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    before = list_files(folder)
    try:
        status = cli.main(arguments)
    except SystemExit as ended:
        status = ended.code
    message = drop_announcements(capsys.readouterr().err).strip()
    assert status == 2
    assert remedy in message
    if arguments[0] == "run":
        for suggestion in find_suggestions(message):
            compose_remedy(line, message, suggestion)
    assert "Traceback" not in message
    assert message.count("\n") <= 1
    assert list_files(folder) == before


def test_no_remedy_repeats_the_input() -> None:
    assert [line for line, remedy in CASES_BY_LINE.items() if remedy.strip(" ?'") in line] == []


def test_suggestions_are_found_in_a_message() -> None:
    assert find_suggestions("a=1: no; use lora.rank=2 or data=x|y") == [["lora.rank=2"], ["data=x"], ["data=y"]]
    assert find_suggestions("a: no; use model=f model.name=… (such as i=3)") == [["model=f", "model.name=x"]]
    assert find_suggestions("a: no; write 'lora.rank=int(log(4,64))'; ...") == [["lora.rank=int(log(4,64))"]]
    assert find_suggestions("--name=1: no such option; settings have no dashes: name=1 (`x`)") == [["name=1"]]
    assert find_suggestions("name=1: no; write key=value") == []


def test_each_journey_has_thirty_mistakes() -> None:
    assert [len(set(cases)) for cases in mistakes.JOURNEYS.values()] == [30] * 5
