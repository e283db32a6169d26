"""Tokenizers: trained on the data or pretrained, cached as folders that `transformers` can load."""

import json
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import tokenizers

from harness.core.digests import check_exported, compute_file_digest, find_damaged_file
from harness.core.errors import SettingError
from harness.data.cache import compute_digest, ensure_cached
from harness.data.hf_hub import go_offline_if_unreachable
from harness.data.sources import Document, Source

METADATA_FILE = "harness.json"
SPACE_PREFIXES = ("\u0120", "\u010a", "\u2581")  # space and newline of byte-level vocabularies, space of SentencePiece


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer stored in `folder`.

    Documents end with `eos_id` and begin with `cls_id` if there is one. Only tokenizers of masked models have a
    `mask_id` and a `cls_id`.
    """

    folder: Path
    backend: tokenizers.Tokenizer
    vocab_size: int
    eos_id: int
    cls_id: int | None = None
    mask_id: int | None = None
    special_ids: tuple[int, ...] = ()

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Load a tokenizer that was saved here.

        Raises:
            ValueError: If a file is missing or damaged.
        """
        if damage := find_damaged_file(folder, allow_others=True):
            raise ValueError(damage)
        metadata = json.loads((folder / METADATA_FILE).read_text())
        backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        backend.encode_special_tokens = metadata.pop("is_plain")
        return cls(folder, backend, **{**metadata, "special_ids": tuple(metadata["special_ids"])})

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, without special tokens."""
        return [encoding.ids for encoding in self.backend.encode_batch_fast(texts, add_special_tokens=False)]

    def find_word_starts(self) -> np.ndarray:
        """Return whether a word may begin at each id, [vocab_size].

        WordPiece marks tokens that continue a word; byte-level and SentencePiece vocabularies put a space before words.
        """
        prefix = getattr(self.backend.model, "continuing_subword_prefix", None)
        begins = np.ones(self.vocab_size, bool)
        for token, id in self.backend.get_vocab().items():
            begins[id] = not token.startswith(prefix) if prefix else token.startswith(SPACE_PREFIXES)
        begins[list(self.special_ids)] = True
        return begins

    def save(self, folder: Path) -> None:
        shutil.copytree(self.folder, folder)


class TokenizerBuilder(Protocol):
    """A configured tokenizer; its fingerprint is known before it is trained or loaded."""

    def fingerprint(self, split_digest: str) -> str:
        """Return a digest of everything that decides the ids. `split_digest` stands for the data and its split."""

    def build(self, train: Sequence[Document], val: Sequence[Document], folder: Path) -> Tokenizer:
        """Load the tokenizer from the cache `folder`, or train or download it and store it there."""


@dataclass(frozen=True)
class _TrainedTokenizer:
    """A tokenizer of exactly `vocab_size` tokens, trained on `corpus` or, if None, on the data's own text.

    `fit_on` chooses the training split or all of the data. Names of special tokens within a text are encoded as text.
    """

    vocab_size: int
    corpus: Source | None = None
    fit_on: Literal["train", "all"] = "train"

    KIND: ClassVar[str]
    SPECIAL_TOKENS: ClassVar[dict[str, str]]  # by their names in transformers, in the order of their ids
    ALPHABET: ClassVar[tuple[int, str]]  # number of tokens that every vocabulary has beside the special ones, and what

    def __post_init__(self) -> None:
        size, name = self.ALPHABET
        smallest = size + len(self.SPECIAL_TOKENS)
        if self.vocab_size < smallest:
            raise ValueError(
                f"vocab_size={self.vocab_size} must be at least {smallest}: {name}, "
                f"{len(self.SPECIAL_TOKENS)} special tokens"
            )
        if self.fit_on not in ("train", "all"):
            raise ValueError(f"fit_on={self.fit_on!r} must be train or all")

    def fingerprint(self, split_digest: str) -> str:
        text = self.corpus.fingerprint() if self.corpus else [self.fit_on, split_digest]
        return compute_digest(self.KIND, self.vocab_size, text)

    def build(self, train: Sequence[Document], val: Sequence[Document], folder: Path) -> Tokenizer:
        def write(draft: Path) -> None:
            own_text = [*train, *val] if self.fit_on == "all" else train
            documents = self.corpus.iter_documents() if self.corpus else own_text
            backend, trainer = self._create_untrained()
            _train_to_size(backend, trainer, documents, self.vocab_size)
            backend.save(str(draft / "tokenizer.json"))
            config = {"tokenizer_class": "PreTrainedTokenizerFast", **self.SPECIAL_TOKENS}
            (draft / "tokenizer_config.json").write_text(json.dumps(config))
            ids = {name: backend.token_to_id(token) for name, token in self.SPECIAL_TOKENS.items()}
            _write_metadata(draft, backend, ids, range(len(ids)), is_plain=True)

        task = f"fitting a tokenizer of {self.vocab_size:,} tokens"
        return Tokenizer.load(ensure_cached(folder, write, task))

    def _create_untrained(self) -> tuple[tokenizers.Tokenizer, Any]:
        """Return an empty tokenizer and its trainer."""
        raise NotImplementedError


class ByteLevelBPE(_TrainedTokenizer):
    """Byte-level BPE, as in GPT-2."""

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
    """WordPiece as in BERT, with case and accents preserved.

    Words and punctuation are separate tokens, tokens that continue a word begin with `##`, and a document is
    `[CLS] text [SEP]`.
    """

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
    """A fast tokenizer of Hugging Face, by Hub name, folder or .gguf file.

    The content behind a Hub name is assumed never to change.
    """

    name: str | Path

    def fingerprint(self, split_digest: str) -> str:
        place = Path(self.name).expanduser()
        files = _list_tokenizer_files(place)
        size = place.stat().st_size if place.is_file() else None
        return compute_digest("pretrained", [compute_file_digest(path) for path in files] or [str(self.name), size])

    def build(self, train: Sequence[Document], val: Sequence[Document], folder: Path) -> Tokenizer:
        def write(draft: Path) -> None:
            tokenizer = self.load_hf_tokenizer()
            backend = tokenizer.backend_tokenizer
            backend.no_truncation()
            backend.no_padding()
            tokenizer.save_pretrained(draft)
            names = ("eos_token", "sep_token", "cls_token", "mask_token")
            ids = {name: getattr(tokenizer, f"{name}_id") for name in names}
            _write_metadata(draft, backend, ids, tokenizer.all_special_ids, is_plain=False)

        return Tokenizer.load(ensure_cached(folder, write))

    def load_hf_tokenizer(self) -> Any:
        """Load the tokenizer with transformers.

        Raises:
            ValueError: If it does not load, is empty, has no fast version, or no token that ends a text.
        """
        place = Path(self.name).expanduser()
        if not place.exists():
            go_offline_if_unreachable()
        from transformers import AutoTokenizer

        check_exported(place)
        is_gguf = place.suffix == ".gguf"
        name = place.parent if is_gguf else place if place.is_dir() else self.name
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                name, trust_remote_code=False, **({"gguf_file": place.name} if is_gguf else {})
            )
        except (ImportError, MemoryError):
            raise
        except Exception as error:  # transformers raises AttributeError, KeyError, ... for files of another form
            reason = str(error).split("\n")[0] or type(error).__name__
            if str(self.name).startswith(("/", "~", ".")) and not place.exists():
                reason = "there is no such folder."
            if (place / "config.json").is_file() and not _list_tokenizer_files(place):
                raise self._missing_error() from error
            remedy = "check the name; offline, give a folder with config.json, weights and tokenizer.json"
            raise SettingError(
                "tokenizer.name", f"{str(self.name)!r} does not load: {reason.rstrip(' .:')}; {remedy}"
            ) from error
        if not tokenizer.is_fast or (tokenizer.eos_token_id is None and tokenizer.sep_token_id is None):
            missing = "end-of-text token" if tokenizer.is_fast else "fast version"
            raise SettingError("tokenizer.name", f"{str(self.name)!r} has no {missing}; choose another")
        # For a folder with a model alone, transformers makes an empty tokenizer of the model's kind.
        if not set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids):
            raise self._missing_error()
        return tokenizer

    def _missing_error(self) -> SettingError:
        remedy = "save it there with tokenizer.save_pretrained, or set tokenizer.name to a folder that has one"
        return SettingError("tokenizer.name", f"{str(self.name)!r} has no tokenizer; {remedy}")


def _list_tokenizer_files(folder: Path) -> list[Path]:
    named = (path for path in sorted(folder.glob("*")) if re.search(r"token|vocab|merges|spm|spiece", path.name))
    return [path for path in named if not path.is_dir()]


def _train_to_size(backend: tokenizers.Tokenizer, trainer: Any, documents: Iterable[Document], vocab_size: int) -> None:
    backend.train_from_iterator((text for document in documents for text in (document.prompt, document.text)), trainer)
    size = backend.get_vocab_size()
    if size != vocab_size:
        limit, remedy = "more than the text supports", "or less, or more text"
        if size > vocab_size:
            limit, remedy = "less than the characters of the text need", "or more"
        raise ValueError(
            f"tokenizer.vocab_size={vocab_size} is {limit}, {size}; use tokenizer.vocab_size={size} {remedy}"
        )


def _write_metadata(
    folder: Path,
    backend: tokenizers.Tokenizer,
    ids: dict[str, int | None],
    special_ids: Iterable[int],
    *,
    is_plain: bool,
) -> None:
    """Write what `Tokenizer.load` reads. `ids` are those of the special tokens, by their names in transformers."""
    end, mask_id = ids.get("eos_token"), ids.get("mask_token")
    metadata = {
        "vocab_size": max(backend.get_vocab().values()) + 1,
        "eos_id": ids["sep_token"] if end is None else end,
        "cls_id": None if mask_id is None else ids.get("cls_token"),
        "mask_id": mask_id,
        "special_ids": sorted(special_ids),
        "is_plain": is_plain,
    }
    (folder / METADATA_FILE).write_text(json.dumps(metadata))
