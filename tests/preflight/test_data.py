"""Text that is sound, and what is planted in it."""

import gzip
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from harness.preflight import Finding, TrainingData, TrainingSetup
from harness.preflight.data import check
from tests.preflight.healthy_trainings import Training

SHARED = Path(__file__).parents[3] / "shared" / "data"
REAL = {
    "tinyshakespeare": "tinyshakespeare/input.txt",
    "questions": "gsm8k/qa_test.md.gz",
    "headlines": "headlines_clickbait/headlines.csv.gz",
}


def findings(texts: Iterable[str] | None = None, **of_stream: object) -> dict[str, Finding]:
    model = nn.Linear(1, 1)
    subject = TrainingSetup(
        model, [torch.ones(1)], lambda model, batch: model(batch).sum(), data=TrainingData(texts=texts, **of_stream)
    )
    return {finding.what: finding for finding in check(subject)}


def sentences(count: int) -> list[str]:
    return [f"Sentence {number} is one of its own." for number in range(count)]


def text_stream(length: int, vocabulary: int = 2000) -> np.ndarray:
    """Token ids as common as words are (Zipf, 1935)."""
    common = 1 / np.arange(1, vocabulary + 1)
    drawn = np.random.default_rng(0).choice(vocabulary, length, p=common / common.sum())
    return drawn.astype(np.uint16)


def test_sound_text_passes() -> None:
    found = findings(sentences(2000), stream=text_stream(100_000), unknown_id=3000)
    assert {finding.level for finding in found.values()} == {"pass"}


@pytest.mark.parametrize(
    ("texts", "what", "level"),
    [
        ([*sentences(95), *sentences(5)], "copies", "warn"),
        (["the same"] * 50, "copies", "fail"),
        ([*sentences(95), *[" "] * 5], "empty documents", "warn"),
        ([*sentences(50), *[""] * 50], "empty documents", "fail"),
        ([*sentences(99), "CafÃ© au lait"], "broken encoding", "warn"),
        ([*sentences(99), "it\ufffds gone"], "broken encoding", "warn"),
        ([f"{text}\x00" for text in sentences(100)], "broken encoding", "fail"),
        ([], "documents", "fail"),
    ],
)
def test_what_is_wrong_with_documents_is_counted(texts: Sequence[str], what: str, level: str) -> None:
    found = findings(texts)
    assert found[what].level == level
    assert {name for name, finding in found.items() if finding.level not in ("pass", "not checked")} == {what}


def test_a_broken_document_is_shown() -> None:
    assert "CafÃ© au lait" in findings([*sentences(99), "We drank one CafÃ© au lait"])["broken encoding"].seen


@pytest.mark.parametrize(("share", "level"), [(0.0, "pass"), (0.02, "warn"), (0.6, "fail")])
def test_unknown_tokens_are_counted(share: float, level: str) -> None:
    stream = text_stream(50_000)
    stream[: int(share * len(stream))] = 1999
    found = findings(stream=stream[np.random.default_rng(1).permutation(len(stream))], unknown_id=1999)
    assert found["unknown tokens"].level == level


@pytest.mark.parametrize("kind", ["entropy", "surprisal"])
def test_a_passage_unlike_the_rest_is_found_where_it_is(kind: str) -> None:
    stream = text_stream(3_000_000)
    start, end = 2_012_160, 2_060_288
    other = np.random.default_rng(2)
    stream[start:end] = other.integers(0, 8, end - start) if kind == "entropy" else other.integers(0, 2000, end - start)
    found = findings(stream=stream)["passages unlike the rest"]
    assert found.level == "warn"
    assert found.seen.startswith(f"tokens {start:,} to {end:,} ({kind} ")


def test_the_loss_of_the_model_in_a_passage_is_set_beside_that_elsewhere() -> None:
    training = Training()
    stream = np.concatenate([np.array(row) for row in training.train] * 6)
    stream[4096:5120] = 7
    training.more = {"data": TrainingData(stream=stream)}
    *_, found = check(training.make_setup())
    there, elsewhere = map(
        float, re.search(r"loss is ([\d.]+) in the longest, ([\d.]+) elsewhere", found.seen).groups()
    )
    assert there > 1.5 * elsewhere


def test_a_short_stream_is_not_judged() -> None:
    assert findings(stream=text_stream(5000))["passages unlike the rest"].level == "not checked"


@pytest.mark.parametrize("name", REAL)
def test_real_text_raises_no_alarm(name: str) -> None:
    file = SHARED / REAL[name]
    if not file.exists():
        pytest.skip(f"{file} is not there")
    text = (gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()).decode()
    documents = (
        text.split("QUESTION:")[1:] if name == "questions" else text.splitlines() if name == "headlines" else [text]
    )
    found = findings(documents, stream=np.frombuffer(text.encode(), np.uint8))
    assert not [finding for finding in found.values() if finding.level != "pass"]
