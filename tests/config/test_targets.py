"""Targets are found at every node of a configuration."""

from omegaconf import OmegaConf

from harness.config.targets import find_targets


def test_find_targets_in_mappings_with_any_keys_and_in_lists() -> None:
    cfg = OmegaConf.create({"a": {10: 0.1, "b": {"_target_": "x"}}, "c": [{"_target_": "y"}, {1: {"_target_": "z"}}]})
    assert {key: node["_target_"] for key, node in find_targets(cfg)} == {"a.b": "x", "c[0]": "y", "c[1].1": "z"}
