"""Search the options of any program, in any language, without changing it.

Ranges stand where values stood, in options or in environment variables:

    plateau sweep -- python train.py --lr 'log(1e-5,1e-3)' --rank 8,16,32 --max_steps 2000
    plateau sweep --metric accuracy --maximize -- ./train.sh 'interval(0,0.5)'
    plateau sweep --read '{out}/trainer_state.json' -- python run.py --output_dir '{out}' --lr 'log(1e-5,1e-3)'
    LEARNING_RATE='log(1e-5,1e-3)' plateau sweep -- python training.py

A range is log(low,high), int(log(low,high)), interval(low,high), int(interval(low,high)), range(low,high,step) or a
list a,b,c, which is one value in a variable of the shell (--env NAME=a,b,c searches it). {out} is the folder of a trial
and {trial} its number. Trial 0 is the command without the searched options. The metric is read from what the program
prints, or from --read. The same command resumes a sweep.

Exit status: 0 completed; 1 failed; 2 invalid input; 130 interrupted by Ctrl-C.
"""

import argparse
import itertools
import json
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.arguments import CommandParser, ParagraphFormatter, redirect_to_stderr
from harness.core.errors import ConfigError
from harness.core.terminal import print_fitted, print_notes

if TYPE_CHECKING:
    from harness.sweep.programs.command.request import CommandSweep
    from harness.sweep.programs.command.template import CommandTemplate
    from harness.sweep.request import SweepRequest

SEPARATOR = "--"


def main(arguments: Sequence[str]) -> int:
    try:
        return _run_command(arguments)
    except ConfigError as error:
        if "--json" in itertools.takewhile(lambda word: word != SEPARATOR, arguments):
            print(json.dumps({"status": "invalid", "reason": str(error)}, indent=1), flush=True)
        raise


def _run_command(arguments: Sequence[str]) -> int:
    """Run the command; messages have the names of its options.

    Raises:
        ConfigError: If the input is invalid.
        RunFailedError: If the sweep failed or was interrupted.
    """
    args, words = parse_sweep_arguments(arguments)
    # It loads Optuna and more, which --help does without.
    from harness.sweep.programs.command.command_line import rename_command_options

    try:
        _run_sweep(args, words, arguments)
    except ConfigError as error:
        raise ConfigError(rename_command_options(str(error))) from error
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
    add("--n-jobs", type=int, metavar="N", help="number of workers; default: as many as the GPUs suffice for, or one")
    add("--devices-per-trial", type=int, metavar="N",
        help="number of GPUs of a trial; default: the --nproc-per-node of torchrun, or else one")  # fmt: skip
    add("--study", metavar="NAME", help="name of the study; default: that of the script")
    add("--storage", metavar="URL", help="database of the study, for several hosts; default: a file in its folder")
    add("--sampler", default="tpe", metavar="NAME", help="tpe (default), random, grid, cmaes, gp, qmc, nsgaii, ...")
    add("--pruner", default="halving", metavar="NAME", help="halving (default), median, hyperband, none, ...")
    add("--seed", type=int, default=0, metavar="N", help="seed of the sampler")
    add("--baseline", default="", metavar="'KEY=VALUE ...'", help="values of searched options in trial 0")
    add("--warm-start", metavar="STUDY", help="an earlier study, whose best values half of the first proposals take")
    add("--no-baseline", action="store_true", help="leave out trial 0")
    add("--one-value", action="append", default=[], metavar="NAME", help="an option whose list is one value")
    add("--env", action="append", default=[], metavar="NAME=VALUE", help="set a variable of the program, or search it")
    add("--max-seconds", type=float, metavar="S", help="start no trial after this time")
    add("--patience", type=int, metavar="N", help="stop after this many trials without a better one")
    add("--max-failures", type=int, metavar="N",
        help="stop after this many failures in a row; default: 3, or no limit with --max-failure-rate")  # fmt: skip
    add("--max-failure-rate", type=float, metavar="SHARE", help="stop if a larger share of the trials fails")
    add("--grace-seconds", type=float, default=30.0, metavar="S",
        help="time for a program to end after SIGTERM, before it is killed; default: 30")  # fmt: skip
    add("--trial-seconds", type=float, metavar="S", help="a trial that runs longer is ended, and fails")
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
        raise ConfigError(
            "plateau sweep: write -- before the command, as in plateau sweep -- python train.py --lr 1e-4,1e-3; "
            "`plateau sweep --help` lists the options"
        )
    index = given.index(SEPARATOR)
    args = parser.parse_args(given[:index])
    if not args.grace_seconds >= 0:
        raise ConfigError(f"--grace-seconds: {args.grace_seconds} must not be below 0")
    if args.trial_seconds is not None and not args.trial_seconds > 0:
        raise ConfigError(f"--trial-seconds: {args.trial_seconds} must be above 0")
    return args, given[index + 1 :]


def _run_sweep(args: argparse.Namespace, words: list[str], arguments: Sequence[str]) -> None:
    """Run the sweep, or print what it would run.

    Raises:
        ConfigError: If the input is invalid.
        RunFailedError: If the sweep failed or was interrupted.
    """
    from harness.sweep.optuna_internals import silence_optuna
    from harness.sweep.programs.command.process import check_program_exists
    from harness.sweep.programs.command.request import build_command_request
    from harness.sweep.results.result_files import trials_to_json
    from harness.sweep.study.setup import check_existing_study

    silence_optuna()
    asked = _read_command_sweep(args, words, arguments)
    request = build_command_request(asked)
    check_program_exists(asked.template.words, Path.cwd())
    exists = check_existing_study(request)
    with redirect_to_stderr(args.json):
        print_fitted(*_describe_search(request, asked.template))
        print_notes((*request.notices, *_list_notes(asked, request.folder, is_new=not exists)))
    if args.dry_run:
        _print_dry_run(request, asked.template, is_json=args.json)
        return
    from harness.sweep.programs.command.environment import keep_environment
    from harness.sweep.programs.command.runner import read_chosen_metric
    from harness.sweep.programs.command.shared_files import read_shared_files_note
    from harness.sweep.sweeper import run_study

    keep_environment(request.folder, asked.template)
    with redirect_to_stderr(args.json):
        outcome = run_study(request)
        notes = [read_chosen_metric(request.folder).get("note"), read_shared_files_note(request.folder)]
        print_notes(filter(None, notes))
    if args.json:
        ending = {"status": outcome.end.status, "reason": outcome.end.reason, "folder": str(request.folder)}
        print(json.dumps({**ending, **trials_to_json(outcome.summary)}, indent=1), flush=True)
    outcome.end.raise_if_not_completed()


def _read_command_sweep(args: argparse.Namespace, words: list[str], arguments: Sequence[str]) -> "CommandSweep":
    from harness.sweep.options import DEFAULT_MAX_FAILURES, SweepOptions, apply_failure_rate
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
            devices_per_trial=args.devices_per_trial,
            study=args.study,
            storage=None if args.storage is None else absolute_storage_url(args.storage),
            objectives=[args.metric or DEFAULT_OBJECTIVE],
            max_seconds=args.max_seconds,
            patience=args.patience,
            max_failures=DEFAULT_MAX_FAILURES if args.max_failures is None else args.max_failures,
            baseline=not args.no_baseline,
            warm_start=args.warm_start,
            dry_run=args.dry_run,
        )
    except ValueError as error:
        raise ConfigError(f"sweep.{error}") from error
    options = apply_failure_rate(options, args.max_failure_rate, has_max_failures=args.max_failures is not None)
    try:
        store_uri = program_store_uri(args.mlflow_uri)
    except ValueError as error:
        raise ConfigError(f"--mlflow-{error}" if args.mlflow_uri else str(error)) from error
    return CommandSweep(
        template=template,
        metric=MetricSpec(
            metric=args.metric,
            sources=tuple(args.read),
            pick="best" if args.best else "final",
            direction="maximize" if args.maximize else "minimize",
        ),
        options=options,
        baseline=_split_baseline(args.baseline),
        sampler=args.sampler,
        pruner=args.pruner,
        seed=args.seed,
        max_failure_rate=args.max_failure_rate,
        grace_seconds=args.grace_seconds,
        trial_seconds=args.trial_seconds,
        store_uri=store_uri,
        is_uploaded=not args.no_mlflow,
        experiment=args.mlflow_experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME"),
        command=format_sweep_command(list(arguments), template),
    )


def _split_baseline(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"--baseline {text}: {str(error).lower()}; write 'lr=3e-4 rank=8'") from error


def _read_variables(texts: Sequence[str]) -> dict[str, str]:
    variables = {}
    for text in texts:
        name, is_set, value = text.partition("=")
        if not is_set or not name.isidentifier():
            raise ConfigError(f"--env {text}: write NAME=VALUE")
        variables[name] = value
    return variables


def _describe_search(request: "SweepRequest", template: "CommandTemplate") -> Iterator[str]:
    """Yield what is searched, and for what."""
    ranges = ", ".join(f"{key} in {text}" for key, text in template.range_texts.items())
    [direction] = request.spec.directions
    yield f"Searching {ranges}, to {direction} the {request.description['metric']}"


def _list_notes(asked: "CommandSweep", folder: Path, *, is_new: bool) -> Iterator[str]:
    """Yield what the user may have meant otherwise."""
    from harness.sweep.programs.command.environment import compare_environment, note_inherited_ranges
    from harness.sweep.programs.directions import note_doubtful_direction

    metric, remedy = asked.metric, "leave out" if asked.metric.direction == "maximize" else "add"
    note = note_doubtful_direction(metric.metric or "validation loss", metric.direction, f"{remedy} --maximize")
    yield from filter(None, [note])
    yield from _describe_passed_lists(asked.template)
    yield from note_inherited_ranges(asked.template) if is_new else compare_environment(folder, asked.template)


def _describe_passed_lists(template: "CommandTemplate") -> Iterator[str]:
    for key, text in template.unsearched_lists.items():
        yield f"{key} is not searched: {text} is passed as one value; 'choice({text})' searches its parts"


def _print_dry_run(request: "SweepRequest", template: "CommandTemplate", *, is_json: bool) -> None:
    """Print the size of the sweep, and the commands of trial 0 and of both ends of the ranges."""
    from harness.sweep.space.search_space import range_ends

    ends = {key: range_ends(dist) for key, dist in request.space.ranges.items()}
    values = (
        {f"trial 0, {request.command_line.baseline_name}": request.current_values} if request.options.baseline else {}
    )
    values["one end of every range"] = {key: bounds[0] for key, bounds in ends.items()}
    values["the other end"] = {key: bounds[-1] for key, bounds in ends.items()}
    commands = {name: template.format_command(one, request.folder / "0") for name, one in values.items()}
    if not is_json:
        print_fitted(request.describe_size())
        print(*(f"{name}:\n  {command}" for name, command in commands.items()), sep="\n")
        return
    document = {
        "status": "dry run",
        "study": request.study_name,
        "folder": str(request.folder),
        "n_trials": request.budget.n_trials,
        "n_jobs": request.workers.n_jobs,
        "objectives": dict(zip(request.spec.objectives, request.spec.directions, strict=True)),
        "space": template.range_texts,
        "commands": list(commands.values()),
    }
    print(json.dumps(document, indent=1))
