"""Which values of a command line are ranges, and how values are written."""

import json
import math
import subprocess

import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from harness.core.errors import ConfigError
from harness.sweep.programs.command.ranges import format_argument, read_range


def choices(*values: object) -> CategoricalDistribution:
    return CategoricalDistribution(values)  # type: ignore[arg-type]  # only of values that Optuna takes


RANGES = {
    "log(1e-5,1e-3)": FloatDistribution(1e-5, 1e-3, log=True),
    "log(1e-5, 1e-3)": FloatDistribution(1e-5, 1e-3, log=True),
    " log( 1e-5 , 1e-3 ) ": FloatDistribution(1e-5, 1e-3, log=True),
    "tag(log,interval(1,10))": FloatDistribution(1, 10, log=True),
    "interval(0,0.5)": FloatDistribution(0, 0.5),
    "interval(-1,1)": FloatDistribution(-1, 1),
    "float(interval(1,2))": FloatDistribution(1, 2),
    "int(log(4,64))": IntDistribution(4, 64, log=True),
    "int(interval(1,9))": IntDistribution(1, 9),
    "range(1,10,2)": IntDistribution(1, 9, step=2),
    "range(5)": IntDistribution(0, 4),
    "range(0,1.0,0.25)": FloatDistribution(0, 0.75, step=0.25),
    "8,16,32": choices(8, 16, 32),
    "-1,1": choices(-1, 1),
    "-.5,+0.5": choices(-0.5, 0.5),
    "1e-3,1e-4": choices(1e-3, 1e-4),
    "adamw,sgd,lion": choices("adamw", "sgd", "lion"),
    "true,false": choices(True, False),
    "007,008": choices("007", "008"),
    "null,1": choices("null", 1),
    "inf,1.0": choices("inf", 1.0),
    "a.txt,b.txt": choices("a.txt", "b.txt"),
    "org/model-1b,gpt2": choices("org/model-1b", "gpt2"),
    "~/a,~/b": choices("~/a", "~/b"),
    "cuda:0,cpu": choices("cuda:0", "cpu"),
    "grün,blå": choices("grün", "blå"),
    "choice(a,b)": choices("a", "b"),
    "choice(1,2)": choices(1, 2),
    "choice(a b, c)": choices("a b", "c"),
    "choice('a,b','c')": choices("a,b", "c"),
    'choice("a, b", don\'t)': choices("a, b", "don't"),
    "choice([1,2],[3,4])": choices("[1,2]", "[3,4]"),
    'choice({"a":1,"b":2},{})': choices('{"a":1,"b":2}', "{}"),
    "choice(f(1,2),g)": choices("f(1,2)", "g"),
    "choice(--amp,)": choices("--amp", ""),
    "choice(null,x)": choices("null", "x"),
    "int(1,2)": choices(1, 2),
    "sort(2,1)": choices(1, 2),
}

VALUES = [
    "", ",", "a", "3e-4", "-1", "a,", ",a", "a,,b", "8, 16, 32", "Hello, world", "Wait,then stop", "Hi,\nthere",
    '{"a":1,"b":2}',
    "{a:1,b:2}", "[1,2]", "(1,2)", "'a,b'", '"a","b"', "*.csv,*.txt", "a=1,b=2", "type=bind,src=/x", "$A,$B", "${a},b",
    "a;b,c", "s|a,b|c|", "http://h/?x=1,2", "import a,b", "print(1,2)", "math.log(1,2)", "f(x)", "int(5)", "int(x)",
    "log(1,2)+3", "log(1,2)*log(3,4)", "log", "catalog(1,2)", "x, log(1,2) and more", "{print $1,$2}", "1..5", "a\\,b",
    "bool(x)", "int(a,b)", "<a,b>",
]  # fmt: skip


@pytest.mark.parametrize("text", RANGES)
def test_ranges_are_read(text: str) -> None:
    found = read_range(text)
    assert found is not None
    assert found.distribution == RANGES[text]
    types = [type(choice) for choice in getattr(RANGES[text], "choices", ())]
    assert [type(choice) for choice in getattr(found.distribution, "choices", ())] == types


@pytest.mark.parametrize("text", VALUES)
def test_other_values_are_no_ranges(text: str) -> None:
    assert read_range(text) is None


@pytest.mark.parametrize(
    ("text", "problem"),
    {
        "log(1e-3,1e-5)": "the lower bound is above the upper bound; write 'log(1e-5,1e-3)'",
        "interval(2,1)": "write 'interval(1,2)'",
        "log(0,1)": "must start above 0",
        "log(1e-5)": "log needs two numbers",
        "log()": "log(low,high)",
        "log(a,b)": "must be numbers; ranges are log(low,high)",
        "log(1e-5 1e-3)": "must be numbers",
        "log(1e-5;1e-3)": "cannot be read as a range; ranges are",
        "log(1e-5,1e-3": "its parentheses do not match",
        "log(1e-5,1e-3))": "its parentheses do not match",
        "int(log(4,64)": "its parentheses do not match",
        "Log(1,2)": "Unknown function 'Log'; ranges are log(low,high)",
        "interval(1,1)": "only one value, so nothing to search; write 1.0",
        "range(3,3)": "the range is empty",
        "choice(a)": "only one value, so nothing to search; write a",
        "choice()": "only one value",
        "1,1": "a value is listed twice",
        "1e-3,0.001": "a value is listed twice",
        "1,1.0": "a value is listed twice",
        "shuffle(1,2)": "remove shuffle",
        "glob(*)": "glob is not supported",
        "uniform(0,1)": "write 'interval(0,1)'",
        "loguniform(1e-5,1e-3)": "write 'log(1e-5,1e-3)'",
        "tune.loguniform(1e-5, 1e-3)": "write 'log(1e-5,1e-3)'",
        "randint(1,9)": "write 'int(interval(1,9))'",
        "0,log(1e-4,1e-1)": "cannot be one value of a list",
        "log(1,2),log(3,4)": "cannot be one value of a list",
    }.items(),
)
def test_wrong_ranges_are_named_with_a_remedy(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_range(text)
    message = str(caught.value)
    assert message.startswith(f"{text.strip()}: ")
    assert problem in message
    assert "value=" not in message


TYPED_CHOICES = {
    **{text: text.split(",") for text in ("1e-5,1E-3", "007,8", "+1,-.5", "1.50,2.0", "True,false", "0x1F,1_0")},
    "choice('a b',c)": ["a b", "c"],
    "choice(x,)": ["x", ""],
}


@pytest.mark.parametrize("text", TYPED_CHOICES)
def test_choices_are_written_as_typed(text: str) -> None:
    found = read_range(text)
    assert found is not None
    assert isinstance(found.distribution, CategoricalDistribution)
    assert [found.format_argument(choice) for choice in found.distribution.choices] == TYPED_CHOICES[text]


def test_values_on_a_grid_are_written_without_rounding_errors() -> None:
    found, integers = read_range("range(0,1.0,0.1)"), read_range("int(log(4,64))")
    assert found is not None
    assert integers is not None
    assert [found.format_argument(index * 0.1) for index in range(10)] == [f"0.{index}" for index in range(10)]
    assert integers.format_argument(16.0) == "16"


NUMBERS = [
    1e-5,
    3.1622776601683795e-05,
    0.1,
    1.0,
    100.0,
    123456.75,
    1e15,
    -2.5e-7,
    0.0,
    1e-9,
    5e-324,
    1e-10,
    1.5e-12,
    1e300,
]


@pytest.mark.parametrize("number", NUMBERS)
def test_every_program_reads_the_same_number(number: float) -> None:
    text = format_argument(number)
    assert float(text) == number
    assert json.loads(text) == number
    loaded = yaml.safe_load(text)
    assert isinstance(loaded, float)
    assert loaded == number


def test_shells_read_small_numbers() -> None:
    """`bc` knows no exponents, and awk compares a text that it does not read as a number."""
    assert "e" not in format_argument(1e-5)
    program = f"BEGIN {{ print ({format_argument(2e-5)} * 1e6 == 20) }}"
    assert subprocess.run(["awk", program], capture_output=True, text=True, check=True).stdout == "1\n"


def test_other_values_are_written_plainly() -> None:
    values = {"true": True, "7": 7, "a b": "a b", "inf": math.inf, "[1, 2]": [1, 2]}
    assert [format_argument(value) for value in values.values()] == list(values)
