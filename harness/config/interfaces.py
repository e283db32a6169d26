"""Methods and attributes that a component must have; docs/extending.md shows a complete example of each kind."""

from collections.abc import Sequence
from typing import Any

from harness.config.trusted_components import find_place
from harness.core.errors import ConfigError

SOURCE = ("fingerprint iter_documents", "see harness.data.sources.Source", "data-source")
INTERFACES = {
    "schedule": (
        "lr_multiplier count_warmup_steps warmup_notice",
        "extend harness.training.schedules.WarmupSchedule",
        "schedule",
    ),
    "data.source": SOURCE,
    "tokenizer.corpus": SOURCE,
    "tokenizer": ("fingerprint build", "see harness.data.tokenizers.TokenizerBuilder", "tokenizer"),
    "observers.*": ("__call__ flush close", "extend harness.core.events.Observer", "observer"),
    "task": (
        "model constants dataset examples files tokens_per_example get_batch split_batch count_scored count_tokens "
        "compute_loss validation_batches score_batch compute_metrics",
        "see harness.core.task.Task",
        "task",
    ),
    "model": ("parameters state_dict named_modules", "extend torch.nn.Module", "model"),
    "optimizer": (
        "param_groups step zero_grad state_dict load_state_dict",
        "extend torch.optim.Optimizer",
        "optimizer",
    ),
}
"""By place: names that the object must have, what to build on, and its section in docs/extending.md."""


def check_interface(path: Sequence[str], target: str, built: Any) -> None:
    """Check that what the component `target` built has what its place needs. Several optimizers are checked each.

    Raises:
        ConfigError: If a method or attribute is missing.
    """
    place = find_place(path)
    if place not in INTERFACES or target.startswith("harness."):
        return
    names, remedy, anchor = INTERFACES[place]
    for part in built if isinstance(built, list | tuple) and built else [built]:
        missing = [name for name in names.split() if not hasattr(part, name)]
        if missing:
            few = ", ".join(missing[:3]) + (", …" if missing[3:] else "")
            found = (
                target if type(part).__name__ == target.rpartition(".")[2] else f"{target} returns {part!r:.60}, which"
            )
            raise ConfigError(
                f"{'.'.join(path)}: {found} cannot be used as {place.removesuffix('.*')}: it has no {few}; {remedy} "
                f"(docs/extending.md#{anchor})"
            )
