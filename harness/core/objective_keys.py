"""Which configuration keys decide what a validation loss measures: losses under other values cannot be compared."""

from collections.abc import Mapping

from harness.core.component_keys import rename_component_keys

OBJECTIVE_SECTIONS = {
    "task": "what is learned",
    "tokenizer": "the tokens that the loss is averaged over",
    "data": "the data, and so the validation loss",
}
"""Sections of these keys, and what they determine. Keys that nobody has thought of count too."""

NOT_OBJECTIVE = ("data.eval_batch_size", "data.shuffle", "task.blimp")
"""Exceptions: how fast it is evaluated, the order of training, and further metrics."""

SEEN_IN_DIGESTS = (
    "tokenizer", "data.class", "data.source", "data.train", "data.validation", "data.test", "data.test_share",
    "data.val_fraction",
    "data.limit", "data.held_out", "data.resolution", "data.finer", "data.x", "data.y", "data.channels", "data.digest",
    "data.validation_digest",
)  # fmt: skip
"""Keys that choose samples and tokens: the digests of validation data and tokenizer show whether these differ."""

TRAINING_ONLY = {"harness.tasks.operator.build_operator_task": ("task.loss",)}
"""By task, keys of the training loss alone."""


def is_objective_key(key: str) -> bool:
    """Return whether a dotted configuration key or group decides what a validation loss measures."""
    return key.partition(".")[0] in OBJECTIVE_SECTIONS and not _is_below(key, NOT_OBJECTIVE)


def select_objective_settings(params: Mapping[str, str]) -> dict[str, str]:
    """Return what decides what a run's validation loss measures, beside the digests of its data and tokenizer.

    `params` are those of a record or those that MLflow shows.
    """
    params = rename_component_keys(params)
    ignored = (*SEEN_IN_DIGESTS, *TRAINING_ONLY.get(params.get("task.class", ""), ()))
    return {
        key: value
        for key, value in params.items()
        if "." in key and is_objective_key(key) and not _is_below(key, ignored)
    }


def _is_below(key: str, outer: tuple[str, ...]) -> bool:
    return any(f"{key}.".startswith(f"{one}.") for one in outer)
