"""Token masking for masked language models: which tokens are predicted, and what the model sees instead."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.data.tokenizers import Tokenizer

MAX_SPAN_LENGTH = 9  # Geometric(1/3) modulo 10

MaskUnit = Literal["span", "subword", "whole_word"]


@dataclass(frozen=True, eq=False)
class Masking:
    """Mask a fraction of the tokens in units that are masked as a whole.

    Units are spans of Geometric(1/3) mod 10 tokens, which may overlap and are counted once (Joshi et al., 2020, as in
    Samuel et al., 2023), single tokens, or words. Of the units 80% become the mask token, 10% random tokens, and 10%
    are left unchanged (Devlin et al., 2019). The last unit of a row is masked with the probability that makes the
    fraction exact on average.
    """

    unit: MaskUnit
    fraction: float
    width: int  # tokens of the longest row
    mask_id: int
    is_special: np.ndarray  # [vocab_size]; special tokens are never masked and never drawn as replacements
    begins_word: np.ndarray  # [vocab_size]

    def __call__(
        self, tokens: np.ndarray, is_text: np.ndarray, *, key: tuple[int, int], first_row: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens that the model sees and a boolean mask of the masked ones, both [rows, tokens].

        Only tokens in `is_text` are masked. The masks of a row depend on `key` and the row's number alone, not on the
        other rows; rows are numbered from `first_row`.
        """
        is_maskable = is_text & ~self.is_special[tokens]
        places, lengths, fates, replacements, last = self._draw_uniforms(len(tokens), key, first_row)
        if self.unit == "span":
            units = _assign_spans(places, lengths, is_maskable)
        else:
            begins = self.begins_word[tokens] if self.unit == "whole_word" else None
            units = _assign_shuffled_units(begins, places, tokens.shape[1])
        is_masked = is_maskable & _select_units(units, is_maskable, self.fraction, places.shape[1], last)

        fate = np.take_along_axis(fates, np.minimum(units, fates.shape[1] - 1), axis=1)
        allowed = np.flatnonzero(~self.is_special)
        random = allowed[(replacements[:, : tokens.shape[1]] * len(allowed)).astype(np.int64)]
        inputs = np.where(is_masked & (fate < 0.8), self.mask_id, tokens)
        return np.where(is_masked & (fate >= 0.9), random, inputs), is_masked

    def _draw_uniforms(self, rows: int, key: tuple[int, int], first_row: int) -> list[np.ndarray]:
        """Draw uniform numbers in [0, 1): positions, lengths, fates, replacements and the last unit, each [rows, n].

        Philox is counter-based (Salmon et al., 2011), so each row has its own section of the stream.
        """
        n_units = self.width
        if self.unit == "span":
            n_units = math.ceil(self.fraction * self.width) + MAX_SPAN_LENGTH
        ends = np.cumsum([n_units, n_units, n_units, self.width, 1])
        blocks = -(-int(ends[-1]) // 4)  # one count of Philox gives four numbers
        generator = np.random.Generator(np.random.Philox(key=key, counter=first_row * blocks))
        return np.split(generator.random((rows, 4 * blocks))[:, : ends[-1]], ends[:-1], axis=1)


def build_masking(tokenizer: Tokenizer, unit: MaskUnit, fraction: float, width: int) -> Masking:
    """Build the masking of rows of up to `width` tokens.

    Raises:
        ValueError: If the vocabulary does not allow it.
    """
    if unit not in ("span", "subword", "whole_word"):
        raise ValueError(f"mask={unit!r} must be one of span, subword, whole_word")
    if not 0 < fraction < 1:
        raise ValueError(f"mask_fraction={fraction} must lie between 0 and 1, for example 0.15")
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
    return Masking(unit, fraction, width, tokenizer.mask_id, is_special, begins_word)


def _assign_spans(places: np.ndarray, lengths: np.ndarray, is_maskable: np.ndarray) -> np.ndarray:
    """Return for each token the index of the first span that covers it, or the number of spans if none does.

    Spans may begin before the row, so that its first tokens are masked as often as others.
    """
    width = is_maskable.shape[1]
    ends = width - np.argmax(is_maskable[:, ::-1], axis=1, keepdims=True)  # of the maskable text of each row
    starts = np.floor(places * (ends + MAX_SPAN_LENGTH - 1)).astype(np.int64) - (MAX_SPAN_LENGTH - 1)
    sizes = (np.log1p(-lengths) / math.log(2 / 3)).astype(np.int64) + 1  # Geometric(1/3) by inversion
    steps = np.arange(MAX_SPAN_LENGTH)
    covered = starts[:, :, None] + steps
    rows, spans, offsets = np.nonzero((steps < (sizes % 10)[:, :, None]) & (covered >= 0) & (covered < width))
    units = np.full(is_maskable.shape, places.shape[1])
    np.minimum.at(units, (rows, covered[rows, spans, offsets]), spans)
    return units


def _assign_shuffled_units(begins: np.ndarray | None, places: np.ndarray, width: int) -> np.ndarray:
    """Return for each token the rank of its word in a random order of the words; of itself if `begins` is None."""
    if begins is None:
        units = np.arange(width)[None].repeat(len(places), 0)
    else:
        units = np.cumsum(begins, axis=1) - begins[:, :1]  # a row may begin within a word
    return np.take_along_axis(np.argsort(np.argsort(places, axis=1), axis=1), units, axis=1)


def _select_units(
    units: np.ndarray, is_maskable: np.ndarray, fraction: float, n_units: int, last: np.ndarray
) -> np.ndarray:
    """Return for each token whether its unit is among the first that make up `fraction` of the maskable tokens."""
    rows = len(units)
    flat = (units + np.arange(rows)[:, None] * (n_units + 1)).ravel()
    sizes = np.bincount(flat, is_maskable.ravel(), minlength=rows * (n_units + 1)).reshape(rows, n_units + 1)
    sizes = sizes[:, :n_units]
    before = np.cumsum(sizes, axis=1) - sizes
    is_selected = before + last * sizes < fraction * is_maskable.sum(1, keepdims=True)
    none = np.zeros((rows, 1), bool)
    return np.take_along_axis(np.hstack([is_selected, none]), units, axis=1)
