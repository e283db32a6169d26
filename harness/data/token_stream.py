"""Documents as a stream of token ids on disk, one for each split: `[eos] document [eos] document ... [eos]`.

For a masked model [SEP] takes the place of [eos], and each document begins with [CLS].
"""

import json
import math
import platform
from array import array
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.data.sources import Document
from harness.data.splits import DocumentSplits
from harness.data.tokenizers import Tokenizer, TokenizerBuilder

ENCODE_BATCH_SIZE = 4096  # documents


def write_token_stream(
    folder: Path, *, splits: DocumentSplits, tokenizer: TokenizerBuilder, tokenizer_folder: Path
) -> None:
    """Read the documents, build the tokenizer, and write both splits that runs read, with metadata, to `folder`.

    Raises:
        ValueError: If a split has no text.
    """
    documents = splits.read_documents()
    built = tokenizer.build(documents["train"], documents["val"], tokenizer_folder)
    built.save(folder / "tokenizer")
    targets = {name: _write_split(folder, name, documents[name], built) for name in documents}
    metadata = {
        "source": replace(splits, test=None).describe_source(),
        "documents": sum(map(len, documents.values())),
        **_measure_split(documents["val"], targets["val"]),
        "tokenizer": tokenizer_folder.name,
        "vocab_size": built.vocab_size,
        "eos_id": built.eos_id,
        "python": platform.python_version(),
    }
    (folder / "meta.json").write_text(json.dumps(metadata, indent=1))


def write_test_stream(folder: Path, *, splits: DocumentSplits, tokenizer_folder: Path) -> None:
    """Write the test split to `folder`, in the tokens of the tokenizer that is saved in `tokenizer_folder`.

    Its metadata have the names of those of the validation set, in whose place it is scored; `duplicates` is the share
    of its documents that the training split has too.

    Raises:
        ValueError: If it has no text.
    """
    documents, n_seen = splits.read_test_documents()
    targets = _write_split(folder, "test", documents, Tokenizer.load(tokenizer_folder))
    metadata = {**_measure_split(documents, targets), "duplicates": n_seen / len(documents)}
    (folder / "meta.json").write_text(json.dumps(metadata, indent=1))


def _measure_split(documents: Sequence[Document], targets: np.ndarray) -> dict[str, float]:
    """Return the sizes of a split that is evaluated, and the entropy of its scored tokens."""
    return {
        "val_documents": len(documents),
        "val_characters": sum(len(document.text) for document in documents),
        "val_bytes": sum(len(document.text.encode()) for document in documents),
        "val_scored_tokens": len(targets),
        "unigram_entropy": compute_unigram_entropy(targets),
    }


def read_token_stream(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Return the memory-mapped arrays of a split.

    Returns:
        Token ids; a boolean mask of the scored tokens, None if all are scored; positions of the document ends.
    """

    def load(name: str) -> np.ndarray:
        return np.asarray(
            np.load(folder / f"{name}.npy", mmap_mode="r")
        )  # a plain view is indexed faster than a memmap

    has_mask = (folder / f"{split}_scored.npy").exists()
    return load(split), load(f"{split}_scored") if has_mask else None, load(f"{split}_ends")


def read_stream_metadata(folder: Path) -> dict[str, Any]:
    """Return the metadata that `write_token_stream` or `write_test_stream` wrote."""
    metadata: dict[str, Any] = json.loads((folder / "meta.json").read_text())
    return metadata


def _write_split(folder: Path, name: str, documents: list[Document], tokenizer: Tokenizer) -> np.ndarray:
    """Write one split and return its scored tokens: texts and the [eos] after them, but neither prompts nor [CLS]."""
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32)
    stream, is_scored, ends = array(dtype.char, [tokenizer.eos_id]), bytearray(b"\0"), array("q", [0])
    opening = [] if tokenizer.cls_id is None else [tokenizer.cls_id]
    for start in range(0, len(documents), ENCODE_BATCH_SIZE):
        batch = documents[start : start + ENCODE_BATCH_SIZE]
        prompts = tokenizer.encode([document.prompt for document in batch])
        texts = tokenizer.encode([document.text for document in batch])
        for prompt, text in zip(prompts, texts, strict=True):
            stream.fromlist([*opening, *prompt, *text, tokenizer.eos_id])
            is_scored += bytes(len(opening) + len(prompt)) + b"\1" * (len(text) + 1)
            ends.append(len(stream) - 1)
    tokens, scored = np.frombuffer(stream, dtype), np.frombuffer(is_scored, bool)
    np.save(folder / f"{name}.npy", tokens)
    np.save(folder / f"{name}_ends.npy", np.frombuffer(ends, np.int64))
    if not scored[1:].all():
        np.save(folder / f"{name}_scored.npy", scored)
    return tokens[scored]


def compute_unigram_entropy(tokens: np.ndarray) -> float:
    """Return the entropy of the token frequencies in nats: the lowest loss possible without context."""
    counts = np.bincount(tokens)
    shares = counts[counts > 0] / len(tokens)
    return -math.fsum(shares * np.log(shares))
