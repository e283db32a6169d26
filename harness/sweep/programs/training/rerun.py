"""Run configurations of a sweep over our own training again."""

from omegaconf import OmegaConf

from harness.config.compose import has_key
from harness.core.errors import ConfigError
from harness.sweep.programs.training.command_line import TrainingCommandLine
from harness.sweep.programs.training.config_space import TRIAL_DEFAULTS, rebuild_config_space
from harness.sweep.programs.training.request import list_own_gpus
from harness.sweep.request import BASIC_LAUNCHER, LOCAL_LAUNCHERS, plan_workers
from harness.sweep.rerun import Rerun, RerunOptions
from harness.sweep.swept_study import SweptStudy

SEED_KEY = "seed"
TEST_METRIC = "test_loss"
SCORE_TEST = "score_test=true"


def prepare_training_rerun(study: SweptStudy, options: RerunOptions) -> Rerun:
    """Return what runs the training of a sweep again; on the test split too, if the data has one.

    Raises:
        ConfigError: If the configuration is no longer valid, or has no such seed.
    """
    program, recorded = study.program, study.program.settings
    space = rebuild_config_space(study.spec, recorded)
    cfg = space.compose_config({}, TRIAL_DEFAULTS)
    seed_key = options.seed_flag or SEED_KEY
    if not has_key(cfg, seed_key):
        raise ConfigError(f"--seed-flag {seed_key}: the configuration has no such key; leave it out for {SEED_KEY}")
    if options.test_metric:
        raise ConfigError("--test-metric: is for other programs; here, data.test_share sets test data aside")
    has_test = any(OmegaConf.select(cfg, f"data.{key}") is not None for key in ("test", "test_share"))
    notices = () if has_test else (
        "the data has no test split, so the claim is about the validation data, on which the sweep has chosen; "
        "data.test_share=0.1 in the command of the sweep sets one aside",
    )  # fmt: skip
    is_local = program.launcher in LOCAL_LAUNCHERS
    return Rerun(
        program={**recorded, "fixed": [*recorded["fixed"], *([SCORE_TEST] if has_test else [])]},
        workers=plan_workers(
            BASIC_LAUNCHER, options.n_jobs or (program.n_jobs if is_local else None), list_own_gpus(cfg)
        ),
        seed_key=seed_key,
        seed=OmegaConf.select(cfg, seed_key),
        test_metric=TEST_METRIC if has_test else None,
        command_line=TrainingCommandLine(space.current),
        notices=notices,
    )
