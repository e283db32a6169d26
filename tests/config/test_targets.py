"""Components are found at every node of a configuration."""

from harness.config.targets import find_components


def test_find_components_in_mappings_with_any_keys_and_in_lists() -> None:
    plain = {"a": {10: 0.1, "b": {"_target_": "x"}}, "c": [{"_target_": "y"}, {1: {"_target_": "z"}}]}
    found = {".".join(path): node["_target_"] for path, node in find_components(plain)}
    assert found == {"a.b": "x", "c[0]": "y", "c[1].1": "z"}
