import gzip
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from harness.preflight import Finding, TrainingData, TrainingSetup
from harness.preflight.data import check
from tests.preflight.healthy_trainings import Training

SHARED = Path(__file__).parents[3] / "shared" / "data"
REAL_TEXTS = {
    "tinyshakespeare": "tinyshakespeare/input.txt",
    "questions": "gsm8k/qa_test.md.gz",
    "headlines": "headlines_clickbait/headlines.csv.gz",
}


def check_data(documents: Iterable[str] | None = None, **stream_fields: Any) -> dict[str, Finding]:
    data = TrainingData(documents=documents, **stream_fields)
    setup = TrainingSetup(nn.Linear(1, 1), [torch.ones(1)], lambda model, batch: model(batch).sum(), data=data)
    return {finding.title: finding for finding in check(setup)}


def make_sentences(count: int) -> list[str]:
    return [f"This is sentence {number}." for number in range(count)]


def make_stream(length: int, vocab_size: int = 2000) -> np.ndarray:
    """Return token ids with the frequencies of words (Zipf, 1935)."""
    frequencies = 1 / np.arange(1, vocab_size + 1)
    rng = np.random.default_rng(0)
    return rng.choice(vocab_size, length, p=frequencies / frequencies.sum()).astype(np.uint16)


def test_clean_text_passes() -> None:
    findings = check_data(make_sentences(2000), token_stream=make_stream(100_000), unknown_token_id=3000)
    assert {finding.level for finding in findings.values()} == {"pass"}


@pytest.mark.parametrize(
    ("documents", "title", "level"),
    [
        ([*make_sentences(95), *make_sentences(5)], "duplicates", "warn"),
        (["the same"] * 50, "duplicates", "fail"),
        ([*make_sentences(95), *[" "] * 5], "empty documents", "warn"),
        ([*make_sentences(50), *[""] * 50], "empty documents", "fail"),
        ([*make_sentences(99), "CafÃ© au lait"], "broken encoding", "warn"),
        ([*make_sentences(99), "it\ufffds gone"], "broken encoding", "warn"),
        ([f"{text}\x00" for text in make_sentences(100)], "broken encoding", "fail"),
        ([], "documents", "fail"),
    ],
)
def test_defective_documents(documents: Sequence[str], title: str, level: str) -> None:
    findings = check_data(documents)
    assert findings[title].level == level
    assert [name for name, finding in findings.items() if finding.level not in ("pass", "skip")] == [title]


def test_excerpt_of_broken_document_is_shown() -> None:
    findings = check_data([*make_sentences(99), "We drank one CafÃ© au lait"])
    assert "CafÃ© au lait" in findings["broken encoding"].observed


@pytest.mark.parametrize(("share", "level"), [(0.0, "pass"), (0.02, "warn"), (0.6, "fail")])
def test_unknown_tokens(share: float, level: str) -> None:
    stream = make_stream(50_000)
    stream[: int(share * len(stream))] = 1999
    np.random.default_rng(1).shuffle(stream)
    assert check_data(token_stream=stream, unknown_token_id=1999)["unknown tokens"].level == level


@pytest.mark.parametrize("kind", ["entropy", "surprisal"])
def test_outlier_passage_is_located(kind: str) -> None:
    stream, rng = make_stream(3_000_000), np.random.default_rng(2)
    start, end = 2_012_160, 2_060_288
    stream[start:end] = rng.integers(0, 8 if kind == "entropy" else 2000, end - start)
    finding = check_data(token_stream=stream)["outlier passages"]
    assert finding.level == "warn"
    assert finding.observed.startswith(f"tokens {start:,} to {end:,} ({kind} ")


def test_losses_inside_and_outside_outlier_passage_are_compared() -> None:
    training = Training()
    stream = np.concatenate([np.array(row) for row in training.train] * 6)
    stream[4096:5120] = 7
    training.overrides = {"data": TrainingData(token_stream=stream)}
    *_, finding = check(training.make_setup())
    losses = re.search(r"loss is ([\d.]+) in the longest, ([\d.]+) elsewhere", finding.observed)
    assert losses is not None
    assert float(losses[1]) > 1.5 * float(losses[2])


def test_outlier_passages_are_skipped_in_short_stream() -> None:
    assert check_data(token_stream=make_stream(5000))["outlier passages"].level == "skip"


@pytest.mark.parametrize("name", REAL_TEXTS)
def test_real_text_passes(name: str) -> None:
    file = SHARED / REAL_TEXTS[name]
    if not file.exists():
        pytest.skip(f"{file} is missing")
    text = (gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()).decode()
    documents = [text]
    if name == "questions":
        documents = text.split("QUESTION:")[1:]
    elif name == "headlines":
        documents = text.splitlines()
    findings = check_data(documents, token_stream=np.frombuffer(text.encode(), np.uint8))
    assert not [finding for finding in findings.values() if finding.level != "pass"]
