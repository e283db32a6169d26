"""Tokenizers: trained on the data or pretrained, kept in the cache as folders that `transformers` can load too."""

import json
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import tokenizers

from harness.data.cache import MANIFEST, cached, digest, file_digest
from harness.data.hub import go_offline_if_unreachable
from harness.data.sources import Document, Source

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"
SMALLEST_VOCABULARY = 256 + 3
"""Every byte, and the three special tokens."""
FACTS = "harness.json"


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer at rest in `folder`; a document ends with `eos_id`."""

    folder: Path
    backend: tokenizers.Tokenizer
    vocab_size: int
    eos_id: int

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        facts = json.loads((folder / FACTS).read_text())
        backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        backend.encode_special_tokens = facts["is_plain"]
        return cls(folder, backend, facts["vocab_size"], facts["eos_id"])

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, nothing added."""
        return [encoding.ids for encoding in self.backend.encode_batch_fast(texts, add_special_tokens=False)]

    def save(self, folder: Path) -> None:
        shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns(MANIFEST))


class Choice(Protocol):
    """A tokenizer as configured: its digest is known before it is trained or loaded."""

    def fingerprint(self, split: str) -> str:
        """Of all that decides the ids; `split` is the digest of the data and of how it is split."""

    def build(self, train: Sequence[Document], val: Sequence[Document], folder: Path) -> Tokenizer:
        """From the cache in `folder`, or made and put there."""


@dataclass(frozen=True)
class ByteLevelBPE:
    """GPT-2's kind, of exactly `vocab_size` tokens: trained on `corpus`, or on the data's own text, of the training
    split or of `all`. A special token's name in a text is text."""

    vocab_size: int
    corpus: Source | None = None
    fit_on: Literal["train", "all"] = "train"

    def __post_init__(self) -> None:
        if self.vocab_size < SMALLEST_VOCABULARY:
            raise ValueError(f"vocab_size={self.vocab_size} is below {SMALLEST_VOCABULARY}: 256 bytes and 3 specials")
        if self.fit_on not in ("train", "all"):
            raise ValueError(f"fit_on={self.fit_on!r} is neither train nor all")

    def fingerprint(self, split: str) -> str:
        text = self.corpus.fingerprint() if self.corpus else [self.fit_on, split]
        return digest("byte-level BPE", self.vocab_size, text)

    def build(self, train: Sequence[Document], val: Sequence[Document], folder: Path) -> Tokenizer:
        def write(draft: Path) -> None:
            documents = self.corpus.documents() if self.corpus else [*train, *(val if self.fit_on == "all" else ())]
            backend = _train(documents, self.vocab_size)
            backend.save(str(draft / "tokenizer.json"))
            names = {"eos_token": EOS, "pad_token": PAD, "unk_token": UNK}
            config = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
            (draft / "tokenizer_config.json").write_text(json.dumps(config))
            _write_facts(draft, backend, backend.token_to_id(EOS), is_plain=True)

        return Tokenizer.load(cached(folder, write))


@dataclass(frozen=True)
class Pretrained:
    """Any fast tokenizer of Hugging Face, by name, by folder or by .gguf file; a name is taken never to change."""

    name: str | Path

    def fingerprint(self, split: str) -> str:
        place = Path(self.name).expanduser()
        files = [path for path in sorted(place.glob("*")) if re.search(r"token|vocab|merges|spm|spiece", path.name)]
        size = place.stat().st_size if place.is_file() else None
        return digest("pretrained", [file_digest(path) for path in files] or [str(self.name), size])

    def build(self, train: Sequence[Document], val: Sequence[Document], folder: Path) -> Tokenizer:
        def write(draft: Path) -> None:
            tokenizer = self._load()
            backend = tokenizer.backend_tokenizer
            backend.no_truncation()
            backend.no_padding()
            tokenizer.save_pretrained(draft)
            _write_facts(draft, backend, tokenizer.eos_token_id, is_plain=False)

        return Tokenizer.load(cached(folder, write))

    def _load(self) -> Any:
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
        if not tokenizer.is_fast or tokenizer.eos_token_id is None:
            lack = "end-of-text token" if tokenizer.is_fast else "fast version"
            raise ValueError(f"tokenizer.name={str(self.name)!r} has no {lack}; choose another")
        return tokenizer


def _train(documents: Iterable[Document], vocab_size: int) -> tokenizers.Tokenizer:
    from tokenizers import decoders, models, pre_tokenizers, trainers

    backend = tokenizers.Tokenizer(models.BPE(unk_token=UNK))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, EOS, UNK],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator((text for document in documents for text in (document.prompt, document.text)), trainer)
    if backend.get_vocab_size() < vocab_size:
        size = backend.get_vocab_size()
        raise ValueError(
            f"tokenizer.vocab_size={vocab_size} is more than the text supports, {size}; "
            f"use tokenizer.vocab_size={size} or less, or more text"
        )
    return backend


def _write_facts(folder: Path, backend: tokenizers.Tokenizer, eos_id: int, *, is_plain: bool) -> None:
    facts = {"vocab_size": max(backend.get_vocab().values()) + 1, "eos_id": eos_id, "is_plain": is_plain}
    (folder / FACTS).write_text(json.dumps(facts))
