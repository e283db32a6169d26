"""Check the text: duplicates, empty and broken documents, unknown tokens, and outlier passages."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import torch

from harness.core.state import eval_mode
from harness.data.mojibake import has_broken_encoding, repair_encoding
from harness.data.outlier_passages import MIN_WINDOWS, WINDOW_SIZE, OutlierPassage, find_outlier_passages
from harness.preflight.probe import make_text_batch
from harness.preflight.report import Finding, Level, failed, passed, skipped, warned
from harness.preflight.training_setup import TextFormat, TrainingSetup

MAX_DOCUMENTS = 300_000
WARN_SHARES = {"duplicates": 0.01, "empty documents": 0.001, "broken encoding": 0.001, "unknown tokens": 0.001}
FAIL_SHARE = 0.5  # of empty or broken documents, or of unknown tokens
MAX_PASSAGES = 3  # that are described
LOSS_ROWS = 4  # of which the loss is computed, in a passage and elsewhere
HINT = "Run plateau clean, which removes and lists them"


def check(setup: TrainingSetup) -> Iterator[Finding]:
    """Check the documents and the token stream made from them, as far as they are given."""
    data = setup.data
    if data.documents is None:
        yield skipped("documents", "needs `data.documents`")
    else:
        yield from _check_documents(data.documents)
    if data.token_stream is None:
        yield skipped("outlier passages", "needs `data.token_stream`, the training text as token ids")
    else:
        if data.unknown_token_id is not None:
            yield _check_unknown_tokens(data.token_stream, data.unknown_token_id)
        yield _check_passages(setup, data.token_stream)


def _check_documents(documents: Iterable[str]) -> Iterator[Finding]:
    total = n_empty = n_broken = 0
    distinct, broken_example = set[int](), ""
    for document in islice(documents, MAX_DOCUMENTS):
        total += 1
        if not (text := document.strip()):
            n_empty += 1
            continue
        distinct.add(hash(text))
        if has_broken_encoding(document) or repair_encoding(document) != document:
            n_broken += 1
            broken_example = broken_example or _broken_excerpt(document)
    if not total:
        yield failed("documents", "there are none", "some", "Look at the source of the text")
        return
    n_duplicates = total - n_empty - len(distinct)
    are_all_equal = n_duplicates > 0 and len(distinct) == 1
    yield _judge_share("duplicates", n_duplicates, total, HINT, is_failed=are_all_equal)
    yield _judge_share("empty documents", n_empty, total, HINT, is_failed=n_empty >= FAIL_SHARE * total)
    hint, is_failed = f"Look at the encoding with which the text is read. {HINT}", n_broken >= FAIL_SHARE * total > 1
    yield _judge_share("broken encoding", n_broken, total, hint, is_failed, example=broken_example)


def _broken_excerpt(text: str) -> str:
    """Return the characters around the first one that is broken or would be repaired."""
    pairs = zip(text, repair_encoding(text), strict=False)
    first_repaired = next((index for index, (old, new) in enumerate(pairs) if old != new), len(text))
    first_broken = next((index for index, character in enumerate(text) if has_broken_encoding(character)), len(text))
    start = max(0, min(first_broken, first_repaired) - 12)
    return text[start : start + 28]


def _check_unknown_tokens(stream: np.ndarray, unknown_id: int) -> Finding:
    unknown = int((stream == unknown_id).sum())
    is_failed = unknown >= FAIL_SHARE * len(stream)
    hint = "Check that the tokenizer belongs to this text"
    return _judge_share("unknown tokens", unknown, len(stream), hint, is_failed, unit="tokens")


def _judge_share(
    title: str, count: int, total: int, hint: str, is_failed: bool, unit: str = "documents", example: str = ""
) -> Finding:
    level: Level = "fail" if is_failed else "warn" if count > WARN_SHARES[title] * total else "pass"
    observed = f"{count:,} of {total:,} {unit}, {count / total:.2%}" + (f", such as {example!r}" if example else "")
    return Finding(level, title, observed, "none", hint)


def _check_passages(setup: TrainingSetup, stream: np.ndarray) -> Finding:
    title, passages = "outlier passages", sorted(find_outlier_passages(stream), key=lambda passage: passage.start)
    if len(stream) < WINDOW_SIZE * MIN_WINDOWS:
        return skipped(title, f"needs {WINDOW_SIZE * MIN_WINDOWS:,} tokens; there are {len(stream):,}")
    if not passages:
        return passed(title, f"none in {len(stream):,} tokens, in windows of {WINDOW_SIZE}")
    longest = sorted(passages, key=lambda passage: passage.start - passage.end)[:MAX_PASSAGES]
    observed = "; ".join(map(_describe_passage, sorted(longest, key=lambda passage: passage.start)))
    if len(passages) > MAX_PASSAGES:
        tokens = sum(passage.end - passage.start for passage in passages)
        share = f"{tokens / len(stream):.2%}"
        observed = f"{len(passages)} with {share} of the {len(stream):,} tokens; the longest are {observed}"
    has_columns = setup.text is not None and bool(setup.text.read_tokens(setup.batches[0]).columns)
    if setup.text is not None and setup.is_causal and not has_columns:
        observed += _compare_losses(setup, setup.text, stream, longest[0], passages)
    hint = "Look at the text there, which may cause loss spikes; plateau clean removes such passages"
    return warned(title, observed, "none", hint)


def _compare_losses(
    setup: TrainingSetup, text: TextFormat, stream: np.ndarray, longest: OutlierPassage, passages: list[OutlierPassage]
) -> str:
    """Describe the model's loss in the longest passage and outside all passages, if both hold complete rows."""
    width = text.read_tokens(setup.batches[0]).inputs.shape[1]
    inside = range(longest.start, longest.end - width + 1, width)
    candidates = range(0, len(stream) - width, max(1, len(stream) // (4 * LOSS_ROWS)))
    outside = [
        start for start in candidates if all(start + width < other.start or start >= other.end for other in passages)
    ]
    if not inside or not outside:
        return ""
    inner, outer = (_mean_row_loss(setup, text, stream, starts[:LOSS_ROWS], width) for starts in (inside, outside))
    return f"; the model's loss is {inner:.2f} in the longest, {outer:.2f} elsewhere"


@torch.no_grad()
def _mean_row_loss(
    setup: TrainingSetup, text: TextFormat, stream: np.ndarray, starts: Sequence[int], width: int
) -> float:
    rows = torch.from_numpy(np.stack([stream[start : start + width] for start in starts]).astype(np.int64))
    device = text.read_tokens(setup.batches[0]).inputs.device
    with eval_mode(setup.model):
        return setup.compute_loss(make_text_batch(text, rows.to(device))).item()


def _describe_passage(passage: OutlierPassage) -> str:
    measured = f"{passage.kind} {passage.value:.1f} nats, elsewhere {passage.median:.1f}"
    return f"tokens {passage.start:,} to {passage.end:,} ({measured})"
