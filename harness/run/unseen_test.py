"""Keep test documents that are cut from the training source out of the weights that a run starts from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from harness.config.compose import load_run_config
from harness.config.schema import RunSettings
from harness.core.errors import ConfigError
from harness.record.metrics_file import METRICS_FILE
from harness.record.run_lookup import find_run
from harness.record.trial_record import is_foreign_folder
from harness.run.initial_weights import parse_base_experiment

SHARES = ("val_fraction", "test_share")
PLACES = ("source", "train")
"""Keys of `data` that say where its documents or samples come from."""
NOT_CUTTING = ("layout", "sequence_length", "shuffle", "eval_batch_size", "limit", "validation", "test")
"""Keys of `data` that do not change which of them are for testing; a limit of samples holds after the cut."""
N_PARENTS = 3  # from a file of weights to the folder of its run, as in RUN/checkpoints/best/model.safetensors


def hold_out_test(base: DictConfig, cfg: DictConfig) -> None:
    """Cut the data of a base model like that of the run of `cfg`, which has a test share, if they have one source."""
    own, other = _read_data(cfg), _read_data(base)
    if own.get("test_share") is None or not _has_same_source(own, other):
        return
    with open_dict(base):
        for key in (*SHARES, "validation"):
            if key in own:
                base.data[key] = own[key]


def check_test_unseen(cfg: DictConfig, settings: RunSettings) -> None:
    """Check that the run whose weights the run of `cfg` starts from has not been trained on its test share.

    Raises:
        ConfigError: If it has, or if it does not exist.
    """
    key, source = ("start.run", settings.start.run) if settings.start.run else ("start.source", settings.start.source)
    own = _read_data(cfg)
    if own.get("test_share") is None or not source or parse_base_experiment(source):
        return
    folder = _find_run_folder(find_run(source, settings.output_dir, key))
    if folder is None:
        return
    other = _read_data(load_run_config(folder))
    if _has_same_source(own, other) and _select_cut(own) != _select_cut(other):
        theirs = " ".join(f"data.{name}={_format_share(other.get(name))}" for name in SHARES)
        raise ConfigError(
            f"data.test_share: {own['test_share']}: {folder.name}, whose weights this run starts from, cut the same "
            f"data in another way ({theirs}) and may have been trained on the test documents; cut it as that run did, "
            "train that run again with this share, or give test files with data.test=…"
        )


def _read_data(cfg: DictConfig) -> Mapping[str, Any]:
    node = cfg.get("data")
    return OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else {}  # type: ignore[return-value]


def _has_same_source(own: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two sections `data` read the same files or the same built-in source, however they cut them."""
    return own.get("_target_") == other.get("_target_") and all(
        _find_place(own.get(key)) == _find_place(other.get(key)) for key in PLACES
    )


def _find_place(node: Any) -> Any:
    return node.get("path", node.get("_target_", node)) if isinstance(node, Mapping) else node


def _select_cut(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what decides which documents are for testing; keys that are null count as absent."""
    return {key: value for key, value in data.items() if key not in NOT_CUTTING and value is not None}


def _find_run_folder(path: Path) -> Path | None:
    """Return the folder of the run that the weights at `path` belong to, None for those of others."""
    for folder in (path, *path.parents[:N_PARENTS]):
        if (folder / METRICS_FILE).is_file() and (folder / "config.yaml").is_file() and not is_foreign_folder(folder):
            return folder
    return None


def _format_share(share: float | None) -> str:
    return "null" if share is None else str(share)
