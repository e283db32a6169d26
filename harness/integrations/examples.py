"""Examples of any data set in the form that the checks compare: token ids as tuples, anything else by its digest."""

import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from torch import Tensor

from harness.preflight import TrainingData

MAX_TRAIN, MAX_VAL, MAX_STREAMED, MAX_LOADED = 20_000, 400, 256, 2000  # MAX_LOADED: read one by one, such as images
MAX_TOKENS = 300_000  # of training text, which the checks read in about 3 s


@dataclass(frozen=True)
class _Excerpt(Iterable[Hashable]):
    """Examples of a data set that goes on; it has no length, so that no passes over the data are computed from it."""

    examples: list[Hashable]

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self.examples)


def read_training_data(train: Any, val: Any, unknown_token_id: int | None = None) -> TrainingData:
    """Read data sets as far as it is cheap; one without a length, such as a stream, is read from its start."""
    train_examples, is_complete = _read_examples(train, MAX_TRAIN)
    val_examples, _ = _read_examples(val, MAX_VAL)
    stream = None
    if is_complete and train_examples and isinstance(train_examples[0], tuple):
        stream = np.concatenate([np.asarray(each, dtype=np.int64) for each in train_examples])
    kept: Any = train_examples if is_complete else _Excerpt(train_examples)
    return TrainingData(
        train=kept if train_examples else None,
        val=val_examples or None,
        token_stream=stream,
        unknown_token_id=unknown_token_id,
    )


def choose_examples(dataset: Any, count: int) -> Any:
    """Return up to `count` examples, evenly spread over the data set, in a data set of the same kind if possible."""
    if not hasattr(dataset, "__len__"):
        return list(islice(dataset, count))
    if len(dataset) <= count:
        return dataset
    places = np.linspace(0, len(dataset) - 1, count).astype(int).tolist()
    return dataset.select(places) if hasattr(dataset, "select") else [dataset[place] for place in places]


def _read_examples(dataset: Any, limit: int) -> tuple[list[Hashable], bool]:
    """Return (examples, whether these are all)."""
    if dataset is None:
        return [], False
    has_length = hasattr(dataset, "__len__")
    limit = min(limit, len(dataset)) if has_length else MAX_STREAMED
    source: Iterable[Any]
    if hasattr(dataset, "select") and "input_ids" in getattr(dataset, "column_names", ()):
        source = dataset.select_columns([name for name in TOKEN_COLUMNS if name in dataset.column_names])
    else:
        limit = min(limit, MAX_LOADED)
        source = dataset if not has_length else (dataset[place] for place in range(limit))
    examples, tokens = list[Hashable](), 0
    for example in islice(source, limit):
        examples.append(_identify(example))
        tokens += len(examples[-1]) if isinstance(examples[-1], tuple) else 0
        if tokens > MAX_TOKENS:
            break
    return examples, has_length and len(examples) == len(dataset)


TOKEN_COLUMNS = ("input_ids", "attention_mask")


def _identify(example: Any) -> Hashable:
    """Return the token ids of an example without padding, or a digest of an example of another kind."""
    if isinstance(example, Mapping) and "input_ids" in example:
        ids = np.asarray(example["input_ids"])
        if ids.ndim == 1 and ids.dtype.kind in "iu":
            mask = example.get("attention_mask")
            ids = ids[np.asarray(mask).astype(bool)] if mask is not None and np.shape(mask) == ids.shape else ids
            return tuple(ids.tolist())
    return hashlib.sha256(repr(_flatten(example)).encode()).digest()


def _flatten(part: Any) -> Any:
    if isinstance(part, Mapping):
        return tuple((name, _flatten(value)) for name, value in part.items())
    if isinstance(part, tuple | list):
        return tuple(map(_flatten, part))
    if isinstance(part, Tensor):
        part = part.detach().cpu().numpy()
    to_bytes: Callable[[], bytes] | None = getattr(part, "tobytes", None)  # arrays and images
    return hashlib.sha256(to_bytes()).digest() if to_bytes is not None else part
