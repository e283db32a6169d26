"""Plan the confirmation of configurations of our own training that are given as overrides."""

import hashlib
import json
from collections.abc import Mapping

from harness.config.validation import check_writable
from harness.evidence.confirm.from_study import ConfirmOptions, make_plan
from harness.evidence.confirm.plan import BASELINE, Confirmation, ConfirmedConfig
from harness.record.sweep_files import STUDIES_FOLDER
from harness.sweep.programs.training.rerun import read_training_configs
from harness.sweep.seed_study import SeedStudyPlan


def plan_override_confirmation(overrides: Mapping[str, list[str]], options: ConfirmOptions) -> Confirmation:
    """Return the confirmation of configurations by name, of which the first is the baseline.

    Its folder is named after the configurations, so that the same command resumes.

    Raises:
        ConfigError: If one is invalid, or they cannot be compared.
    """
    configs = read_training_configs(overrides, options.rerun)
    named = [ConfirmedConfig(name, values) for name, values in configs.values.items()]
    plan = make_plan(
        named[0], named[1:], configs.rerun, configs.spec.objectives[0], configs.spec.directions[0], options,
        used_seeds=(), n_measured=None,
    )  # fmt: skip
    name = f"confirm-{hashlib.sha256(json.dumps(list(overrides.values())).encode()).hexdigest()[:8]}"
    return Confirmation(
        study=name,
        plan=plan,
        runs=SeedStudyPlan(
            name=name,
            folder=check_writable("output_dir", configs.output_dir / STUDIES_FOLDER / name),
            storage=None,
            spec=configs.spec,
            rerun=configs.rerun,
            configs=configs.values,
            metric=plan.metric,
            store_uri=configs.store_uri,
            experiment=configs.experiment,
            is_uploaded=configs.is_uploaded,
            command=options.command,
            settings=plan.list_settings(),
            max_seconds=options.max_seconds,
            max_tokens=options.max_tokens,
        ),
    )


def name_configs(n_configs: int) -> list[str]:
    """Return the names of the baseline and of the candidates."""
    if n_configs == 2:
        return [BASELINE, "candidate"]
    return [BASELINE, *(f"candidate {number}" for number in range(1, n_configs))]
