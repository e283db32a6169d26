"""Search the options of any program, in any language, without changing it.

Ranges stand where values stood, in options or in environment variables:

  plateau sweep -- python train.py --lr 'log(1e-5,1e-3)' --rank 8,16,32 --max_steps 2000
  plateau sweep --metric accuracy --maximize -- ./train.sh 'interval(0,0.5)'
  plateau sweep --read '{out}/trainer_state.json' -- python run.py --output_dir '{out}' --lr 'log(1e-5,1e-3)'
  LEARNING_RATE='log(1e-5,1e-3)' plateau sweep -- python training.py

A range is log(low,high), int(log(low,high)), interval(low,high), int(interval(low,high)), range(low,high,step) or a
list a,b,c. {out} is the folder of a trial and {trial} its number. Trial 0 is the command without the searched options.
The metric is read from what the program prints, or from --read. The same command resumes a sweep.

Exit status: 0 completed; 1 failed; 2 invalid input; 130 interrupted by Ctrl-C.
"""

import argparse
import contextlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.commands.arguments import CommandParser, ParagraphFormatter
from harness.core.errors import ConfigError
from harness.core.terminal import print_fitted, print_notes

if TYPE_CHECKING:
    from harness.sweep.programs.command.request import CommandSweep
    from harness.sweep.programs.command.template import CommandTemplate
    from harness.sweep.request import SweepRequest

SEPARATOR = "--"


def main(arguments: Sequence[str]) -> int:
    args, words = parse_sweep_arguments(arguments)
    # They load Optuna and more, which --help does without.
    from harness.sweep.optuna_internals import silence_optuna
    from harness.sweep.programs.command.command_line import rename_command_options
    from harness.sweep.programs.command.request import build_command_request
    from harness.sweep.results.result_files import trials_to_json
    from harness.sweep.sweeper import run_study

    silence_optuna()
    asked = _read_command_sweep(args, words, arguments)
    request = build_command_request(asked)
    with _print_to_stderr(args.json):
        print_fitted(*_describe_search(request, asked.template))
        print_notes((*request.notices, *_describe_passed_lists(asked.template)))
    if args.dry_run:
        commands = _list_example_commands(request, asked.template)
        print(json.dumps(_dry_run_to_json(request, commands), indent=1) if args.json else "\n".join(commands))
        return 0
    _check_program_exists(words)
    try:
        with _print_to_stderr(args.json):
            outcome = run_study(request)
    except ConfigError as error:
        raise ConfigError(rename_command_options(str(error))) from error
    if args.json:
        ending = {"status": outcome.status, "reason": outcome.reason, "folder": str(request.folder)}
        print(json.dumps({**ending, **trials_to_json(outcome.summary)}, indent=1), flush=True)
    outcome.raise_if_not_completed()
    return 0


def parse_sweep_arguments(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the options before `--`, and the words of the command behind it.

    Raises:
        ConfigError: If an option is invalid or there is no `--`.
    """
    parser = CommandParser(prog="plateau sweep", description=__doc__, formatter_class=ParagraphFormatter,
                           usage="plateau sweep [OPTION]... -- COMMAND...")  # fmt: skip
    add = parser.add_argument
    add("--metric", metavar="NAME", help="the metric to optimize, by its name in the output; default: validation loss")
    add("--maximize", action="store_true", help="search the largest value; the default is the smallest")
    add("--best", action="store_true", help="a trial's result is its best value; the default is the last one")
    add("--read", action="append", default=[], metavar="SOURCE",
        help="read the metric from a file or folder of logs such as '{out}/trainer_state.json', from mlflow or "
        "mlflow:URI; default: the output of the program")  # fmt: skip
    add("--n-trials", type=int, metavar="N", help="number of trials in all; default: 24, or every point of a grid")
    add("--n-jobs", type=int, metavar="N", help="number of workers; default: one per GPU, or else one")
    add("--study", metavar="NAME", help="name of the study; default: that of the script")
    add("--storage", metavar="URL", help="database of the study, for several hosts; default: a file in its folder")
    add("--sampler", default="tpe", metavar="NAME", help="tpe (default), random, grid, cmaes, gp, qmc, nsgaii, ...")
    add("--pruner", default="halving", metavar="NAME", help="halving (default), median, hyperband, none, ...")
    add("--seed", type=int, default=0, metavar="N", help="seed of the sampler")
    add("--baseline", default="", metavar="'KEY=VALUE ...'", help="values of searched options in trial 0")
    add("--no-baseline", action="store_true", help="leave out trial 0")
    add("--keep", action="append", default=[], dest="one_value", metavar="NAME",
        help="an option whose commas make one value, no list")  # fmt: skip
    add("--env", action="append", default=[], metavar="NAME=VALUE", help="set a variable of the program, or search it")
    add("--max-seconds", type=float, metavar="S", help="start no trial after this time")
    add("--patience", type=int, metavar="N", help="stop after this many trials without a better one")
    add("--max-failures", type=int, default=3, metavar="N", help="stop after this many failures in a row; default: 3")
    add("--max-failure-rate", type=float, metavar="SHARE", help="stop if a larger share of the trials fails")
    add("--grace-seconds", type=float, default=30.0, metavar="S",
        help="time for a program to end after SIGTERM, before it is killed; default: 30")  # fmt: skip
    add("--mlflow-uri", metavar="URI", help="MLflow store; default: MLFLOW_TRACKING_URI, or mlflow.db in this folder")
    add("--mlflow-experiment", metavar="NAME", help="MLflow experiment; default: the name of the script")
    add("--no-mlflow", action="store_true", help="upload nothing")
    add("--dry-run", action="store_true", help="print what would be run, and run nothing")
    add(
        "--json",
        action="store_true",
        help="print the result as JSON to standard output, and all else to standard error",
    )
    given = list(arguments)
    if SEPARATOR not in given:
        args = parser.parse_args([one for one in given if one in ("-h", "--help")])  # exits with the help
        raise ConfigError("plateau sweep: write -- before the command: plateau sweep -- python train.py --lr 1e-4,1e-3")
    index = given.index(SEPARATOR)
    args = parser.parse_args(given[:index])
    if not args.grace_seconds >= 0:
        raise ConfigError(f"--grace-seconds {args.grace_seconds}: must not be below 0")
    return args, given[index + 1 :]


def _read_command_sweep(args: argparse.Namespace, words: list[str], arguments: Sequence[str]) -> "CommandSweep":
    from harness.sweep.options import SweepOptions, check_failure_rate
    from harness.sweep.programs.command.command_line import format_sweep_command
    from harness.sweep.programs.command.metrics import MetricSpec
    from harness.sweep.programs.command.request import DEFAULT_OBJECTIVE, CommandSweep
    from harness.sweep.programs.command.template import read_command
    from harness.sweep.study.storage import absolute_storage_url
    from harness.tracking.store_uri import check_database_driver, program_store_uri

    template = read_command(words, _read_variables(args.env), os.environ, args.one_value)
    if args.storage is not None:
        check_database_driver("--storage", args.storage)
    try:
        options = SweepOptions(
            n_trials=args.n_trials,
            n_jobs=args.n_jobs,
            study=args.study,
            storage=absolute_storage_url(args.storage) if args.storage else None,
            objectives=[args.metric or DEFAULT_OBJECTIVE],
            max_seconds=args.max_seconds,
            patience=args.patience,
            max_failures=args.max_failures,
            baseline=not args.no_baseline,
            dry_run=args.dry_run,
        )
        check_failure_rate(args.max_failure_rate)
        store_uri = program_store_uri(args.mlflow_uri)
    except ConfigError:
        raise
    except ValueError as error:
        name, _, problem = str(error).partition(": ")
        raise ConfigError(f"--{name.replace('_', '-')} {problem}") from error
    return CommandSweep(
        template=template,
        metric=MetricSpec(
            metric=args.metric,
            sources=tuple(args.read),
            pick="best" if args.best else "final",
            direction="maximize" if args.maximize else "minimize",
        ),
        options=options,
        baseline=shlex.split(args.baseline),
        sampler=args.sampler,
        pruner=args.pruner,
        seed=args.seed,
        max_failure_rate=args.max_failure_rate,
        grace_seconds=args.grace_seconds,
        store_uri=store_uri,
        is_uploaded=not args.no_mlflow,
        experiment=args.mlflow_experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME"),
        command=format_sweep_command(list(arguments), template),
    )


def _read_variables(texts: Sequence[str]) -> dict[str, str]:
    variables = {}
    for text in texts:
        name, is_set, value = text.partition("=")
        if not is_set or not name.isidentifier():
            raise ConfigError(f"--env {text}: write NAME=VALUE")
        variables[name] = value
    return variables


def _check_program_exists(words: Sequence[str]) -> None:
    """Check the program before a study is created: otherwise every trial would fail for the same reason."""
    program = next(word for word in words if "=" not in word)
    if shutil.which(program) is None:
        place = "there is no such program" if "/" in program else "there is no such program on PATH"
        hint = f"; for the one in this folder write ./{program}" if Path(program).is_file() else "; check its name"
        raise ConfigError(f"{program}: {place}{hint}")


def _describe_search(request: "SweepRequest", template: "CommandTemplate") -> Iterator[str]:
    """Yield what is searched, and for what."""
    yield "Searching " + ", ".join(f"{key} in {text}" for key, text in template.range_texts.items())
    [direction] = request.spec.directions
    yield f"to {direction} the {request.description['metric']}"


def _describe_passed_lists(template: "CommandTemplate") -> Iterator[str]:
    for key, text in template.unsearched_lists.items():
        yield f"{key} is not searched: {text} is passed as one value; 'choice({text})' searches its parts"


def _list_example_commands(request: "SweepRequest", template: "CommandTemplate") -> list[str]:
    """Return the commands of trial 0, and of both ends of the ranges."""
    ends = list(request.space.iterate_corners())
    baseline = [dict(request.current_values)] if request.options.baseline else []
    last = {key: values[key] for values in ends for key in values}
    return [template.format_command(values, request.folder / "0") for values in (*baseline, ends[0], last)]


def _dry_run_to_json(request: "SweepRequest", commands: Sequence[str]) -> dict[str, Any]:
    return {
        "status": "dry run",
        "study": request.study_name,
        "folder": str(request.folder),
        "n_trials": request.budget.n_trials,
        "n_jobs": request.workers.n_jobs,
        "objectives": dict(zip(request.spec.objectives, request.spec.directions, strict=True)),
        "space": request.space.format_ranges(),
        "commands": list(commands),
    }


@contextlib.contextmanager
def _print_to_stderr(is_redirected: bool) -> Iterator[None]:
    """Print to standard error in this block, so that standard output has nothing but the result."""
    if not is_redirected:
        yield
        return
    with contextlib.redirect_stdout(sys.stderr):
        yield
