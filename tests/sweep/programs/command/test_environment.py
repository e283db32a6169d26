"""Variables that a program inherits: those with lists, and those that have changed since the study began."""

from pathlib import Path

import pytest

from harness.sweep.programs.command.environment import (
    ENVIRONMENT_FILE,
    compare_environment,
    keep_environment,
    note_inherited_ranges,
)
from harness.sweep.programs.command.template import CommandTemplate, read_command

WORDS = ["python", "train.py"]
SHELL = {"PATH": "/bin", "LR": "log(1e-5,1e-3)"}
REACH = (
    "variables of your shell also reach the program; name those that matter with --env NAME=VALUE, so that "
    "commands and records show them"
)


def read_template(environment: dict[str, str]) -> CommandTemplate:
    return read_command(WORDS, {}, environment)


def test_an_inherited_range_is_noted_once() -> None:
    assert list(note_inherited_ranges(read_template(SHELL), SHELL)) == [REACH]
    template = read_command(WORDS, {"LR": "log(1e-5,1e-3)"}, {"PATH": "/bin"})
    assert list(note_inherited_ranges(template, {"PATH": "/bin"})) == []


@pytest.mark.parametrize(
    ("name", "text", "is_noted"),
    [("BATCH_SIZE", "8,32", True), ("rank", "8,16,32", True), ("CUDA_VISIBLE_DEVICES", "0,1", False),
     ("OMP_NUM_THREADS", "4,2", False), ("LANGS", "en,de", False), ("SIZE", "8", False), ("SLURM_IDS", "1,2", False)],
)  # fmt: skip
def test_an_inherited_list_is_noted(name: str, text: str, is_noted: bool) -> None:
    environment = {**SHELL, name: text}
    note = f"{name} is not searched: {text} is passed as one value; --env {name}={text} searches its parts"
    assert list(note_inherited_ranges(read_template(environment), environment)) == [note] * is_noted + [REACH]


def test_changed_variables_are_noted_and_secrets_kept_as_digests(tmp_path: Path) -> None:
    first = {
        **SHELL, "RESUME_STEPS": "20", "TERM": "xterm", "HF_TOKEN": "hf_abcdef", "DB_PASSWORD": "s3", "OLD": "x" * 50,
        "DATABASE": "postgresql://me:hunter22@host/db",
    }  # fmt: skip
    template, folder = read_template(first), tmp_path / "sweep"
    assert list(compare_environment(folder, template, first)) == []
    keep_environment(folder, template, first)
    written = (folder / ENVIRONMENT_FILE).read_text()
    assert not any(secret in written for secret in ("hf_abcdef", '"s3"', "hunter22", "xterm", "log("))
    assert list(compare_environment(folder, template, {**first, "TERM": "tmux", "LR": "log(1e-5,1e-2)"})) == []

    second = {**first, "RESUME_STEPS": "40", "HF_TOKEN": "hf_ghijkl", "SEED": "1"}
    del second["OLD"]
    keep_environment(folder, template, second)  # the first one stays
    [note] = compare_environment(folder, template, second)
    assert note == (
        f"HF_TOKEN: (secret) -> (secret), OLD: {'x' * 39}… -> unset, RESUME_STEPS: 20 -> 40, SEED: unset -> 1 since "
        "the study began; trials may not be comparable; in a new study --env RESUME_STEPS=40 makes a variable part "
        "of it"
    )
