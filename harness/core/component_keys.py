"""Keys of components as people read them: optimizer.class in place of optimizer._target_."""

from collections.abc import Mapping

TARGET, PARTIAL, CLASS = "_target_", "_partial_", "class"


def rename_component_keys(settings: Mapping[str, str]) -> dict[str, str]:
    """Return settings by dotted key without Hydra's own keys: `_target_` becomes `class`, and `_partial_` is left out.

    A component has no argument `class`, which is a keyword of Python. Renamed settings are returned as they are.
    """
    renamed = {}
    for key, value in settings.items():
        section, dot, name = key.rpartition(".")
        if name != PARTIAL:
            renamed[f"{section}{dot}{CLASS if name == TARGET else name}"] = value
    return renamed
