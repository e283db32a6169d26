"""The text is sound: copies, empty and broken documents, unknown tokens, and passages unlike the rest."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from harness.data.mojibake import has_broken_encoding, repair_encoding
from harness.data.outlier_passages import MIN_WINDOWS, WINDOW_SIZE, OutlierPassage, find_outlier_passages
from harness.preflight.probe import eval_mode, make_text_batch
from harness.preflight.report import Finding, Level
from harness.preflight.training_setup import TrainingData, TrainingSetup

MAX_DOCUMENTS = 300_000
"""Documents that are read."""
WARN_SHARES = {"copies": 0.01, "empty": 0.001, "broken encoding": 0.001, "unknown tokens": 0.001}
"""Shares above which to look at them; small ones are in any text."""
FAIL_SHARE = 0.5
"""Share of empty or broken documents, or of unknown tokens, that nobody can have meant."""
MAX_PASSAGES = 3
ROWS = 4
"""On which the model's own loss is taken, in a passage and elsewhere."""
CLEAN = "python -m harness clean, which drops them and lists them"


@dataclass
class _DocumentCounts:
    documents: int = 0
    copies: int = 0
    empty: int = 0
    broken: int = 0
    example: str = ""


def check(subject: TrainingSetup) -> Iterator[Finding]:
    """Of the documents, and of the stream of tokens that was made of them, as far as each is given."""
    data = subject.data
    if data.texts is None:
        yield Finding("not checked", "documents", "", "needs data.texts")
    else:
        yield from _check_documents(data.texts)
    if data.stream is None:
        yield Finding("not checked", "passages", "", "needs data.stream, the training text as token ids")
    else:
        yield from _check_unknown_tokens(data)
        yield _check_passages(subject, data.stream)


def _check_documents(texts: Iterable[str]) -> Iterator[Finding]:
    counts = _count_documents(islice(texts, MAX_DOCUMENTS))
    total = counts.documents
    if not total:
        yield Finding("fail", "documents", "there is none", "some", "where the text comes from")
        return
    full = total - counts.empty
    level: Level = "fail" if full > 1 and counts.copies == full - 1 else _share_level("copies", counts.copies, total)
    yield Finding(level, "copies", _format_share(counts.copies, total), "none", CLEAN)
    level = "fail" if counts.empty >= FAIL_SHARE * total else _share_level("empty", counts.empty, total)
    yield Finding(level, "empty documents", _format_share(counts.empty, total), "none", CLEAN)
    seen = _format_share(counts.broken, total) + (f", such as {counts.example!r}" if counts.broken else "")
    level = "fail" if counts.broken >= FAIL_SHARE * total > 1 else _share_level("broken encoding", counts.broken, total)
    yield Finding(level, "broken encoding", seen, "none", f"how the text was read; {CLEAN}")


def _count_documents(texts: Iterable[str]) -> _DocumentCounts:
    counts, seen = _DocumentCounts(), set()
    for text in texts:
        counts.documents += 1
        if not (key := text.strip()):
            counts.empty += 1
            continue
        if (of_text := hash(key)) in seen:
            counts.copies += 1
        seen.add(of_text)
        if has_broken_encoding(text) or repair_encoding(text) != text:
            counts.broken += 1
            counts.example = counts.example or _broken_excerpt(text)
    return counts


def _broken_excerpt(text: str) -> str:
    """A few characters around the first that is broken or would be mended."""
    better = repair_encoding(text)
    changed = next((at for at, (a, b) in enumerate(zip(text, better, strict=False)) if a != b), len(text))
    at = next((at for at, character in enumerate(text) if has_broken_encoding(character)), len(text))
    start = max(0, min(at, changed) - 12)
    return text[start : start + 28]


def _check_unknown_tokens(data: TrainingData) -> Iterator[Finding]:
    if data.unknown_id is None:
        return
    unknown = int((data.stream == data.unknown_id).sum())
    level = (
        "fail"
        if unknown >= FAIL_SHARE * len(data.stream)
        else _share_level("unknown tokens", unknown, len(data.stream))
    )
    seen = _format_share(unknown, len(data.stream), "tokens")
    yield Finding(level, "unknown tokens", seen, "none", "the tokenizer: whether it belongs to this text")


def _check_passages(subject: TrainingSetup, stream: np.ndarray) -> Finding:
    what, found = "passages unlike the rest", sorted(find_outlier_passages(stream), key=lambda passage: passage.start)
    if len(stream) < WINDOW_SIZE * MIN_WINDOWS:
        return Finding(
            "not checked", what, "", f"needs {WINDOW_SIZE * MIN_WINDOWS:,} tokens; there are {len(stream):,}"
        )
    if not found:
        return Finding("pass", what, f"none in {len(stream):,} tokens, in windows of {WINDOW_SIZE}")
    longest = sorted(found, key=lambda passage: passage.start - passage.end)[:MAX_PASSAGES]
    seen = "; ".join(map(_describe_passage, sorted(longest, key=lambda passage: passage.start)))
    if len(found) > MAX_PASSAGES:
        tokens = sum(passage.end - passage.start for passage in found)
        seen = f"{len(found)} in {len(stream):,} tokens, {tokens / len(stream):.2%} of them; the longest: {seen}"
    if subject.text is not None and subject.is_causal:
        seen += _compare_losses(subject, stream, longest[0], found)
    look_at = "the text there; a step that is fed such a passage may show as a spike; python -m harness clean"
    return Finding("warn", what, seen, "none", look_at)


def _compare_losses(
    subject: TrainingSetup, stream: np.ndarray, passage: OutlierPassage, found: Sequence[OutlierPassage]
) -> str:
    """The model's own, on the passage and on rows apart from all of them; nothing where either has no whole row."""
    width = subject.text.read(subject.batches[0]).inputs.shape[1]
    inside = range(passage.start, passage.end - width + 1, width)
    spread = range(0, len(stream) - width, max(1, len(stream) // (4 * ROWS)))
    outside = [at for at in spread if all(at + width < other.start or at >= other.end for other in found)]
    if not inside or not outside:
        return ""
    there, elsewhere = (_mean_row_loss(subject, stream, starts[:ROWS], width) for starts in (inside, outside))
    return f"; the model's loss is {there:.2f} in the longest, {elsewhere:.2f} elsewhere"


@torch.no_grad()
def _mean_row_loss(subject: TrainingSetup, stream: np.ndarray, starts: Sequence[int], width: int) -> float:
    """Of rows of the stream that begin at `starts`."""
    rows = torch.from_numpy(np.stack([stream[at : at + width] for at in starts]).astype(np.int64))
    device = subject.text.read(subject.batches[0]).inputs.device
    with eval_mode(subject.model):
        return subject.compute_loss(make_text_batch(rows.to(device), subject, subject.text)).item()


def _describe_passage(passage: OutlierPassage) -> str:
    measured = f"{passage.kind} {passage.value:.1f} nats against {passage.median:.1f}"
    return f"tokens {passage.start:,} to {passage.end:,} ({measured})"


def _share_level(what: str, count: int, total: int) -> Level:
    return "warn" if count > WARN_SHARES[what] * total else "pass"


def _format_share(count: int, total: int, of: str = "documents") -> str:
    return f"{count:,} of {total:,} {of}, {count / total:.2%}"
