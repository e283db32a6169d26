"""The folder of a sweep: `hydra.sweep.dir`, the same each time the sweep is started."""

import copy
import re
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.core.errors import ConfigError
from harness.record.sweep_files import name_study_folder
from harness.sweep.hydra_app_internals import replace_resolver

_TIME = "\x00"
_ADJACENT_TIMES = re.compile(f"{_TIME}(?:[^a-su-zA-SU-Z0-9{_TIME}]*{_TIME})+")  # may be joined by a T, as in ISO 8601
_LATER_TIME = re.compile(rf"[-_. ]*{_TIME}")


def find_sweep_dir(config: DictConfig, study_name: str) -> Path:
    """Return `hydra.sweep.dir` with the name of the study in place of times, so that the same command resumes a sweep.

    `multirun/${now:%Y-%m-%d}/${now:%H-%M-%S}` becomes `multirun/STUDY`, wherever the times stand that it refers to.

    Raises:
        ConfigError: If it cannot be resolved.
    """
    dated = _resolve_without_times(config)
    first, found, rest = _ADJACENT_TIMES.sub(_TIME, dated).partition(_TIME)
    if found:
        dated = first + name_study_folder(study_name) + _LATER_TIME.sub("", rest)
    return Path(config.hydra.runtime.cwd, dated)


def _resolve_without_times(config: DictConfig) -> str:
    """Return `hydra.sweep.dir` with _TIME in place of each time."""
    config = copy.deepcopy(config)
    OmegaConf.clear_cache(config)  # it holds the times that were resolved before
    hydra_config = HydraConfig.instance()
    previous = hydra_config.cfg
    try:
        with replace_resolver("now", lambda *_: _TIME):
            hydra_config.set_config(config)  # for the resolver `hydra`
            return str(config.hydra.sweep.dir)
    except OmegaConfBaseException as error:
        problem = str(error).partition("\n")[0]
        raise ConfigError(f"hydra.sweep.dir: {problem}; set hydra.sweep.dir=FOLDER") from error
    finally:
        hydra_config.cfg = previous
