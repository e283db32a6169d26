"""Batches of a token stream that is cached on disk.

A row is a section of the stream: its inputs are stream[start : start + length] and its targets the same section shifted
by one. Every token but the first is a target exactly once. Layout and sequence length only decide where rows are cut;
they do not change what is on disk.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from harness.data.cache import compute_digest, ensure_cached
from harness.data.sources import Source
from harness.data.splits import open_splits
from harness.data.token_stream import read_stream_metadata, read_token_stream, write_test_stream, write_token_stream
from harness.data.tokenizers import TokenizerBuilder

SIZE_KEYS = ("unigram_entropy", "val_scored_tokens", "val_characters", "val_bytes")
METADATA_KEYS = ("vocab_size", "eos_id", *SIZE_KEYS)
IGNORE_INDEX = -100  # target of positions that no loss scores: padding and prompts; PyTorch's default

Layout = Literal["packed", "examples"]


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Rows padded on the right to the longest one. A slice of rows is a batch, padded to its own longest row."""

    inputs: torch.Tensor  # int64 [rows, tokens]
    targets: torch.Tensor  # int64 [rows, tokens], IGNORE_INDEX where nothing is scored
    lengths: np.ndarray
    scored_per_row: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, rows: slice) -> "TokenBatch":
        lengths = self.lengths[rows]
        width = lengths.max(initial=0)
        return TokenBatch(self.inputs[rows, :width], self.targets[rows, :width], lengths, self.scored_per_row[rows])

    @property
    def n_scored(self) -> int:
        """Number of scored targets."""
        return int(self.scored_per_row.sum())

    @property
    def n_tokens(self) -> int:
        """Number of inputs without padding."""
        return int(self.lengths.sum())


@dataclass(frozen=True, eq=False)
class TokenRows:
    """Rows of a token stream."""

    stream: np.ndarray
    is_scored: np.ndarray | None  # one boolean per token of the stream; None if all are scored
    starts: np.ndarray
    lengths: np.ndarray
    scored_per_row: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def mean_tokens_per_row(self) -> float:
        return float(self.lengths.mean())

    @property
    def n_scored(self) -> int:
        return int(self.scored_per_row.sum())

    def read_rows(self, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return tokens and a mask of the scored ones, both [rows, 1 + tokens], and the lengths of the rows.

        Each row starts with the token before it and is padded with unscored end-of-text tokens.
        """
        index = np.asarray(rows)
        lengths = self.lengths[index]
        columns = np.arange(lengths.max() + 1)
        positions = np.minimum(self.starts[index, None] + columns, len(self.stream) - 1)
        is_inside = columns <= lengths[:, None]
        tokens = np.where(is_inside, self.stream[positions], self.stream[0]).astype(np.int64)
        return tokens, is_inside if self.is_scored is None else is_inside & self.is_scored[positions], lengths

    def make_batch(self, rows: Sequence[int]) -> TokenBatch:
        tokens, is_scored, lengths = self.read_rows(rows)
        inputs = tokens[:, :-1].copy()
        inputs[np.arange(inputs.shape[1]) >= lengths[:, None]] = self.stream[0]
        targets = np.where(is_scored[:, 1:], tokens[:, 1:], IGNORE_INDEX)
        scored = self.scored_per_row[np.asarray(rows)]
        return TokenBatch(torch.from_numpy(inputs), torch.from_numpy(targets), lengths, scored)


@dataclass(frozen=True, eq=False)
class TokenData:
    """The splits, and what is needed to interpret losses on them.

    Only `with_test_evaluated` reads `test`.
    """

    train: TokenRows
    val: TokenRows
    vocab_size: int
    eos_id: int
    unigram_entropy: float  # nats per validation target
    val_scored_tokens: int
    val_characters: int  # of the scored validation text
    val_bytes: int  # the same text in UTF-8
    digest: str
    name: str
    source: str
    tokenizer_path: Path  # a folder that transformers loads
    sequence_length: int
    eval_batch_size: int
    shuffle: bool
    seed: int
    test: TokenRows | None = None
    test_sizes: Mapping[str, Any] = field(default_factory=dict)  # of the test split, by field: SIZE_KEYS, duplicates
    split_digests: Mapping[str, str] = field(default_factory=dict)
    evaluated: str = "validation"  # the split that `val` holds
    duplicates: float | None = None  # share of its documents that the training split has too; None if not counted

    def with_test_evaluated(self) -> "TokenData | None":
        """Return the data with the test split in place of the validation set, or None if there is none."""
        if self.test is None:
            return None
        return replace(self, val=self.test, **self.test_sizes, test=None, test_sizes={}, evaluated="test")


def prepare_token_data(
    source: Source,
    tokenizer: TokenizerBuilder,
    *,
    sequence_length: int,
    layout: Layout,
    val_fraction: float | None,
    validation: str | Sequence[str] | None = None,
    test: str | Sequence[str] | None = None,
    test_share: float | None = None,
    shuffle: bool,
    seed: int,
    eval_batch_size: int,
    cache_dir: Path,
) -> TokenData:
    """Split and tokenize the documents of `source`, once, and open the result from `cache_dir`.

    The last `val_fraction` of the documents is for validation, or the files `validation` are. The `test_share` right
    before them, or the files `test`, are held apart. With layout `packed` a row is `sequence_length` tokens of the
    stream, across documents; with `examples` a row is a document, or a part of one that is longer.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a setting is invalid, a file is in two splits, or a split has too few tokens.
    """
    _check_settings(sequence_length, layout, eval_batch_size)
    splits = open_splits(source, val_fraction=val_fraction, validation=validation, test=test, test_share=test_share)
    read_digest, split_digests = splits.compute_training_digest(), splits.compute_digests()
    tokenizer_digest = tokenizer.fingerprint(read_digest)
    key = compute_digest(read_digest, tokenizer_digest)
    write = partial(
        write_token_stream,
        splits=splits,
        tokenizer=tokenizer,
        tokenizer_folder=Path(cache_dir) / "tokenizers" / tokenizer_digest,
    )
    folder = ensure_cached(Path(cache_dir) / "data" / key, write, f"tokenizing the text of {type(source).__name__}")
    folders = {"train": folder, "val": folder}
    if splits.has_test:  # apart, so that adding files changes nothing that a run reads
        test_key = compute_digest("test split", split_digests["test"], key)
        write = partial(write_test_stream, splits=splits, tokenizer_folder=folder / "tokenizer")
        folders["test"] = ensure_cached(Path(cache_dir) / "data" / test_key, write, "tokenizing the test text")
    rows = {name: _make_rows(*read_token_stream(at, name), layout, sequence_length) for name, at in folders.items()}
    _check_lengths(rows, sequence_length if layout == "packed" else 1, val_fraction, test_share)
    metadata = read_stream_metadata(folder)
    return TokenData(
        rows["train"],
        _sort_longest_first(rows["val"]),
        **{name: metadata[name] for name in METADATA_KEYS},
        digest=key,
        name=type(source).__name__,
        source=splits.describe_source(),
        tokenizer_path=folder / "tokenizer",
        sequence_length=sequence_length,
        eval_batch_size=eval_batch_size,
        shuffle=shuffle,
        seed=seed,
        **_describe_test(rows.get("test"), folders.get("test")),
        split_digests=split_digests,
    )


def _describe_test(rows: TokenRows | None, folder: Path | None) -> dict[str, Any]:
    """Return the fields of TokenData about the test split; nothing without one."""
    if rows is None or folder is None:
        return {}
    sizes = read_stream_metadata(folder)
    return {"test": _sort_longest_first(rows), "test_sizes": {name: sizes[name] for name in (*SIZE_KEYS, "duplicates")}}


def get_example_indices(position: int, size: int, n_examples: int, seed: int, shuffle: bool) -> list[int]:
    """Return the indices of `size` examples from `position` on in an endless sequence of epochs.

    Each epoch is a permutation that depends on (seed, epoch) only, or the natural order if `shuffle` is off.
    """
    indices: list[int] = []
    while len(indices) < size:
        epoch, offset = divmod(position + len(indices), n_examples)
        permutation = _permute_epoch(n_examples, seed, epoch if shuffle else None)
        indices += permutation[offset : offset + size - len(indices)].tolist()
    return indices


@lru_cache(maxsize=2)
def _permute_epoch(n_examples: int, seed: int, epoch: int | None) -> np.ndarray:
    return np.arange(n_examples) if epoch is None else np.random.default_rng([seed, epoch]).permutation(n_examples)


def _check_settings(sequence_length: int, layout: str, eval_batch_size: int) -> None:
    if layout not in ("packed", "examples"):
        raise ValueError(f"layout={layout!r} must be packed or examples")
    for name, value in (("sequence_length", sequence_length), ("eval_batch_size", eval_batch_size)):
        if value < 1:
            raise ValueError(f"{name}={value} must be 1 or more")


def _check_lengths(
    splits: Mapping[str, TokenRows], sequence_length: int, val_fraction: float | None, test_share: float | None
) -> None:
    """Check that every split has the tokens of a row.

    Raises:
        ValueError: If one has fewer.
    """
    shares = {"val_fraction": val_fraction, "test_share": test_share}
    for name, rows in splits.items():
        own = {"val": ["val_fraction"], "test": ["test_share"]}.get(name, list(shares))
        given = [f"{key}={shares[key]}" for key in own if shares[key] is not None]
        share = f" at {' and '.join(given)}" if given else ""
        remedy = "lower the first, change the second" if given else "lower it"
        if rows.lengths.sum() < sequence_length:
            raise ValueError(
                f"sequence_length={sequence_length} is more than the {rows.lengths.sum()} tokens of the "
                f"{'validation' if name == 'val' else name} split{share}; {remedy}, or use more text"
            )


def _make_rows(
    tokens: np.ndarray, is_scored: np.ndarray | None, ends: np.ndarray, layout: Layout, sequence_length: int
) -> TokenRows:
    starts, lengths = _cut_rows(ends if layout == "examples" else ends[[0, -1]], sequence_length)
    if is_scored is None:
        return TokenRows(tokens, None, starts, lengths, lengths)
    scored = np.add.reduceat(is_scored[1:], starts, dtype=np.int64)
    kept = scored > 0  # a row that is all prompt has no loss
    return TokenRows(tokens, is_scored, starts[kept], lengths[kept], scored[kept])


def _sort_longest_first(rows: TokenRows) -> TokenRows:
    """Sort the rows so that those of a batch have similar lengths and need little padding."""
    order = np.argsort(-rows.lengths, kind="stable")
    return replace(
        rows, starts=rows.starts[order], lengths=rows.lengths[order], scored_per_row=rows.scored_per_row[order]
    )


def _cut_rows(ends: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut the stream between consecutive `ends` into rows of at most `longest` tokens; return starts and lengths."""
    n_rows = -(-np.diff(ends) // longest)
    earlier = np.repeat(np.cumsum(n_rows) - n_rows, n_rows)
    starts = np.repeat(ends[:-1], n_rows) + longest * (np.arange(n_rows.sum()) - earlier)
    return starts, np.minimum(longest, np.repeat(ends[1:], n_rows) - starts)
