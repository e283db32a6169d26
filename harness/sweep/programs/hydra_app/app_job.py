"""Run one job of an app as Hydra's own launcher does."""

from collections.abc import Sequence

from hydra.core.utils import JobReturn, configure_log, run_job
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict


def run_app_job(
    context: HydraContext,
    task_function: TaskFunction,
    sweep_config: DictConfig,
    overrides: Sequence[str],
    number: int,
    sweep_dir: str,
) -> JobReturn:
    """Run job `number` of a sweep: compose its configuration, create its folder, configure logging, call the task.

    Args:
        sweep_config: The configuration of the sweep, which the overrides of the job are added to.
        sweep_dir: What `hydra.sweep.dir` is for the job. That of `sweep_config` may hold times, which differ between
            the processes of a sweep.

    Returns:
        Hydra's record of the job. An exception of the task is kept in it, and raised by its `return_value`.

    Raises:
        BaseException: What the task raises that is not an Exception, such as SystemExit and KeyboardInterrupt.
        HydraException: If the configuration cannot be composed. OmegaConf raises others.
    """
    job_config = context.config_loader.load_sweep_config(sweep_config, list(overrides))
    with open_dict(job_config):
        job_config.hydra.job.id = str(number)
        job_config.hydra.job.num = number
        job_config.hydra.sweep.dir = sweep_dir
    try:
        return run_job(
            hydra_context=context,
            task_function=task_function,
            config=job_config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
    finally:  # the job has configured logging for itself
        configure_log(
            sweep_config.hydra.hydra_logging,
            sweep_config.hydra.verbose,
            execution_whitelist=context.execution_whitelist,
        )
