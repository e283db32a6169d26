"""Documents as a stream of token ids on disk, one per split: `[eos] document [eos] document ... [eos]`.

For a masked model [SEP] takes the place of [eos], and each document begins with [CLS].
"""

import json
import math
import platform
from array import array
from pathlib import Path
from typing import Any

import numpy as np

from harness.data.sources import Document, Source
from harness.data.tokenizers import Tokenizer, TokenizerBuilder

ENCODE_BATCH_SIZE = 4096  # documents


def write_token_stream(
    folder: Path, *, source: Source, val_fraction: float, tokenizer: TokenizerBuilder, tokenizer_folder: Path
) -> None:
    """Split the documents, build the tokenizer, and write both splits with their metadata to `folder`.

    Raises:
        ValueError: If `source` has no text.
    """
    documents = [document for document in source.iter_documents() if document.text.strip()]
    if len(documents) == 1:
        documents = _split_lone_document(documents[0], val_fraction)
    if len(documents) < 2:
        raise ValueError(f"{source} holds no document with text")
    held_out = min(max(1, round(val_fraction * len(documents))), len(documents) - 1)
    train, val = documents[:-held_out], documents[-held_out:]
    built = tokenizer.build(train, val, tokenizer_folder)
    built.save(folder / "tokenizer")
    _write_split(folder, "train", train, built)
    targets = _write_split(folder, "val", val, built)
    metadata = {
        "source": repr(source),
        "documents": len(documents),
        "val_documents": len(val),
        "val_characters": sum(len(document.text) for document in val),
        "val_bytes": sum(len(document.text.encode()) for document in val),
        "val_scored_tokens": len(targets),
        "unigram_entropy": compute_unigram_entropy(targets),
        "tokenizer": tokenizer_folder.name,
        "vocab_size": built.vocab_size,
        "eos_id": built.eos_id,
        "python": platform.python_version(),
    }
    (folder / "meta.json").write_text(json.dumps(metadata, indent=1))


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
    """Return the metadata that `write_token_stream` wrote."""
    metadata: dict[str, Any] = json.loads((folder / "meta.json").read_text())
    return metadata


def _split_lone_document(document: Document, val_fraction: float) -> list[Document]:
    """Split a single text, such as a book, where the validation part begins, or at the last space before it."""
    text, target = document.text, round(len(document.text) * (1 - val_fraction))
    boundary = max(text.rfind(" ", 1, target), text.rfind("\n", 1, target))
    if boundary < 0:
        boundary = target
    return [Document(text[:boundary], document.prompt), Document(text[boundary:])]


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
