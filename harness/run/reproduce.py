"""What to type to have a recorded run's configuration again."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from harness.config.errors import REFUSED, ConfigError
from harness.config.locks import check_locked
from harness.config.schema import IDLE, compose, holds, run_part, validate
from harness.core.events import Verdict
from harness.record import metrics_file

NOT_AGAIN = ("name", "expect", "sweep", "sweeps", "hydra", "pruner", "preflight")
"""Roots of overrides that are of that run or its sweep alone."""

PLAIN, NO_WORDS = r"[A-Za-z_][\w./-]*", ("null", "true", "false", "nan", "inf")
"""What needs no quotes."""


def retyped(folder: Path) -> list[str]:
    """Overrides that compose to the configuration of the run in `folder`: those that were typed, as far as they are
    known and mean something here, or else the experiment of the run's name; and what differs beside them."""
    wanted = OmegaConf.load(folder / "config.yaml")
    typed, made = _begun(_typed(folder), [f"experiment={wanted.name}"])
    return [*typed, *_differences(_plain(wanted), _plain(run_part(made)))]


def takeable(folder: Path, verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts with those overrides alone that run.py takes for the run in `folder`."""
    if not any(verdict.overrides for verdict in verdicts):
        return list(verdicts)
    typed = retyped(folder)
    return [replace(verdict, overrides=accepted(typed, verdict.overrides)) for verdict in verdicts]


def accepted(typed: Sequence[str], wanted: Sequence[str]) -> tuple[str, ...]:
    """What run.py takes of `wanted` in place of or beside what is `typed`: all, or each that goes with those before."""
    if _is_taken(typed, wanted):
        return tuple(wanted)
    kept: tuple[str, ...] = ()
    for override in wanted:
        kept = (*kept, override) if _is_taken(typed, (*kept, override)) else kept
    return kept


def study_after(name: str) -> str:
    """A study's name of its own, so that no study of another space is gone on with."""
    plain = re.sub(r"[^\w.+-]", "_", name)
    return f"after_{plain}"[:80]


def _is_taken(typed: Sequence[str], wanted: Sequence[str]) -> bool:
    replaced = [_key(override) for override in wanted]
    overrides = [*(one for one in typed if not any(holds(key, _key(one)) for key in replaced)), *wanted]
    try:
        cfg = compose(overrides)
        check_locked(cfg, overrides)
        validate(cfg)
    except (*REFUSED, ConfigError):
        return False
    return True


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _begun(*candidates: list[str]) -> tuple[list[str], DictConfig]:
    """The first that is something and composes; a folder of the user's own, or another version, may have been meant."""
    for overrides in filter(None, candidates):
        with suppress(*REFUSED):
            return overrides, compose(overrides)
    return [], compose([])


def _typed(folder: Path) -> list[str]:
    """From the command of `python run.py`; nothing of a run that was started otherwise."""
    start = next((entry for entry, _ in metrics_file.read(folder / metrics_file.NAME)), {})
    program, *words = shlex.split(start.get("tags", {}).get("command", ""))[1:] or [""]
    given = [word for word in words if "=" in word] if program == "run.py" else []
    return [word for word in given if word.lstrip("+~").partition("=")[0].partition(".")[0] not in NOT_AGAIN]


def _plain(cfg: DictConfig) -> dict[str, Any]:
    return {key: value for key, value in OmegaConf.to_container(cfg, resolve=True).items() if key not in IDLE}


def _differences(wanted: Mapping[str, Any], made: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name in [*wanted, *(name for name in made if name not in wanted)]:
        key = f"{prefix}{name}"
        one, other = wanted.get(name), made.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _differences(one, other, f"{key}.")
        elif name not in wanted:
            yield f"~{key}"
        elif name not in made or one != other:
            yield f"{'' if name in made else '+'}{key}={_text(one)}"


def _text(value: Any) -> str:
    """As Hydra's grammar has it."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case dict():
            return "{" + ",".join(f"{name}:{_text(inner)}" for name, inner in value.items()) + "}"
        case list():
            return f"[{','.join(map(_text, value))}]"
        case str() if re.fullmatch(PLAIN, value) and value.lower() not in NO_WORDS:
            return value
        case str():
            escaped = re.sub(r"\\+(?='|\Z)", lambda found: 2 * found[0], value).replace("'", "\\'")
            return f"'{escaped}'"
    return str(value)
