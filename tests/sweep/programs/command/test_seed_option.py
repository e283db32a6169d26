"""The seed of a command: where it is, and what is added to a command that has none."""

import shlex
from pathlib import Path

import pytest

from harness.core.errors import ConfigError
from harness.sweep.programs.command.seed_option import SeededCommand, set_seed
from harness.sweep.programs.command.template import read_command

LR = "--lr 'log(1e-5,1e-3)'"


def seed_command(line: str, flag: str | None = None, variables: dict[str, str] | None = None) -> SeededCommand:
    return set_seed(read_command(shlex.split(line), variables or {}, {}), flag, {})


def render(seeded: SeededCommand, seed: int = 1001) -> str:
    values = dict.fromkeys(seeded.template.required_keys, 0.5)
    return seeded.template.format_command({**values, seeded.key: seed})


@pytest.mark.parametrize(
    ("line", "flag", "expected"),
    [
        (f"python train.py {LR}", "--seed", "python train.py --seed 1001"),
        (f"python train.py {LR}", "-s", "python train.py -s 1001"),
        (f"python train.py {LR}", "--seed=", "python train.py --seed=1001"),
        (f"python train.py {LR}", "trainer.seed=", "python train.py trainer.seed=1001"),
        (f"python train.py {LR}", "+seed=", "python train.py +seed=1001"),
        (f"python train.py {LR}", "SEED", "SEED=1001 python train.py"),
        (f"python train.py {LR} -- data.txt", "--seed", "python train.py --seed 1001 -- data.txt"),
        (f"uv run -- python train.py {LR}", "--seed", "uv run -- python train.py --seed 1001"),
        (f"python train.py --seed 1 {LR}", None, "python train.py --seed 1001"),
        (f"python train.py --seed 1 {LR}", "--seed", "python train.py --seed 1001"),
        (f"python train.py --seed=1 {LR}", "--seed", "python train.py --seed=1001"),
        (f"python train.py --seed=1 {LR}", "seed", "python train.py --seed=1001"),
        (f"python train.py seed=1 {LR}", None, "python train.py seed=1001"),
        (f"python train.py --SEED 1 {LR}", None, "python train.py --SEED 1001"),
        (f"python train.py --set seed=1 lr=1 {LR}", None, "python train.py --set seed=1001 lr=1"),
        (f"python train.py trainer.seed=1 {LR}", "trainer.seed=", "python train.py trainer.seed=1001"),
        (f"python train.py --seed '{{trial}}' {LR}", None, "python train.py --seed 1001"),
        (f"python train.py --seed 1,2,3 {LR}", None, "python train.py --seed 1001"),  # searched
        (f"python train.py --seed 'range(0,10)' {LR}", None, "python train.py --seed 1001"),
        (f"SEED=1 ./train.sh {LR}", None, "SEED=1001 ./train.sh"),
        (f"SEED=1 ./train.sh {LR}", "SEED", "SEED=1001 ./train.sh"),
        (f"./train.sh 8 42 {LR}", "arg2", "./train.sh 8 1001"),
        ("./train.sh 'interval(0,1)'", "--seed", "./train.sh 0.5 --seed 1001"),
        (f"accelerate launch --seed 5 train.py --seed 1 {LR}", None, "accelerate launch --seed 5 train.py --seed 1001"),
        ("LR='log(1,2)' sh -c 'train --seed $SEED'", "SEED", "SEED=1001 sh -c 'train --seed $SEED'"),
    ],
)  # fmt: skip
def test_every_run_sets_the_seed(line: str, flag: str | None, expected: str) -> None:
    assert render(seed_command(line, flag)) == expected


def test_seeds_up_to_2_to_the_32_are_passed_as_they_are() -> None:
    seeded = seed_command(f"python train.py --seed 1,2,3 {LR}")
    assert render(seeded, 4_000_000_000) == "python train.py --seed 4000000000"
    assert seeded.text == "1,2,3"


def test_a_list_that_was_one_value_is_replaced() -> None:
    template = read_command(shlex.split(f"python train.py --seed 1,2 {LR}"), {}, {}, ["seed"])
    assert render(set_seed(template, None, {})) == "python train.py --seed 1001"


def test_variables_of_the_environment_may_be_the_seed() -> None:
    template = read_command(shlex.split(f"python train.py {LR}"), {}, {})
    assert render(set_seed(template, "my_seed", {"my_seed": "3"})) == "my_seed=1001 python train.py"
    _, environment = set_seed(template, "my_seed", {"my_seed": "3"}).template.render(
        {"my_seed": 7}, Path("out"), {"my_seed": "3"}
    )
    assert environment == {"my_seed": "7"}


@pytest.mark.parametrize(
    ("line", "flag", "problem"),
    [
        (f"python train.py {LR}", None, "--seed-flag: the command has no option called seed; say how"),
        (f"python train.py --split-seed 3 --rng.seed=3 {LR}", None,
         "has no option called seed; it has --split-seed, --rng.seed=; say how the program takes it: --seed-flag --s"),
        (f"python train.py {LR}", "seed", "--seed-flag seed: the command has no such option or variable; write --seed"),
        (f"python train.py {LR}", "--seed=5", "--seed-flag --seed=5: the command has no such option or variable"),
        (f"python train.py {LR}", "", "--seed-flag : the command has no such option or variable"),
        ("LR='log(1,2)' sh -c 'python train.py'", "--seed", "--seed-flag --seed: sh -c would not pass it on to the"),
        ("LR='log(1,2)' srun bash -lc 'python train.py'", "seed=", "--seed-flag seed=: bash -lc would not pass it on"),
    ],
)  # fmt: skip
def test_unknown_seeds_are_refused(line: str, flag: str | None, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        seed_command(line, flag)
    assert problem in str(caught.value)
