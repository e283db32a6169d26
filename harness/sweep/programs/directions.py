"""Directions of sweeps: the key hydra.sweeper.direction, and directions that the name of a metric contradicts."""

from collections.abc import Sequence
from typing import Any, cast, get_args

from harness.core.errors import ConfigError
from harness.importers.metric_directions import is_higher_better
from harness.sweep.study.spec import Direction


def parse_directions(direction: Any) -> list[Direction]:
    """Return hydra.sweeper.direction, a direction or a list of them, as a list.

    Raises:
        ConfigError: If one is neither minimize nor maximize.
    """
    given = direction if isinstance(direction, list) else [direction]
    names: list[Direction] = []
    for name in (str(getattr(one, "name", one)) for one in given):
        if name not in get_args(Direction):
            raise ConfigError(f"hydra.sweeper.direction: {name}: must be {' or '.join(get_args(Direction))}")
        names.append(cast(Direction, name))
    return names


def check_n_directions(direction: Any, objectives: Sequence[str]) -> None:
    """Check that a list of directions has one for each objective."""
    if isinstance(direction, list) and len(direction) != len(objectives):
        names = [str(getattr(one, "name", one)) for one in direction]
        count = f"{len(names)} direction{'s' * (len(names) != 1)}"
        raise ConfigError(
            f"hydra.sweeper.direction: [{','.join(names)}] has {count} for "
            f"{len(objectives)} objective{'s' * (len(objectives) > 1)} ({', '.join(objectives)}); "
            "leave it out, or list as many with sweep.objectives=[…]"
        )


def note_doubtful_direction(metric: str, direction: Direction, remedy: str) -> str:
    """Return a note if the name of a metric says that the other direction is meant, or else an empty string."""
    more_is_better = is_higher_better(metric)
    if more_is_better is None or more_is_better == (direction == "maximize"):
        return ""
    return f"the sweep is to {direction} {metric}: if {'more' if more_is_better else 'less'} is better, {remedy}"
