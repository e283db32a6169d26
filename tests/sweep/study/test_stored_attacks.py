"""A study that somebody else stored runs nothing: sampler, pruner and space are checked, and its program is a name."""

from dataclasses import asdict
from typing import Any

import optuna
import pytest

from harness.core.errors import ConfigError
from harness.sweep.programs import make_trial_runner
from harness.sweep.request import SweepRequest
from harness.sweep.study.setup import open_study
from harness.sweep.study.trial_attrs import STUDY_SPEC
from harness.sweep.workers.worker import WorkerSpec, open_worker_study
from tests.attack_target import AttackTarget, number_attacks
from tests.sweep.tiny_sweeps import TINY_WITHOUT_LORA, make_worker_spec, read_tiny_request

EVIL = {"_target_": "evil.Component"}
SAMPLER = "hydra_plugins.hydra_optuna_sweeper._impl.create_nsgaii_sampler"

STORED: dict[str, object] = {
    "a sampler": {"sampler": EVIL},
    "a sampler of another package": {"sampler": {"_target_": "os.system", "command": "touch MARKER"}},
    "an attribute of a trusted module": {"sampler": {"_target_": "optuna.samplers._tpe.sampler.warnings.warn"}},
    "a pruner in the place of a sampler": {"sampler": {"_target_": "optuna.pruners.NopPruner"}},
    "constraints": {
        "sampler": {"_target_": "optuna.samplers.TPESampler", "constraints_func": {**EVIL, "_partial_": True}}
    },
    "a crossover": {"sampler": {"_target_": SAMPLER, "crossover": EVIL}},
    "a sampler of a sampler": {"sampler": {"_target_": "optuna.samplers.CmaEsSampler", "independent_sampler": EVIL}},
    "in a list": {"sampler": {"_target_": "optuna.samplers.CmaEsSampler", "source_trials": [EVIL]}},
    "positional arguments": {"sampler": {"_target_": "optuna.samplers.TPESampler", "_args_": [EVIL]}},
    "a sampler without a target": {"sampler": {"seed": 1}},
    "a pruner": {"pruner": EVIL},
    "a pruner of ours that removes folders": {
        "pruner": {"_target_": "harness.data.cache.ensure_cached", "folder": "VICTIM", "write": EVIL}
    },
    "a wrapped pruner": {"pruner": {"_target_": "optuna.pruners.PatientPruner", "patience": 1, "wrapped_pruner": EVIL}},
    "a search space": {"custom_search_space": "evil.run"},
    "another program": {"program": "evil"},
    "a program with settings": {"program": {"kind": "command", "template": {"words": ["touch", "MARKER"]}}},
    "a program that starts its workers itself": {"program": "hydra_app"},
    "a search space of ours": {"custom_search_space": "harness.core.files.write_atomically"},
}


def fill_in(value: Any, target: AttackTarget) -> Any:
    if isinstance(value, dict):
        return {key: fill_in(child, target) for key, child in value.items()}
    if isinstance(value, list):
        return [fill_in(child, target) for child in value]
    return target.fill_in(value) if isinstance(value, str) else value


def prepare_trial(spec: WorkerSpec) -> None:
    """Do what a worker does for its first trial, up to the configuration."""
    _, study_spec = open_worker_study(spec)
    make_trial_runner(study_spec, spec.program)


@pytest.fixture(scope="module")
def request_and_study(tmp_path_factory: pytest.TempPathFactory) -> tuple[SweepRequest, optuna.Study]:
    folder = tmp_path_factory.mktemp("study")
    places = [f"output_dir={folder}/outputs", f"cache_dir={folder}/cache", f"tracking.uri=sqlite:///{folder}/m.db"]
    request = read_tiny_request(*TINY_WITHOUT_LORA, *places)
    return request, open_study(request).study


UNREADABLE: dict[str, object] = {
    "no settings": "text",
    "other fields": {"params": {}, "arguments": []},
    "a space without ranges": {"space": {}},
    "a range of no kind": {"space": {"ranges": {"optimizer.lr": "{}"}, "conditional": {}, "group_options": {}}},
    "a range that is no text": {"space": {"ranges": {"optimizer.lr": 1}, "conditional": {}, "group_options": {}}},
}


@pytest.mark.parametrize("change", UNREADABLE.values(), ids=UNREADABLE)
def test_settings_of_another_form_are_refused(change, request_and_study) -> None:
    request, study = request_and_study
    stored = asdict(request.spec)
    study.set_user_attr(STUDY_SPEC, {**stored, **change} if isinstance(change, dict) else change)
    try:
        with pytest.raises(ConfigError, match=r"default: its settings are not as this version stores them .*NAME$"):
            open_study(request)
    finally:
        study.set_user_attr(STUDY_SPEC, stored)


@pytest.mark.parametrize("change", number_attacks(STORED))
def test_attack_in_the_stored_settings_of_a_study(change, target: AttackTarget, request_and_study) -> None:
    request, study = request_and_study
    stored = asdict(request.spec)
    tampered = fill_in(change, target)
    study.set_user_attr(STUDY_SPEC, {**stored, **tampered})
    with pytest.raises(ConfigError) as error:
        prepare_trial(make_worker_spec(request))
    target.check_untouched()
    assert "\n" not in str(error.value)
