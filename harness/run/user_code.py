"""Errors in code of the user's own: the file and the line, and where the traceback is."""

import sysconfig
import traceback
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar

from omegaconf import DictConfig

from harness.config.compose import to_plain_dict
from harness.config.schema import RunSettings
from harness.config.targets import find_components
from harness.config.trusted_components import read_own_names
from harness.core.credentials import hide_credentials_in_text, write_traceback
from harness.core.errors import ConfigError, RunFailedError
from harness.core.paths import PACKAGE, TRACEBACK_FILE
from harness.core.shortage import describe_shortage

T = TypeVar("T")
NOT_USER_CODE = (str(PACKAGE), *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")), "<")


def describe_error(error: BaseException) -> str:
    """Return the type and message of an error, with the last line of the user's own code that led to it."""
    place = find_user_line(error)
    message = " ".join(str(error).split())
    return hide_credentials_in_text(f"{type(error).__name__}: {message}" + (f" ({place})" if place else ""))


def find_user_line(error: BaseException) -> str:
    """Return the last line in a traceback that belongs to no installed package, as "FILE, line N"; "" if none does."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(NOT_USER_CODE)]
    return f"{own[-1].filename}, line {own[-1].lineno}" if own else ""


def explain_user_errors(build: Callable[..., T]) -> Callable[..., T]:
    """Return `build` with exceptions that the user's own components raise, or cause, as ConfigErrors.

    There is no run folder yet, so the traceback is in the folder of all runs.

    Args:
        build: Called with a configuration, its settings and more; builds a run.
    """

    @wraps(build)
    def explained(cfg: DictConfig, settings: RunSettings, *args: Any) -> T:
        try:
            return build(cfg, settings, *args)
        except (ConfigError, RunFailedError):
            raise
        except Exception as error:
            own = list_own_components(to_plain_dict(cfg))
            if describe_shortage(error, settings.output_dir) or not own:
                raise
            path = settings.output_dir / TRACEBACK_FILE
            write_traceback(path, error)
            hint = "" if find_user_line(error) else f"; check what {' and '.join(own)} returns"
            raise ConfigError(f"{describe_error(error)}{hint}; traceback: {path}") from error

    return explained


def list_own_components(plain: Mapping[str, Any]) -> list[str]:
    """Return the components of a configuration that HARNESS_TRUST names."""
    targets = dict.fromkeys(node["_target_"] for _, node in find_components(plain))
    return [target for target in targets if target in read_own_names()]
