"""The settings in effect in a run, read from the built objects rather than from the configuration."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

Value = bool | int | float | str | list[Any] | None
"""A value as JSON holds it."""

PREFIX = "used."
"""Prefix of the parameters that MLflow shows. It compares runs by the first three that differ, in the order of their
names, and those should be the user's own settings."""


@dataclass(frozen=True)
class EffectiveSettings:
    """Settings in effect in a run, whatever its configuration asked for."""

    device: str
    devices: int
    threads: int
    parameters: int
    trainable_parameters: int
    total_steps: int
    steps_per_epoch: int
    warmup_steps: int
    evals: int
    batch_size: int
    micro_batch_size: int
    accum_steps: int
    grad_clip: float
    """Infinity where gradients are not clipped."""
    autocast: str
    """The dtype of the forward pass."""
    optimizer: str
    """Class names, joined by + where there are several optimizers."""
    param_groups: Mapping[str, Mapping[str, Value]]
    """`peak_lr`, `weight_decay`, `betas` and so on of each parameter group."""
    schedule: str = ""
    """Class name; empty for a schedule that is not a dataclass."""
    schedule_settings: Mapping[str, Value] = field(default_factory=dict)
    first_step: int = 0
    """The step that a resumed run starts from."""
    schedule_start_step: int = 0
    """The step from which the schedule and the length of the run count."""
    lr_factor: float = 1.0
    """Factor on every LR, left by rollbacks of the run that this one resumes."""

    def to_params(self) -> dict[str, str]:
        """Return flat `used.*` parameters for MLflow and for people."""
        return {f"{PREFIX}{name}": str(value) for name, value in self._flatten()}

    def get_group_value(self, name: str, group: str = "matrices") -> Value:
        """Return a setting of `group`, or of the first group that has it, or None."""
        values = {key: numbers[name] for key, numbers in self.param_groups.items() if name in numbers}
        return values.get(group, next(iter(values.values()), None))

    @classmethod
    def from_json(cls, node: Mapping[str, Any]) -> "EffectiveSettings":
        """Read what a run recorded; JSON holds infinity as the string "Infinity"."""
        known = {name: node[name] for name in (each.name for each in fields(cls)) if name in node}
        return cls(**_decode_infinity(known))

    def _flatten(self) -> Iterator[tuple[str, Value]]:
        for name, value in vars(self).items():
            if name == "param_groups":
                for group, numbers in value.items():
                    yield from ((f"{key}.{group}", number) for key, number in numbers.items())
            elif name == "schedule_settings":
                yield from ((f"schedule.{key}", setting) for key, setting in value.items())
            elif value != "":
                yield name, value


def _decode_infinity(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _decode_infinity(child) for name, child in value.items()}
    return float(value) if value in ("Infinity", "-Infinity") else value
