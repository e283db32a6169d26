"""Documents in a small invented language, generated from a seed; tokenizers find enough to merge in it."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from harness.data.cache import compute_digest
from harness.data.sources import Document

WORDS = [first + second + third for first in "bdgklm" for second in "aeiou" for third in ("n", "nto", "ris", "é")]


@dataclass(frozen=True)
class SyntheticDocuments:
    """`count` documents of up to `longest` words, with a prompt at the chance `prompt_chance`."""

    count: int = 40
    longest: int = 30
    prompt_chance: float = 0.0
    seed: int = 0
    is_readable: bool = True  # False: reading the documents fails the test

    def fingerprint(self) -> str:
        return compute_digest("given", self.count, self.longest, self.prompt_chance, self.seed)

    def iter_documents(self) -> Iterator[Document]:
        assert self.is_readable, "the documents were read"
        chance = random.Random(self.seed)

        def words(most: int) -> str:
            return " ".join(chance.choices(WORDS, k=chance.randint(1, most)))

        for _ in range(self.count):
            prompt = f"{words(2 * self.longest)}?" if chance.random() < self.prompt_chance else ""
            yield Document(words(self.longest), prompt)
