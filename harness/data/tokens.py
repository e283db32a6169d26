"""The batches that are cut from a stream of token ids, cached on disk.

A row is a stretch of the stream: inputs are stream[start : start + length], targets the same one token later, so that
every token but the first is a target exactly once, whatever the layout and the sequence length: these only say where to
cut, and change nothing on disk."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from harness.data import token_stream
from harness.data.cache import compute_digest, ensure_cached
from harness.data.sources import Source
from harness.data.tokenizers import TokenizerBuilder

METADATA_KEYS = ("vocab_size", "eos_id", "unigram_entropy", "val_scored_tokens", "val_characters", "val_bytes")
"""What a run needs of the facts counted when the stream was written."""
IGNORE_INDEX = -100
"""The target of a position that no loss scores: padding, a prompt."""

Layout = Literal["packed", "examples"]


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Rows padded on the right to the longest: int64 `inputs` and `targets`, [rows, tokens], targets IGNORED where
    nothing is scored. A slice of rows is a batch too, as narrow as its own longest row."""

    inputs: torch.Tensor
    targets: torch.Tensor
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
        """Scored targets."""
        return int(self.scored_per_row.sum())

    @property
    def n_tokens(self) -> int:
        """Inputs, padding left out."""
        return int(self.lengths.sum())


@dataclass(frozen=True, eq=False)
class TokenRows:
    """Rows of a stream. `is_scored` is None where every target is; `scored` counts each row's scored targets."""

    stream: np.ndarray
    is_scored: np.ndarray | None
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
        """(tokens, which of them are scored, lengths) of these rows, each with the token before it: [rows, 1 + tokens],
        and beyond a row's end unscored ends of text."""
        rows = np.asarray(rows)
        lengths = self.lengths[rows]
        columns = np.arange(lengths.max() + 1)
        at = np.minimum(self.starts[rows, None] + columns, len(self.stream) - 1)
        is_inside = columns <= lengths[:, None]
        tokens = np.where(is_inside, self.stream[at], self.stream[0]).astype(np.int64)
        return tokens, is_inside if self.is_scored is None else is_inside & self.is_scored[at], lengths

    def make_batch(self, rows: Sequence[int]) -> TokenBatch:
        tokens, is_scored, lengths = self.read_rows(rows)
        inputs = tokens[:, :-1].copy()
        inputs[np.arange(inputs.shape[1]) >= lengths[:, None]] = self.stream[0]
        targets = np.where(is_scored[:, 1:], tokens[:, 1:], IGNORE_INDEX)
        return TokenBatch(
            torch.from_numpy(inputs), torch.from_numpy(targets), lengths, self.scored_per_row[np.asarray(rows)]
        )


@dataclass(frozen=True, eq=False)
class TokenData:
    """Both splits and what a reader of the losses needs: `unigram_entropy` in nats a validation target, and the
    characters and UTF-8 bytes of the scored validation text. `tokenizer_path` is a folder that `transformers` loads."""

    train: TokenRows
    val: TokenRows
    vocab_size: int
    eos_id: int
    unigram_entropy: float
    val_scored_tokens: int
    val_characters: int
    val_bytes: int
    digest: str
    name: str
    source: str
    tokenizer_path: Path
    sequence_length: int
    eval_batch_size: int
    shuffle: bool
    seed: int


def prepare_token_data(
    source: Source,
    tokenizer: TokenizerBuilder,
    *,
    sequence_length: int,
    layout: Layout,
    val_fraction: float,
    shuffle: bool,
    seed: int,
    eval_batch_size: int,
    cache_dir: Path,
) -> TokenData:
    """The last `val_fraction` of the source's documents to validate on and the others to train on, tokenised once and
    memory-mapped from `cache_dir` after that.

    A row of layout `packed` is `sequence_length` tokens of the stream, whatever begins or ends there; one of `examples`
    is a document, or a piece of one that is longer."""
    _check_settings(sequence_length, layout, val_fraction, eval_batch_size)
    split = compute_digest(source.fingerprint(), val_fraction)
    key = compute_digest(split, tokenizer.fingerprint(split))
    tokenizers = Path(cache_dir) / "tokenizers" / tokenizer.fingerprint(split)
    write = partial(
        token_stream.write_token_stream,
        source=source,
        val_fraction=val_fraction,
        tokenizer=tokenizer,
        tokenizer_folder=tokenizers,
    )
    folder = ensure_cached(Path(cache_dir) / "data" / key, write)
    train, val = (
        _make_rows(*token_stream.read_token_stream(folder, name), layout, sequence_length) for name in ("train", "val")
    )
    for name, rows in (("train", train), ("validation", val)):
        if rows.lengths.sum() < (sequence_length if layout == "packed" else 1):
            raise ValueError(
                f"sequence_length={sequence_length} is more than the {rows.lengths.sum()} tokens of the {name} split "
                f"at val_fraction={val_fraction}; lower the first, change the second, or use more text"
            )
    meta = token_stream.read_stream_metadata(folder)
    facts = {name: meta[name] for name in METADATA_KEYS}
    return TokenData(
        train,
        _sort_longest_first(val),
        **facts,
        digest=key,
        name=type(source).__name__,
        source=repr(source),
        tokenizer_path=folder / "tokenizer",
        sequence_length=sequence_length,
        eval_batch_size=eval_batch_size,
        shuffle=shuffle,
        seed=seed,
    )


def get_example_indices(position: int, size: int, n_examples: int, seed: int, shuffle: bool) -> list[int]:
    """The rows of the `size` examples from `position` on in an endless stream of epochs, each a permutation that only
    (seed, epoch) decide, or the natural order."""
    rows: list[int] = []
    while len(rows) < size:
        epoch, offset = divmod(position + len(rows), n_examples)
        permutation = _permute_epoch(n_examples, seed, epoch if shuffle else None)
        rows += permutation[offset : offset + size - len(rows)].tolist()
    return rows


@lru_cache(maxsize=2)
def _permute_epoch(n_rows: int, seed: int, epoch: int | None) -> np.ndarray:
    return np.arange(n_rows) if epoch is None else np.random.default_rng([seed, epoch]).permutation(n_rows)


def _check_settings(sequence_length: int, layout: str, val_fraction: float, eval_batch_size: int) -> None:
    if layout not in ("packed", "examples"):
        raise ValueError(f"layout={layout!r} is neither packed nor examples")
    if not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction={val_fraction} must lie between 0 and 1, for example 0.1")
    for name, value in (("sequence_length", sequence_length), ("eval_batch_size", eval_batch_size)):
        if value < 1:
            raise ValueError(f"{name}={value} must be 1 or more")


def _make_rows(
    tokens: np.ndarray, is_scored: np.ndarray | None, ends: np.ndarray, layout: Layout, sequence_length: int
) -> TokenRows:
    starts, lengths = _cut_rows(ends if layout == "examples" else ends[[0, -1]], sequence_length)
    if is_scored is None:
        return TokenRows(tokens, None, starts, lengths, lengths)
    scored = np.add.reduceat(is_scored[1:], starts, dtype=np.int64)
    kept = scored > 0  # a row of nothing but prompt teaches nothing
    return TokenRows(tokens, is_scored, starts[kept], lengths[kept], scored[kept])


def _sort_longest_first(rows: TokenRows) -> TokenRows:
    """The same rows, so that rows of a batch are alike in length and little of it is padding."""
    at = np.argsort(-rows.lengths, kind="stable")
    return replace(rows, starts=rows.starts[at], lengths=rows.lengths[at], scored_per_row=rows.scored_per_row[at])


def _cut_rows(ends: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """(starts, lengths) of the pieces of at most `longest` tokens that fill each stretch between two `ends`."""
    pieces = -(-np.diff(ends) // longest)
    earlier = np.repeat(np.cumsum(pieces) - pieces, pieces)
    starts = np.repeat(ends[:-1], pieces) + longest * (np.arange(pieces.sum()) - earlier)
    return starts, np.minimum(longest, np.repeat(ends[1:], pieces) - starts)
