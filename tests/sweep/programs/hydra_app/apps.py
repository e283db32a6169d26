"""Hydra apps for tests: their files, and a sweep of one that is composed in this process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig


@contextmanager
def open_multirun(folder: Path, config: str, *overrides: str) -> Iterator[tuple[HydraContext, DictConfig]]:
    """Compose a sweep of the app with this config.yaml as `python app.py -m OVERRIDES` would."""
    (folder / "config.yaml").write_text(config)
    hydra = Hydra.create_main_hydra2("app", create_config_search_path(str(folder)))
    try:
        cfg = hydra.compose_config("config", [*overrides, "hydra.mode=MULTIRUN"], RunMode.MULTIRUN)
        HydraConfig.instance().set_config(cfg)
        yield HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(cfg)), cfg
    finally:
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = None
