"""The values of a command line that are ranges, and the commands of its trials."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import ConfigError
from harness.sweep.programs.command.template import CommandTemplate, read_command
from harness.sweep.space.search_space import SearchSpace

FOLDER = Path("/sweeps/study/7")


def read_line(line: str, environment: dict[str, str] | None = None, **options: Any) -> CommandTemplate:
    options.setdefault("variables", {})
    return read_command(shlex.split(line), environment=environment or {}, **options)


def first_values(template: CommandTemplate) -> dict[str, Any]:
    return {key: getattr(dist, "choices", None) or dist.low for key, dist in template.ranges.items()} | {
        key: dist.choices[0] for key, dist in template.ranges.items() if hasattr(dist, "choices")
    }


# Command: its searched keys, the command of a trial with the lowest values, the command without values.
COMMANDS = {
    "python t.py --lr 'log(1e-5,1e-3)' --rank 8,16 --max_steps 9": (
        "lr rank", "python t.py --lr 0.00001 --rank 8 --max_steps 9", "python t.py --max_steps 9",
    ),
    "python t.py --lr='log(1e-5,1e-3)'": ("lr", "python t.py --lr=0.00001", "python t.py"),
    "python t.py -r 8,16 -b8,16": ("r b", "python t.py -r 8 -b8", "python t.py"),
    "python t.py '-blog(1,2)'": ("b", "python t.py -b1.0", "python t.py"),
    "python t.py lr='log(1,2)' x=1": ("lr", "python t.py lr=1.0 x=1", "python t.py x=1"),
    "python t.py +m.lr=1,2 ++m.wd=0.1,0.2": ("m.lr m.wd", "python t.py +m.lr=1 ++m.wd=0.1", "python t.py"),
    "python t.py --model.init_args.lr 'interval(0,1)'": (
        "model.init_args.lr", "python t.py --model.init_args.lr 0.0", "python t.py",
    ),
    "python t.py --max-lr 1,2 --max_lr 1,2": ("max-lr max_lr", "python t.py --max-lr 1 --max_lr 1", "python t.py"),
    "python t.py --optim adamw,sgd --amp": ("optim", "python t.py --optim adamw --amp", "python t.py --amp"),
    "python t.py --n 'int(log(4,64))' --k 'range(1,10,2)'": ("n k", "python t.py --n 4 --k 1", "python t.py"),
    "python t.py --lr 1,2 --lr 3,4": ("lr lr_2", "python t.py --lr 1 --lr 3", "python t.py"),
    "python t.py --dims 1,2 3,4 --x": ("dims dims_2", "python t.py --dims 1 3 --x", "python t.py --x"),
    "python t.py --shift -1,1 --scale -.5,.5": ("shift scale", "python t.py --shift -1 --scale -.5", "python t.py"),
    "python t.py --set lr=1,2 --set x=5,6 -v": ("lr x", "python t.py --set lr=1 --set x=5 -v", "python t.py -v"),
    "prog --cfg-options lr=1,2 x=5": ("lr", "prog --cfg-options lr=1 x=5", "prog --cfg-options x=5"),
    "prog --cfg-options lr=1,2 x=5,6": ("lr x", "prog --cfg-options lr=1 x=5", "prog"),
    "python t.py --verbose lr=1,2": ("lr", "python t.py --verbose lr=1", "python t.py --verbose"),
    "env LR=1e-3,1e-4 ./t.sh": ("", "", ""),
    "env LR='choice(1e-3,1e-4)' ./t.sh": ("LR", "env LR=1e-3 ./t.sh", "env ./t.sh"),
    "docker run -e LR='log(1,2)' img": ("LR", "docker run -e LR=1.0 img", "docker run img"),
    "python t.py 'choice(--amp,)' --x 1": ("amp", "python t.py --amp --x 1", "python t.py --x 1"),
    "python t.py --x 'choice(--amp,--fp16,)'": ("amp", "python t.py --x --amp", "python t.py --x"),
    "python t.py --amp,--no-amp": ("amp", "python t.py --amp", "python t.py"),
    "python t.py --name 'choice(,b)'": ("name", "python t.py --name ''", "python t.py"),
    "./train.sh 8,16 x 'choice(a b,c)'": ("arg1 arg3", "./train.sh 8 x 'a b'", None),
    "python -u t.py x 8,16": ("arg2", "python -u t.py x 8", None),
    "python train.py x 8,16": ("arg2", "python train.py x 8", None),
    "./prog 'log(1,2)'": ("arg1", "./prog 1.0", None),
    "taskset -c 0,1 python t.py --lr 1,2": ("lr", "taskset -c 0,1 python t.py --lr 1", "taskset -c 0,1 python t.py"),
    "python -m pkg.t --lr 1,2 --c x.py": ("lr", "python -m pkg.t --lr 1 --c x.py", "python -m pkg.t --c x.py"),
    "prog --gpus 0,1 --trainer.devices 0,1 --lr 1,2": (
        "lr", "prog --gpus 0,1 --trainer.devices 0,1 --lr 1", "prog --gpus 0,1 --trainer.devices 0,1",
    ),
    "prog --gpus 'choice(0,1)'": ("gpus", "prog --gpus 0", "prog"),
    "prog --betas 0.9,0.95 --betas2 1,2": ("betas2", "prog --betas 0.9,0.95 --betas2 1", "prog --betas 0.9,0.95"),
    """prog --lr 1,2 --json '{"a":1,"b":2}' --l '[1,2]' --t 'Hi, you'""": (
        "lr", """prog --lr 1 --json '{"a":1,"b":2}' --l '[1,2]' --t 'Hi, you'""",
        """prog --json '{"a":1,"b":2}' --l '[1,2]' --t 'Hi, you'""",
    ),
    "cut -d, --lr 1,2": ("lr", "cut -d, --lr 1", "cut -d,"),
    "gcc -Wl,-rpath,x --lr 1,2": ("lr", "gcc -Wl,-rpath,x --lr 1", "gcc -Wl,-rpath,x"),
    "java -jar t.jar -Dlr=1,2": ("Dlr", "java -jar t.jar -Dlr=1", "java -jar t.jar"),
    "prog -- 8,16": ("arg2", "prog -- 8", None),
    "prog --lr 1,2 -": ("lr", "prog --lr 1 -", "prog -"),
}  # fmt: skip


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_of_trials(line: str) -> None:
    keys, lowest, default = COMMANDS[line]
    if not keys:
        with pytest.raises(ConfigError, match="nothing to search"):
            read_line(line)
        return
    template = read_line(line)
    assert " ".join(template.ranges) == keys
    assert shlex.join(template.render(first_values(template), FOLDER, {})[0]) == lowest
    assert bool(template.required_keys) == (default is None)
    if default is not None:
        assert shlex.join(template.render({}, FOLDER, {})[0]) == default


def test_values_of_some_keys_leave_out_the_rest() -> None:
    template = read_line("prog --lr 1,2 --wd 1,2 x 5,6")
    assert template.render({"wd": 2, "arg6": 5}, FOLDER, {})[0] == ["prog", "--wd", "2", "x", "5"]


def test_a_word_of_its_own_needs_a_value() -> None:
    template = read_line("prog 5,6")
    assert template.required_keys == ["arg1"]
    with pytest.raises(ConfigError, match="arg1: this word has no default; give it a value: arg1=VALUE"):
        template.render({}, FOLDER, {})


def test_a_key_that_is_not_searched_is_an_error() -> None:
    with pytest.raises(ConfigError, match="l_r: not searched by this sweep; did you mean 'lr'"):
        read_line("prog --lr 1,2").render({"l_r": 1}, FOLDER, {})


def test_kept_values_are_no_ranges() -> None:
    template = read_line("prog --files a,b --files c,d --lr 1,2 --f 'log(x)'", one_value_names=["--files", "f"])
    assert list(template.ranges) == ["lr"]
    assert template.unsearched_lists == {"files": "a,b", "files_2": "c,d", "f": "log(x)"}
    with pytest.raises(ConfigError, match="--one-value file: the command has no such option; did you mean 'files'"):
        read_line("prog --files a,b --lr 1,2", one_value_names=["file"])


def test_variables_are_ranges_too() -> None:
    """In the environment only functions are ranges: it holds lists that nobody wants to search."""
    environment = {"LR": "log(1e-5,1e-3)", "PATH": "/bin", "LIST": "a,b", "OUT": "{out}/x", "TEXT": "${out}"}
    template = read_line("sh -c 'echo $LR'", environment, variables={"RANK": "8,16", "NAME": "a b"})
    assert list(template.ranges) == ["LR", "RANK"]
    words, trial_environment = template.render({"LR": 1e-4, "RANK": 16}, FOLDER, environment)
    assert words == ["sh", "-c", "echo $LR"]
    assert trial_environment == {
        **environment, "LR": "0.0001", "RANK": "16", "NAME": "a b", "OUT": "/sweeps/study/7/x"
    }  # fmt: skip
    default = template.render({}, FOLDER, environment)[1]
    assert "LR" not in default
    assert "RANK" not in default
    assert template.format_command({"LR": 1e-4, "RANK": 8}) == (
        "LR=0.0001 OUT=out/x RANK=8 NAME='a b' sh -c 'echo $LR'"
    )


def test_variables_may_stand_before_the_program() -> None:
    template = read_line("LR=1e-3,1e-4 N=1 prog x=1,2", {"LR": "log(1,2)"})
    assert list(template.ranges) == ["LR", "x"]
    assert template.render({"LR": 1e-4}, FOLDER, {}) == (["prog"], {"LR": "1e-4", "N": "1"})


def test_a_left_out_variable_keeps_the_value_that_the_user_set() -> None:
    template = read_line("prog", variables={"LR": "log(1,2)"})
    assert template.render({}, FOLDER, {"LR": "0.5"})[1] == {"LR": "0.5"}


def test_a_variable_and_an_option_of_the_same_name_are_two_keys() -> None:
    template = read_line("prog --LR 1,2 --lr 1,2", {"LR": "log(1,2)"})
    assert list(template.ranges) == ["LR", "LR_2", "lr"]
    words, environment = template.render({"LR": 1.5, "LR_2": 1, "lr": 2}, FOLDER, {})
    assert words == ["prog", "--LR", "1", "--lr", "2"]
    assert environment == {"LR": "1.5"}


@pytest.mark.parametrize(
    "text", ["{}", "${out}", "{{out}}", "{ out }", "{out:d}", "{lr}", '{"out":1}', "{Out}", "$out"]
)
def test_other_braces_are_untouched(text: str) -> None:
    template = read_line("prog --lr 1,2")
    template = CommandTemplate((*template.words, text, f"--x={text}"))
    assert template.render({}, FOLDER, {})[0] == ["prog", text, f"--x={text}"]


def test_placeholders_are_filled_everywhere() -> None:
    template = read_line("prog --lr 1,2 --o={out} '{out}/a {trial}' --ckpt 'choice({out}/a,b)'")
    words = template.render({"lr": 1, "ckpt": "{out}/a"}, FOLDER, {})[0]
    assert words == ["prog", "--lr", "1", f"--o={FOLDER}", f"{FOLDER}/a 7", "--ckpt", f"{FOLDER}/a"]
    assert template.format_command({}) == "prog --o=out 'out/a out'"
    assert template.render({}, Path("a/7"), {})[0][-1] == f"{Path.cwd()}/a/7/a 7"


def test_a_template_survives_json() -> None:
    template = read_line("prog --lr 1e-5,1e-3 --files a,b", {"WD": "log(1,2)"}, one_value_names=["files"])
    stored = CommandTemplate.from_json(json.loads(json.dumps(template.to_json())))
    assert stored == template
    assert stored.range_texts == {"WD": "log(1,2)", "lr": "1e-5,1e-3"}
    assert stored.format_command({"lr": 1e-5}) == "prog --lr 1e-5 --files a,b"


def test_a_study_takes_every_range_and_value() -> None:
    """Its keys are those of Hydra's sweep syntax, which has no `größe` or `a:b`."""
    template = read_line(
        "prog --größe 1,2 --a:b 1,2 --x/y.z 1,2 --path ~/x,~/y --sep 'choice(it'\\''s,\"q\")'", {"ä": "log(1,2)"}
    )
    space = SearchSpace.from_json(json.loads(json.dumps(SearchSpace(template.ranges, {}, {}).to_json())))
    assert space.ranges == template.ranges
    assert list(space.ranges) == ["_", "gr_e", "a_b", "x_y.z", "path", "sep"]
    params = {"path": "~/y", "gr_e": "2", "sep": "it's"}
    assert space.to_trial_params(params) == {"path": "~/y", "gr_e": 2, "sep": "it's"}
    assert template.format_command({**params, "_": 1.5}) == "ä=1.5 prog '--größe' 2 --path '~/y' --sep 'it'\"'\"'s'"


def test_a_range_is_shown_as_it_is_typed() -> None:
    template = read_line("prog --lr 1,2 --x=1,2 -r1,2 +m=1,2 --set k=1,2 1,2", {"LR": "log(1,2)"})
    assert [template.format_range(key, "log(3,4)") for key in template.ranges] == [
        "LR='log(3,4)'", "--lr 'log(3,4)'", "--x='log(3,4)'", "-r'log(3,4)'", "+m='log(3,4)'", "--set k='log(3,4)'",
        "'log(3,4)'",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "problem"),
    {
        "": "there is no command to run; write plateau sweep -- python",
        "prog --lr 3e-4": "nothing to search: no value of the command is a range; write python train.py --lr 'log(1e-5",
        "prog --rank '8, 16'": "rank is one value; to search its parts write 'choice(8, 16)'",
        "sh -c 'prog --lr log(1,2)'": "'prog --lr log(1,2)' has a range inside; write LR='log(1e-5,1e-3)' in front",
        "'prog --lr log(1,2)'": "the command is one word: leave out the quotes around it",
        "LR=1,2": "there is no command to run",
        "prog --gpus 0,1": "gpus is one value; to search its parts write 'choice(0,1)'",
        "prog --lr 'log(2,1)'": "lr: log(2,1): the lower bound is above the upper bound; write 'log(1,2)'",
        "prog --f 'log(x)' --lr 1,2": "if it is one value, add --one-value f",
        "prog x 'log(1,2'": "arg2: log(1,2: its parentheses do not match",
    }.items(),
)
def test_errors_name_the_word_and_the_remedy(line: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_line(line)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)
