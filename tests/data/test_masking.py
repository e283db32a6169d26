"""Token masking: fraction, units, replacements, and dependence on key and example only."""

import numpy as np
import pytest

from harness.data.masking import Masking

VOCABULARY, WIDTH, SPECIALS, MASK = 200, 128, 5, 4
KEY = (7, 0)


def make_masking(unit: str = "span", share: float = 0.15, width: int = WIDTH) -> Masking:
    """Return a masking in which ids 0 to 4 are special and the other even ids begin a word."""
    ids = np.arange(VOCABULARY)
    return Masking(unit, share, width, MASK, ids < SPECIALS, (ids < SPECIALS) | (ids % 2 == 0))


def make_tokens(rows: int = 400, width: int = WIDTH, specials: float = 0.1) -> np.ndarray:
    random = np.random.default_rng(0)
    tokens = random.integers(SPECIALS, VOCABULARY, (rows, width))
    return np.where(random.random((rows, width)) < specials, random.integers(0, SPECIALS, (rows, width)), tokens)


def apply_masking(masking: Masking, tokens: np.ndarray, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return masking(tokens, np.ones(tokens.shape, bool), key=KEY, first_row=first)


UNITS = pytest.mark.parametrize("unit", ["span", "subword", "whole_word"])


@UNITS
@pytest.mark.parametrize(("share", "width"), [(0.15, WIDTH), (0.4, WIDTH), (0.15, 12)])
def test_masked_fraction_matches_request(unit: str, share: float, width: int) -> None:
    tokens = make_tokens(rows=40_000 // width * 4, width=width)
    _, is_masked = apply_masking(make_masking(unit, share, width), tokens)
    assert is_masked.sum() / (tokens >= SPECIALS).sum() == pytest.approx(share, rel=0.03)


@UNITS
def test_special_tokens_and_prompts_are_never_masked(unit: str) -> None:
    tokens, is_text = make_tokens(), np.arange(WIDTH)[None].repeat(400, 0) >= 40
    inputs, is_masked = make_masking(unit)(tokens, is_text, key=KEY, first_row=0)
    kept = (tokens < SPECIALS) | ~is_text
    assert not is_masked[kept].any()
    assert (inputs == tokens)[~is_masked].all()
    assert is_masked.sum() / (~kept).sum() == pytest.approx(0.15, rel=0.05)


@UNITS
def test_masked_tokens_are_80_percent_mask_10_random_10_unchanged(unit: str) -> None:
    tokens = make_tokens(2000)
    inputs, is_masked = apply_masking(make_masking(unit), tokens)
    shown, true = inputs[is_masked], tokens[is_masked]
    other = (shown != MASK) & (shown != true)
    assert (shown == MASK).mean() == pytest.approx(0.8, abs=0.015)
    assert other.mean() == pytest.approx(0.1, abs=0.01)
    drawn = np.bincount(shown[other], minlength=VOCABULARY)
    assert not drawn[:SPECIALS].any()
    assert (drawn[SPECIALS:] > 0).all()


def test_every_position_is_masked_equally_often() -> None:
    _, is_masked = apply_masking(make_masking(), make_tokens(20_000, 64, specials=0))
    assert is_masked.mean(0) == pytest.approx(0.15, abs=0.015)


def test_span_lengths_are_geometric_modulo_ten() -> None:
    tokens = make_tokens(60_000, 32, specials=0)
    _, is_masked = apply_masking(make_masking(share=0.02, width=32), tokens)  # so few that hardly any two overlap
    inner = is_masked & (is_masked.cumsum(1) > 0)
    inner[is_masked[:, 0] | is_masked[:, -1]] = False  # spans that an edge cuts
    edges = np.diff(np.pad(inner.astype(int), ((0, 0), (1, 1))), axis=1)
    lengths = np.nonzero(edges == -1)[1] - np.nonzero(edges == 1)[1]
    shares = np.bincount(lengths, minlength=11)[1:10] / len(lengths)
    # a row takes its one span with a chance in inverse proportion to the span's length, and has room for 33 - length
    weights = np.array([(2 / 3) ** (n - 1) / n * (33 - n) for n in range(1, 10)])
    assert shares == pytest.approx(weights / weights.sum(), abs=0.005)
    assert shares[-1] == pytest.approx(
        weights[-1] / weights.sum(), rel=0.6
    )  # three times as many, were longer ones cut
    assert lengths.max() == 9


def test_span_is_replaced_as_a_whole() -> None:
    tokens = make_tokens(20_000, 32, specials=0)
    inputs, is_masked = apply_masking(make_masking(share=0.05, width=32), tokens)
    both = is_masked[:, 1:] & is_masked[:, :-1]
    is_mask = inputs == MASK
    assert (is_mask[:, 1:] == is_mask[:, :-1])[both].mean() > 0.95  # two spans may touch


def test_whole_words_are_masked_and_replaced_as_a_whole() -> None:
    tokens = make_tokens(500)
    inputs, is_masked = apply_masking(make_masking("whole_word"), tokens)
    continues_word = (tokens[:, 1:] >= SPECIALS) & (tokens[:, 1:] % 2 == 1) & (tokens[:, :-1] >= SPECIALS)
    assert (is_masked[:, 1:] == is_masked[:, :-1])[continues_word].all()
    is_mask = inputs == MASK
    assert (is_mask[:, 1:] == is_mask[:, :-1])[continues_word].all()


@UNITS
def test_mask_depends_on_key_and_example_only(unit: str) -> None:
    masking, tokens = make_masking(unit), make_tokens(50)
    whole = apply_masking(masking, tokens, first=1000)
    part = apply_masking(masking, tokens[20:30], first=1020)
    assert (whole[0][20:30] == part[0]).all()
    assert (whole[1][20:30] == part[1]).all()
    assert (apply_masking(masking, tokens, first=1050)[1] != whole[1]).any(1).all()
    assert (masking(tokens, np.ones(tokens.shape, bool), key=(8, 0), first_row=1000)[1] != whole[1]).any(1).all()


@UNITS
def test_mask_is_independent_of_padding(unit: str) -> None:
    masking, tokens = make_masking(unit), make_tokens(30)
    is_text = np.arange(WIDTH)[None].repeat(30, 0) < 50
    wide = masking(tokens, is_text, key=KEY, first_row=0)
    narrow = masking(tokens[:, :60], is_text[:, :60], key=KEY, first_row=0)
    assert (wide[0][:, :60] == narrow[0]).all()
    assert (wide[1][:, :60] == narrow[1]).all()


def test_row_without_maskable_tokens_is_unchanged() -> None:
    tokens = np.full((3, 20), 2)
    inputs, is_masked = apply_masking(make_masking(width=20), tokens)
    assert not is_masked.any()
    assert (inputs == tokens).all()
