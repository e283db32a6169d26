"""Effective settings survive JSON and become flat parameters for MLflow."""

import json
from dataclasses import asdict

from harness.core.effective_settings import EffectiveSettings
from harness.record.metrics_file import encode_entry
from tests.observers.sample_events import make_effective_settings

GROUPS = {"matrices": {"peak_lr": 0.02, "betas": [0.9, 0.95]}, "vectors": {"peak_lr": 0.001, "weight_decay": 0.0}}


def test_json_round_trip_with_infinite_grad_clip() -> None:
    settings = make_effective_settings(grad_clip=float("inf"), param_groups=GROUPS)
    entry = json.loads(encode_entry({"effective": asdict(settings)}))
    assert EffectiveSettings.from_json(entry["effective"]) == settings


def test_params_are_flat_and_prefixed() -> None:
    params = make_effective_settings(param_groups=GROUPS, schedule_settings={"warmup_ratio": 0.1}).to_params()
    assert params["used.total_steps"] == "20"
    assert params["used.betas.matrices"] == "[0.9, 0.95]"
    assert params["used.peak_lr.vectors"] == "0.001"
    assert params["used.schedule"] == "Cosine"
    assert params["used.schedule.warmup_ratio"] == "0.1"


def test_group_value_falls_back_to_the_first_group_that_has_it() -> None:
    settings = make_effective_settings(param_groups=GROUPS)
    assert settings.get_group_value("peak_lr") == 0.02
    assert settings.get_group_value("weight_decay") == 0.0
    assert settings.get_group_value("momentum") is None
