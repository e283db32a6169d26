"""Documents as a stream of token ids on disk: `[eos] document [eos] document ... [eos]`, a stream for each split.

For a masked model the end is [SEP], and each document begins with [CLS]."""

import json
import math
import platform
from array import array
from pathlib import Path
from typing import Any

import numpy as np

from harness.data.sources import Document, Source
from harness.data.tokenizers import Tokenizer, TokenizerBuilder

ENCODE_BATCH_SIZE = 4096


def write_token_stream(
    folder: Path, *, source: Source, val_fraction: float, tokenizer: TokenizerBuilder, tokenizer_folder: Path
) -> None:
    """Split, train or load the tokenizer, encode; ValueError where there are not two documents, or pieces of one."""
    documents = [document for document in source.iter_documents() if document.text.strip()]
    train, val = _split_documents(documents, val_fraction, source)
    built = tokenizer.build(train, val, tokenizer_folder)
    built.save(folder / "tokenizer")
    _write_split(folder, "train", train, built)
    targets = _write_split(folder, "val", val, built)
    facts = {
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
    (folder / "meta.json").write_text(json.dumps(facts, indent=1))


def read_token_stream(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """(token ids, which of them are scored or None where all are, where documents begin and end), memory-mapped."""
    names = (f"{split}.npy", f"{split}_scored.npy", f"{split}_ends.npy")
    # a plain view of the map is indexed faster than the map
    return tuple(np.asarray(np.load(folder / n, mmap_mode="r")) if (folder / n).exists() else None for n in names)


def read_stream_metadata(folder: Path) -> dict[str, Any]:
    """What `write` learned of the data."""
    return json.loads((folder / "meta.json").read_text())


def _split_documents(
    documents: list[Document], val_fraction: float, source: Source
) -> tuple[list[Document], list[Document]]:
    if len(documents) == 1:
        documents = _split_lone_document(documents[0], val_fraction)
    if len(documents) < 2:
        raise ValueError(f"{source} holds no document with text")
    held_out = min(max(1, round(val_fraction * len(documents))), len(documents) - 1)
    return documents[:-held_out], documents[-held_out:]


def _split_lone_document(document: Document, val_fraction: float) -> list[Document]:
    """A lone text, such as one book, cut where the validation share begins, or at the end of a word just before."""
    text, target = document.text, round(len(document.text) * (1 - val_fraction))
    boundary = max(text.rfind(" ", 1, target), text.rfind("\n", 1, target))
    if boundary < 0:
        boundary = target
    return [Document(text[:boundary], document.prompt), Document(text[boundary:])]


def _write_split(folder: Path, name: str, documents: list[Document], tokenizer: Tokenizer) -> np.ndarray:
    """Write one split, scoring text and the end of it but no prompt and no [CLS]; return the scored tokens."""
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32)
    stream, is_scored, ends = array(dtype.char, [tokenizer.eos_id]), bytearray(b"\0"), array("q", [0])
    opening = [] if tokenizer.cls_id is None else [tokenizer.cls_id]
    for start in range(0, len(documents), ENCODE_BATCH_SIZE):
        some = documents[start : start + ENCODE_BATCH_SIZE]
        prompts = tokenizer.encode([document.prompt for document in some])
        texts = tokenizer.encode([document.text for document in some])
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
    """In nats: what the best guess that ignores context would score on `tokens`."""
    counts = np.bincount(tokens)
    shares = counts[counts > 0] / len(tokens)
    return -math.fsum(shares * np.log(shares))
