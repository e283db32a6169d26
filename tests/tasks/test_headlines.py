"""The windowed loss published for Headlines GPT, and why it is not the objective."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from harness.data.tokens import TokenData, TokenRows
from harness.models.gpt import GPT
from harness.tasks.headlines import HeadlinesLM, build_headlines_task, cut_full_windows
from harness.training.evaluation import evaluate
from tests.toy_task import CPU

TITLES, WORDS = 2000, 9
# 10 tokens per title with its separator: 19,999 tokens of text, two windows of 8193 tokens and a rest of 3613.


def make_rows(tokens: np.ndarray, length: int = 128) -> TokenRows:
    starts = np.arange(0, len(tokens) - 1, length)
    lengths = np.minimum(length, len(tokens) - 1 - starts)
    return TokenRows(tokens, None, starts, lengths, lengths)


def make_title_data(**changed: object) -> TokenData:
    """Return titles of nine one-character words out of 15; token 0 separates them and is at both ends."""
    stream = np.random.default_rng(0).integers(1, 16, TITLES * (WORDS + 1) + 1).astype(np.uint16)
    stream[:: WORDS + 1] = 0
    data = TokenData(
        make_rows(stream), make_rows(stream), vocab_size=16, eos_id=0, unigram_entropy=2.7,
        val_scored_tokens=len(stream) - 1,
        val_characters=TITLES * WORDS, val_bytes=TITLES * WORDS, digest="", name="", source="", tokenizer_path=Path(),
        sequence_length=128, eval_batch_size=16, shuffle=False, seed=0,
    )  # fmt: skip
    return replace(data, **changed)


def make_small_gpt(vocab_size: int, positions: int = 128) -> GPT:
    torch.manual_seed(0)
    model = GPT(vocab_size=vocab_size, positions=positions, layers=1, width=16, heads=2, dropout=0.0)
    torch.nn.init.normal_(model.head.weight, std=0.5)  # far from uniform, so that a wrong token would show
    return model


def build_task_on(data: TokenData, positions: int = 128) -> HeadlinesLM:
    def model(vocab_size: int) -> GPT:
        return make_small_gpt(vocab_size, positions)

    return build_headlines_task(model=model, data=lambda **_: data, tokenizer=None, seed=0, cache_dir=Path())


def test_windowed_loss_is_sum_over_windows_per_character() -> None:
    task = build_task_on(make_title_data())
    report = evaluate(task, CPU)
    text = torch.from_numpy(task.data.val.stream[1:-1].astype("int64"))  # without the separators at both ends
    total = 0.0
    for window in (text[:8193], text[8193:16386]):
        logits = task.model.eval()(input_ids=window[:-1].view(64, 128)).logits
        total += F.cross_entropy(logits.flatten(0, 1), window[1:], reduction="sum").item()
    characters = 2000 * 9 + 1999 * len("<eos>")
    assert report["windowed_loss"].value == pytest.approx(total / characters, rel=1e-5)
    assert report["windowed_coverage"].value == 2 * 8192 / 20_000
    assert report["coverage"].value == 1.0


@pytest.mark.parametrize(("batch", "loss", "coverage"), [(64, 1.296, 0.936), (256, 1.111, 0.803), (1024, 0.0, 0.0)])
def test_windowed_loss_falls_with_batch_size_of_published_code(batch: int, loss: float, coverage: float) -> None:
    tokens, characters, nats = 122_495, 530_963, 6.0
    scored = cut_full_windows(make_rows(np.zeros(tokens + 2, np.uint16)), batch).n_scored
    assert scored * nats / characters == pytest.approx(loss, abs=5e-4)
    assert scored / tokens == pytest.approx(coverage, abs=5e-4)


def test_test_split_need_not_fill_a_window() -> None:
    rows = make_rows(np.zeros(2000, np.uint16))
    sizes = {"val_scored_tokens": 1999, "val_characters": 9000, "val_bytes": 9000, "unigram_entropy": 1.0}
    small, large = (
        build_task_on(make_title_data(test=test, test_sizes={**sizes, "duplicates": 0.25})).make_test_task()
        for test in (rows, make_title_data().val)
    )
    assert small is not None
    assert large is not None
    report = evaluate(small, CPU)
    assert "windowed_loss" not in report
    assert (report["coverage"].value, report["duplicates"].value) == (1.0, 0.25)
    assert report["nats_per_character"].value == pytest.approx(report["loss"].value * 1999 / 9000)
    assert evaluate(large, CPU)["windowed_loss"].unit == "nats in full windows/character of all"
    assert build_task_on(make_title_data()).make_test_task() is None


def test_windowed_loss_is_independent_of_eval_batch_size() -> None:
    one, other = (evaluate(build_task_on(make_title_data(eval_batch_size=size)), CPU) for size in (7, 64))
    for name in ("loss", "windowed_loss", "windowed_coverage"):
        assert one[name].value == pytest.approx(other[name].value, rel=1e-6), name


@pytest.mark.parametrize(
    ("data", "positions", "message"),
    [
        (
            make_title_data(val=make_rows(np.zeros(8194, np.uint16))),
            128,
            "does not fill a window of 64 x 128; raise data.val_fraction",
        ),
        (
            make_title_data(val=replace(make_rows(np.zeros(9000, np.uint16)), is_scored=np.ones(9000, bool))),
            128,
            "has prompts; use",
        ),
        (
            make_title_data(sequence_length=64),
            64,
            "64 positions are fewer than the 128 tokens .* use model.positions=128",
        ),
    ],
)
def test_data_or_model_too_small_for_windows_is_rejected(data: TokenData, positions: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_task_on(data, positions)
