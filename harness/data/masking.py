"""What a masked model has to guess: which tokens, and what stands in their place."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.data.tokenizers import Tokenizer

MAX_SPAN_LENGTH = 9
"""Geometric(1/3) modulo 10."""

MaskUnit = Literal["span", "subword", "whole_word"]


@dataclass(frozen=True, eq=False)
class Masking:
    """Masks a `share` of the tokens, in units that are taken whole: spans of Geometric(1/3) mod 10 tokens, which may
    overlap and are counted once (Joshi et al., 2020, as in Samuel et al., 2023), single tokens, or words.

    Of the units, 80% become the mask, 10% random tokens, and 10% stay as they are (Devlin et al., 2019). The last unit
    of a row is taken with the chance that makes the share exact on average. `width` is the longest row's.
    """

    unit: MaskUnit
    share: float
    width: int
    mask_id: int
    is_special: np.ndarray
    """Of each id; such a token is never masked, and none takes another's place."""
    begins_word: np.ndarray
    """Of each id."""

    def __call__(
        self, tokens: np.ndarray, is_text: np.ndarray, *, key: tuple[int, int], first_row: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """(`tokens` as the model sees them, which of them are masked), both [rows, tokens].

        Only `is_text` is masked. Each row's draws are its own: `key` and its number, of which `first` is the first
        row's, decide them, whatever rows are beside it.
        """
        is_maskable = is_text & ~self.is_special[tokens]
        places, lengths, fates, replacements, last = self._draw_uniforms(len(tokens), key, first_row)
        if self.unit == "span":
            units = _assign_spans(places, lengths, is_maskable)
        else:
            units = _assign_shuffled_units(
                self.begins_word[tokens] if self.unit == "whole_word" else None, places, tokens.shape[1]
            )
        is_masked = is_maskable & _select_units(units, is_maskable, self.share, places.shape[1], last)

        fate = np.take_along_axis(fates, np.minimum(units, fates.shape[1] - 1), axis=1)
        allowed = np.flatnonzero(~self.is_special)
        random = allowed[(replacements[:, : tokens.shape[1]] * len(allowed)).astype(np.int64)]
        inputs = np.where(is_masked & (fate < 0.8), self.mask_id, tokens)
        return np.where(is_masked & (fate >= 0.9), random, inputs), is_masked

    def _draw_uniforms(self, rows: int, key: tuple[int, int], first: int) -> list[np.ndarray]:
        """Uniform numbers in [0, 1) by their use, [rows, uses], from a generator that counts (Salmon et al., 2011)."""
        units = math.ceil(self.share * self.width) + MAX_SPAN_LENGTH if self.unit == "span" else self.width
        uses = np.cumsum([units, units, units, self.width, 1])
        blocks = -(-int(uses[-1]) // 4)  # of four numbers a count
        generator = np.random.Generator(np.random.Philox(key=key, counter=first * blocks))
        return np.split(generator.random((rows, 4 * blocks))[:, : uses[-1]], uses[:-1], axis=1)


def build_masking(tokenizer: Tokenizer, unit: MaskUnit, share: float, width: int) -> Masking:
    """The masking of rows of up to `width` tokens; ValueError where the vocabulary does not allow it."""
    if unit not in ("span", "subword", "whole_word"):
        raise ValueError(f"mask={unit!r} is none of span, subword, whole_word")
    if not 0 < share < 1:
        raise ValueError(f"mask_fraction={share} must lie between 0 and 1, for example 0.15")
    if tokenizer.mask_id is None:
        raise ValueError(
            "the tokenizer's vocabulary does not match a masked model: it has no mask token; "
            "use tokenizer=wordpiece, or the tokenizer of a masked model"
        )
    is_special = np.zeros(tokenizer.vocab_size, bool)
    is_special[list(tokenizer.special_ids)] = True
    begins_word = tokenizer.find_word_starts()
    if unit == "whole_word" and not (begins_word & ~is_special).any():
        raise ValueError("mask='whole_word': the tokenizer does not mark where words begin; use mask=span")
    return Masking(unit, share, width, tokenizer.mask_id, is_special, begins_word)


def _assign_spans(places: np.ndarray, lengths: np.ndarray, is_maskable: np.ndarray) -> np.ndarray:
    """For each token, the first of the spans that cover it; their number where none does.

    Spans begin before the row too, so that its first tokens are as often masked as any."""
    width = is_maskable.shape[1]
    ends = width - np.argmax(is_maskable[:, ::-1], axis=1, keepdims=True)  # of what there is to mask
    starts = np.floor(places * (ends + MAX_SPAN_LENGTH - 1)).astype(np.int64) - (MAX_SPAN_LENGTH - 1)
    sizes = (np.log1p(-lengths) / math.log(2 / 3)).astype(np.int64) + 1  # geometric, by inversion
    steps = np.arange(MAX_SPAN_LENGTH)
    covered = starts[:, :, None] + steps
    rows, spans, offsets = np.nonzero((steps < (sizes % 10)[:, :, None]) & (covered >= 0) & (covered < width))
    units = np.full(is_maskable.shape, places.shape[1])
    np.minimum.at(units, (rows, covered[rows, spans, offsets]), spans)
    return units


def _assign_shuffled_units(begins: np.ndarray | None, places: np.ndarray, width: int) -> np.ndarray:
    """For each token, the place of its word in a random order of all words; of itself, where words do not matter."""
    if begins is None:
        units = np.arange(width)[None].repeat(len(places), 0)
    else:
        units = np.cumsum(begins, axis=1) - begins[:, :1]  # a row may begin within a word
    return np.take_along_axis(np.argsort(np.argsort(places, axis=1), axis=1), units, axis=1)


def _select_units(units: np.ndarray, is_maskable: np.ndarray, share: float, count: int, last: np.ndarray) -> np.ndarray:
    """Of each token, whether its unit is among the first that make up the share of what may be masked."""
    rows = len(units)
    flat = (units + np.arange(rows)[:, None] * (count + 1)).ravel()
    sizes = np.bincount(flat, is_maskable.ravel(), minlength=rows * (count + 1)).reshape(rows, count + 1)[:, :count]
    before = np.cumsum(sizes, axis=1) - sizes
    is_taken = before + last * sizes < share * is_maskable.sum(1, keepdims=True)
    none = np.zeros((rows, 1), bool)
    return np.take_along_axis(np.hstack([is_taken, none]), units, axis=1)
