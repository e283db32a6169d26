"""Tokenizers: trained on the data or pretrained, kept in the cache as folders that `transformers` can load too."""

import json
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import tokenizers

from harness.data.cache import MANIFEST, compute_digest, compute_file_digest, ensure_cached
from harness.data.hf_hub import go_offline_if_unreachable
from harness.data.sources import Document, Source

METADATA_FILE = "harness.json"
SPACE_PREFIXES = ("\u0120", "\u010a", "\u2581")
"""A space and a line's end in byte-level vocabularies, and SentencePiece's space."""


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer at rest in `folder`; a document ends with `eos_id` and, where there is a `cls_id`, begins with that.
    Only one of a masked model has a `mask_id`, and only such a one a `cls_id`."""

    folder: Path
    backend: tokenizers.Tokenizer
    vocab_size: int
    eos_id: int
    cls_id: int | None = None
    mask_id: int | None = None
    special_ids: tuple[int, ...] = ()

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        facts = json.loads((folder / METADATA_FILE).read_text())
        backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        backend.encode_special_tokens = facts.pop("is_plain")
        return cls(folder, backend, **{**facts, "special_ids": tuple(facts.get("special_ids", ()))})

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, nothing added."""
        return [encoding.ids for encoding in self.backend.encode_batch_fast(texts, add_special_tokens=False)]

    def find_word_starts(self) -> np.ndarray:
        """Of each id, whether a word may begin there: by WordPiece's mark of what continues one, or by the space that
        byte-level and SentencePiece vocabularies put before one."""
        prefix = getattr(self.backend.model, "continuing_subword_prefix", None)
        begins = np.ones(self.vocab_size, bool)
        for token, id in self.backend.get_vocab().items():
            begins[id] = not token.startswith(prefix) if prefix else token.startswith(SPACE_PREFIXES)
        begins[list(self.special_ids)] = True
        return begins

    def save(self, folder: Path) -> None:
        shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns(MANIFEST))


class TokenizerBuilder(Protocol):
    """A tokenizer as configured: its digest is known before it is trained or loaded."""

    def fingerprint(self, split_digest: str) -> str:
        """Of all that decides the ids; `split` is the digest of the data and of how it is split."""

    def build(self, train: Sequence[Document], val: Sequence[Document], folder: Path) -> Tokenizer:
        """From the cache in `folder`, or made and put there."""


@dataclass(frozen=True)
class _TrainedTokenizer:
    """Of exactly `vocab_size` tokens: trained on `corpus`, or on the data's own text, of the training split or of
    `all`. A special token's name in a text is text."""

    vocab_size: int
    corpus: Source | None = None
    fit_on: Literal["train", "all"] = "train"

    KIND: ClassVar[str]
    SPECIAL_TOKENS: ClassVar[dict[str, str]]
    """Their names in transformers, in the order of their ids."""
    ALPHABET: ClassVar[tuple[int, str]]
    """What a vocabulary holds at least, beside the specials."""

    def __post_init__(self) -> None:
        size, name = self.ALPHABET
        smallest = size + len(self.SPECIAL_TOKENS)
        if self.vocab_size < smallest:
            raise ValueError(
                f"vocab_size={self.vocab_size} is below {smallest}: {name}, {len(self.SPECIAL_TOKENS)} specials"
            )
        if self.fit_on not in ("train", "all"):
            raise ValueError(f"fit_on={self.fit_on!r} is neither train nor all")

    def fingerprint(self, split_digest: str) -> str:
        text = self.corpus.fingerprint() if self.corpus else [self.fit_on, split_digest]
        return compute_digest(self.KIND, self.vocab_size, text)

    def build(self, train: Sequence[Document], val: Sequence[Document], folder: Path) -> Tokenizer:
        def write(draft: Path) -> None:
            documents = (
                self.corpus.iter_documents() if self.corpus else [*train, *(val if self.fit_on == "all" else ())]
            )
            backend, trainer = self._create_untrained()
            _train_to_size(backend, trainer, documents, self.vocab_size)
            backend.save(str(draft / "tokenizer.json"))
            config = {"tokenizer_class": "PreTrainedTokenizerFast", **self.SPECIAL_TOKENS}
            (draft / "tokenizer_config.json").write_text(json.dumps(config))
            ids = {name: backend.token_to_id(token) for name, token in self.SPECIAL_TOKENS.items()}
            _write_metadata(draft, backend, ids, list(ids.values()), is_plain=True)

        return Tokenizer.load(ensure_cached(folder, write))

    def _create_untrained(self) -> tuple[tokenizers.Tokenizer, Any]:
        """An empty tokenizer and its trainer."""
        raise NotImplementedError


class ByteLevelBPE(_TrainedTokenizer):
    """GPT-2's kind."""

    KIND = "byte-level BPE"
    SPECIAL_TOKENS: ClassVar = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    ALPHABET = (256, "256 bytes")

    def _create_untrained(self) -> tuple[tokenizers.Tokenizer, Any]:
        from tokenizers import decoders, models, pre_tokenizers, trainers

        backend = tokenizers.Tokenizer(models.BPE(unk_token=self.SPECIAL_TOKENS["unk_token"]))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        return backend, trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            special_tokens=list(self.SPECIAL_TOKENS.values()),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )


class WordPiece(_TrainedTokenizer):
    """BERT's kind, case and accents kept: words and punctuation apart, `##` before what continues a word. A document
    is `[CLS] text [SEP]`."""

    KIND = "WordPiece"
    SPECIAL_TOKENS: ClassVar = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    ALPHABET = (1, "a character")

    def _create_untrained(self) -> tuple[tokenizers.Tokenizer, Any]:
        from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

        specials = list(self.SPECIAL_TOKENS.values())
        backend = tokenizers.Tokenizer(models.WordPiece(unk_token=self.SPECIAL_TOKENS["unk_token"]))
        backend.normalizer = normalizers.BertNormalizer(strip_accents=False, lowercase=False)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece()
        ends = [(token, specials.index(token)) for token in ("[CLS]", "[SEP]")]
        backend.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ends)
        return backend, trainers.WordPieceTrainer(
            vocab_size=self.vocab_size, special_tokens=specials, show_progress=False
        )


@dataclass(frozen=True)
class PretrainedTokenizer:
    """Any fast tokenizer of Hugging Face, by name, by folder or by .gguf file; a name is taken never to change."""

    name: str | Path

    def fingerprint(self, split_digest: str) -> str:
        place = Path(self.name).expanduser()
        files = [path for path in sorted(place.glob("*")) if re.search(r"token|vocab|merges|spm|spiece", path.name)]
        size = place.stat().st_size if place.is_file() else None
        return compute_digest("pretrained", [compute_file_digest(path) for path in files] or [str(self.name), size])

    def build(self, train: Sequence[Document], val: Sequence[Document], folder: Path) -> Tokenizer:
        def write(draft: Path) -> None:
            tokenizer = self.load_hf_tokenizer()
            backend = tokenizer.backend_tokenizer
            backend.no_truncation()
            backend.no_padding()
            tokenizer.save_pretrained(draft)
            ids = {
                name: getattr(tokenizer, f"{name}_id") for name in ("eos_token", "sep_token", "cls_token", "mask_token")
            }
            _write_metadata(draft, backend, ids, tokenizer.all_special_ids, is_plain=False)

        return Tokenizer.load(ensure_cached(folder, write))

    def load_hf_tokenizer(self) -> Any:
        """As transformers has it; ValueError where it does not load, or has no fast version or no end of a text."""
        place = Path(self.name).expanduser()
        if not place.exists():
            go_offline_if_unreachable()
        from transformers import AutoTokenizer

        is_gguf = place.suffix == ".gguf"
        name = place.parent if is_gguf else place if place.is_dir() else self.name
        try:
            tokenizer = AutoTokenizer.from_pretrained(name, **({"gguf_file": place.name} if is_gguf else {}))
        except (OSError, ValueError) as error:
            reason = str(error).split("\n")[0]
            raise ValueError(
                f"tokenizer.name={str(self.name)!r} does not load: {reason}; "
                "check the name, and offline give a folder that holds a tokenizer.json"
            ) from error
        if not tokenizer.is_fast or (tokenizer.eos_token_id is None and tokenizer.sep_token_id is None):
            lack = "end-of-text token" if tokenizer.is_fast else "fast version"
            raise ValueError(f"tokenizer.name={str(self.name)!r} has no {lack}; choose another")
        return tokenizer


def _train_to_size(backend: tokenizers.Tokenizer, trainer: Any, documents: Iterable[Document], vocab_size: int) -> None:
    backend.train_from_iterator((text for document in documents for text in (document.prompt, document.text)), trainer)
    size = backend.get_vocab_size()
    if size != vocab_size:
        limit, remedy = ("more than the text supports", "or less, or more text")
        if size > vocab_size:
            limit, remedy = "less than the characters of the text take", "or more"
        raise ValueError(
            f"tokenizer.vocab_size={vocab_size} is {limit}, {size}; use tokenizer.vocab_size={size} {remedy}"
        )


def _write_metadata(
    folder: Path, backend: tokenizers.Tokenizer, ids: dict[str, int | None], special_ids: list[int], *, is_plain: bool
) -> None:
    """`ids` are the special tokens', by their names in transformers; where no token ends a text, a separator does."""
    end, mask_id = ids.get("eos_token"), ids.get("mask_token")
    facts = {
        "vocab_size": max(backend.get_vocab().values()) + 1,
        "eos_id": ids["sep_token"] if end is None else end,
        "cls_id": None if mask_id is None else ids.get("cls_token"),
        "mask_id": mask_id,
        "special_ids": sorted(special_ids),
        "is_plain": is_plain,
    }
    (folder / METADATA_FILE).write_text(json.dumps(facts))
