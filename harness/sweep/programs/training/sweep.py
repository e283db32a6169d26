"""Sweep over our own training: check the space and the training, then run the study."""

import gc
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from harness.config.alternatives import read_given_settings
from harness.config.compose import flatten_config, remove_credentials, without_sweep_keys
from harness.config.overrides import format_value
from harness.config.validation import validate_config
from harness.core.errors import ConfigError, RunFailedError
from harness.core.terminal import print_fitted, print_notes
from harness.preflight import CHECKS, preflight
from harness.preflight.render import describe_start, format_finding, print_finding, summarize_report
from harness.record.lr_range_file import RANGE_TEST_FILE, add_data_digest, find_range_test
from harness.run.dry_run import dry_run
from harness.run.initial_weights import parse_base_experiment
from harness.run.preflight_adapter import open_training_setup
from harness.sweep.programs.training.disk_space import check_disk_space
from harness.sweep.programs.training.request import TrainingRequest, read_sweep_request
from harness.sweep.programs.training.validation import (
    check_search_space,
    check_searched_keys,
    dry_run_from_scratch,
    find_misfit_keys,
    find_unusable_options,
)
from harness.sweep.request import BASIC_LAUNCHER
from harness.sweep.space.search_space import range_ends
from harness.sweep.study.setup import check_existing_study
from harness.sweep.study.warm_start import LR_RANGE
from harness.sweep.sweeper import run_study
from harness.sweep.workers.launcher_pool import make_launcher_pool


def run_sweep(config: DictConfig, context: HydraContext, arguments: list[str]) -> None:
    """Run a new sweep, or resume one.

    Raises:
        ConfigError: If the configuration is invalid; no study is created then.
        RunFailedError: If the sweep failed or was interrupted.
    """
    request, disk_space = prepare_sweep(config, arguments)
    is_resumed = check_existing_study(request)
    if request.options.dry_run:
        print_fitted("Measuring a few steps and an evaluation")
        print_fitted(*estimate_cost(request).splitlines(), *disk_space)
        return
    _ensure_base_model(request)
    findings = "" if is_resumed else _run_preflight(request)
    gc.collect()
    torch.cuda.empty_cache()  # leave the GPU memory of the checks to the workers
    public = config.copy()
    remove_credentials(public)  # some launchers write it to disk, and the jobs read only the WorkerSpec
    outcome = run_study(
        request,
        None if request.workers.launcher == BASIC_LAUNCHER else partial(make_launcher_pool, public, context),
        findings=findings,
        notes=disk_space,
    )
    outcome.end.raise_if_not_completed()


def prepare_sweep(config: DictConfig, arguments: list[str]) -> tuple[TrainingRequest, list[str]]:
    """Return the request of a sweep that can run, and lines about the space that it takes on the disk.

    Raises:
        ConfigError: If a configuration of the search space cannot be built.
    """
    request = read_sweep_request(config, arguments)
    check_searched_keys(request.space, request.options.allow)  # before any data is read
    request = _leave_out_unusable_options(request, config, arguments)
    print_fitted(f"Checking both ends of every range: {', '.join(sorted(request.space.searched_keys))}")
    checked = check_search_space(request.space, request.options.allow)
    spec, budget = request.spec, request.budget
    if budget.max_tokens is not None and budget.max_tokens < checked.run_tokens:
        raise ConfigError(
            f"sweep.max_tokens: {budget.max_tokens} is less than the {checked.run_tokens} tokens of one run; set at "
            "least that many"
        )
    request = replace(
        request,
        spec=replace(spec, warmup_share=checked.warmup_share, rung_start=checked.rung_start),
        budget=replace(budget, run_tokens=checked.run_tokens),
    )
    if request.options.warm_start == LR_RANGE:
        request = replace(request, range_test=_find_range_test(request, checked.dataset))
    print_notes((*request.notices, *checked.notices))
    disk_space = check_disk_space(request, checked.checkpoint_bytes)
    return request, disk_space.splitlines()


def _find_range_test(request: TrainingRequest, dataset: Mapping[str, str]) -> Path | None:
    """Return the file of the latest range test of the current configuration, None without any."""
    settings = OmegaConf.to_container(without_sweep_keys(request.cfg), resolve=True)
    params = add_data_digest(flatten_config(settings), dataset)
    test = find_range_test(validate_config(request.cfg).output_dir, params)
    return test.folder / RANGE_TEST_FILE if test else None


def _leave_out_unusable_options(request: TrainingRequest, config: DictConfig, arguments: list[str]) -> TrainingRequest:
    """Leave out, with a note, what a sweep file searches and this run cannot.

    Such as an optimizer that does not take complex parameters, or the rank of LoRA if the run resumes another.
    """
    typed = read_given_settings(arguments)
    keys = [key for key in request.space.ranges if key in request.file_keys and key not in typed]
    unusable = find_unusable_options(request.space, [key for key in keys if key in request.space.group_options])
    misfits = find_misfit_keys(request.space, keys) if request.cfg.start.kind == "resume" else {}
    if not unusable and not misfits:
        return request
    current = {key: OmegaConf.select(request.cfg, key) for key in misfits}
    usable = {
        group: [option for option in range_ends(request.space.ranges[group]) if option not in dropped]
        for group, dropped in unusable.items()
    }
    choices = [f"{group}={','.join(options)}" for group, options in usable.items()]
    notices = [
        f"{group}={option} is not searched: {reason}"
        for group, dropped in unusable.items()
        for option, reason in dropped.items()
    ]
    notices += [
        f"{key} is not searched, it stays {format_value(current[key])}: {reason}" for key, reason in misfits.items()
    ]
    choices += [f"{key}={format_value(value)}" for key, value in current.items()]
    request = read_sweep_request(config, [*arguments, *choices])
    return replace(request, notices=(*notices, *request.notices))


def _ensure_base_model(request: TrainingRequest) -> None:
    """Train the base model that trials start from if it is missing, with the whole machine."""
    dry_run(request.space.compose_config({}))  # builds the run, which trains and caches the weights it starts from


def _run_preflight(request: TrainingRequest) -> str:
    """Return the findings of preflight on the current configuration, in lines.

    Raises:
        RunFailedError: If a check fails and preflight=stop.
    """
    if request.preflight == "skip":
        return ""
    n_runs = math.ceil(request.budget.count_runs())
    with open_training_setup(_worker_config(request), n_runs, request.workers.n_jobs) as setup:
        print_fitted(f"{describe_start(setup, list(CHECKS))}, once; preflight=skip leaves it out")
        report = preflight(setup, on_finding=print_finding)
    print_fitted(summarize_report(report))
    if report.failed_checks and request.preflight == "stop":
        raise RunFailedError("preflight failed; fix the problem, or pass preflight=warn to search anyway")
    return "\n".join([*(format_finding(check, finding) for check, finding in report), summarize_report(report), ""])


def estimate_cost(request: TrainingRequest) -> str:
    """Train a few steps to measure them; return the search space and the expected cost in lines."""
    run = dry_run_from_scratch(_worker_config(request), timed_steps=5)
    assert run.seconds_per_step is not None
    assert run.seconds_per_eval is not None
    n_evals = run.evals + 1 + (len(request.spec.list_rungs()) if request.spec.is_pausing else 0)
    trial_seconds = run.seconds_per_step * run.total_steps + run.seconds_per_eval * n_evals
    budget = request.budget
    n_runs = replace(budget, run_tokens=run.tokens).count_runs()
    is_limited = n_runs < budget.n_trials  # some trials are not completed then
    n_rounds = max(1.0, n_runs / request.workers.n_jobs)
    minutes = (n_rounds if is_limited else math.ceil(n_rounds)) * trial_seconds / 60
    tokens = f"{n_runs * run.tokens:,.0f} tokens"
    total = f"{n_runs:.3g} runs = {tokens}, " if is_limited else f"{tokens} and "
    base = parse_base_experiment(OmegaConf.select(request.cfg, "start.source") or "")
    return "\n".join([
        f"Study {request.study_name}: {budget.describe_size()} by {request.workers}"
        + (f"; the space has {request.n_points} points" if request.n_points else ""),
        *(f"  {key}: {text}" for key, text in request.space.format_ranges().items()),
        f"per trial: {run.total_steps} steps of {run.seconds_per_step:.3g} s and {n_evals} evaluations of "
        f"{run.seconds_per_eval:.3g} s, {run.tokens:,.0f} tokens, {trial_seconds:.0f} s"
        + ", measured on one device" * (request.workers.n_processes > 1),
        f"in total: at most {total}{minutes:.1f} min{' without pruning' * (not is_limited)}"
        f"{', plus training of a missing base model' * bool(base)}; workers on one machine slow each other down",
    ])  # fmt: skip


def _worker_config(request: TrainingRequest) -> DictConfig:
    """Return the current configuration with the number of threads of a worker."""
    cfg = request.space.compose_config({})
    cfg.device.threads = cfg.device.threads or request.workers.n_threads
    return cfg
