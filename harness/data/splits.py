"""The training, validation and test documents: shares of one source, or sources of their own.

Shares are cut from the end of the documents, in their order: `[training | test | validation]`. A test split therefore
takes documents from training and leaves the validation set as it is.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.digests import compute_file_digest
from harness.data.cache import compute_digest
from harness.data.sources import Document, Source, SplittableSource

Place = str | Sequence[str]


@dataclass(frozen=True)
class DocumentSplits:
    """Sources of the documents of each split.

    Without a source of their own, the validation documents are the last `val_fraction` of those of `train`, and the
    test documents the `test_share` right before them, if it is not None. The test documents are tokenized apart, and
    read by nothing that trains, validates or searches.
    """

    train: Source
    val_fraction: float | None
    validation: Source | None = None
    test: Source | None = None
    test_share: float | None = None

    @property
    def has_test(self) -> bool:
        return self.test is not None or self.test_share is not None

    @property
    def sources(self) -> Mapping[str, Source]:
        """The source of each split that has its own."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: source for name, source in named.items() if source is not None}

    def compute_digests(self) -> dict[str, str]:
        """Return the digest of each split, without reading documents."""
        source = self.train.fingerprint()
        train = compute_digest(source, *self._list_shares()) if self._list_shares() else source
        if self.validation is None:
            validation = compute_digest(source, self.val_fraction, "validation")
        else:
            validation = self.validation.fingerprint()
        digests = {"train": train, "validation": validation}
        if self.test is not None:
            digests["test"] = self.test.fingerprint()
        elif self.test_share is not None:
            digests["test"] = compute_digest(source, *self._list_shares(), "test")
        return digests

    def compute_training_digest(self) -> str:
        """Return a digest of what training and evaluation read: all but the test split."""
        validation = [] if self.validation is None else [self.validation.fingerprint()]
        return compute_digest(self.train.fingerprint(), *validation, *self._list_shares())

    def _list_shares(self) -> list[float | str]:
        """Return the shares that are cut from the source for training, as parts of a digest."""
        shares: list[float | str] = [] if self.val_fraction is None else [self.val_fraction]
        return shares if self.test_share is None else [*shares, "test", self.test_share]

    def describe_source(self) -> str:
        """Return where the documents come from, for the record."""
        held_out = [f"{name}: {source!r}" for name, source in self.sources.items() if name != "train"]
        return "; ".join([repr(self.train), *held_out])

    def read_documents(self) -> dict[str, list[Document]]:
        """Return the documents with text of the splits that runs read, `train` and `val`.

        Raises:
            ValueError: If a source has no text.
        """
        train, _, val = self._divide_source()
        if self.validation is not None:
            val = _read_nonblank(self.validation)
        return {"train": train, "val": val}

    def read_test_documents(self) -> tuple[list[Document], int]:
        """Return the documents with text of the test split, and how many of them are in the training split too.

        Raises:
            ValueError: If a source has no text.
        """
        train, test, _ = self._divide_source()
        if self.test is not None:
            test = _read_nonblank(self.test)
        seen = set(train)
        return test, sum(document in seen for document in test)

    def _divide_source(self) -> tuple[list[Document], list[Document], list[Document]]:
        """Return the training, test and validation documents of the training source."""
        documents = _read_nonblank(self.train)
        total = len(documents)
        if total == 1 and self._list_shares():
            return _divide_lone_document(documents[0], self.val_fraction or 0, self.test_share or 0)
        n_val = 0 if self.val_fraction is None else min(max(1, round(self.val_fraction * total)), total - 1)
        end = total - n_val
        start = end - count_test(total, n_val, self.test_share, "documents")
        return documents[:start], documents[start:end], documents[end:]


def open_splits(
    source: Source,
    *,
    val_fraction: float | None,
    validation: Place | None,
    test: Place | None,
    test_share: float | None = None,
) -> DocumentSplits:
    """Return the splits of `source`, with validation and test documents at places of their own if these are given.

    Raises:
        FileNotFoundError: If there are no files at a place.
        ValueError: If a setting is invalid, or a file is in two splits.
    """
    check_split_settings(val_fraction, validation, test_share, test)
    opened = {
        name: None if place is None else _open_held_out(source, place, name)
        for name, place in (("validation", validation), ("test", test))
    }
    splits = DocumentSplits(source, val_fraction, **opened, test_share=test_share)
    check_disjoint({name: dict(_list_content(one)) for name, one in splits.sources.items()})
    return splits


def check_split_settings(
    val_fraction: float | None, validation: object, test_share: float | None, test: object
) -> None:
    """Check that the validation set is either a share of the training data or has files of its own, and so is the test
    split, if there is one.

    Raises:
        ValueError: If the validation set is neither, or one of them both, or if a share is not between 0 and 1.
    """
    if validation is None and val_fraction is None:
        raise ValueError("val_fraction=null needs validation, files of their own; set one of them")
    if validation is not None and val_fraction is not None:
        raise ValueError(
            f"val_fraction={val_fraction} does not go with validation, which names the whole validation set; "
            "leave out one of them"
        )
    if val_fraction is not None and not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction={val_fraction} must lie between 0 and 1, for example 0.1")
    if test_share is None:
        return
    if test is not None:
        raise ValueError(
            f"test_share={test_share} does not go with test, which names the whole test split; leave out one of them"
        )
    if not 0 < test_share < 1:
        raise ValueError(f"test_share={test_share} must lie between 0 and 1, for example 0.1; null for no test split")
    if test_share + (val_fraction or 0) >= 1:
        raise ValueError(
            f"test_share={test_share} and val_fraction={val_fraction} leave nothing for training; lower one of them"
        )


def count_test(total: int, n_validation: int, test_share: float | None, kind: str) -> int:
    """Return how many of `total` documents or samples are for the test split: 1 at least, or 0 without a share.

    Args:
        kind: The plural of what is counted, for messages.

    Raises:
        ValueError: If none is left for training.
    """
    n_test = 0 if test_share is None else max(1, round(test_share * total))
    if n_test and n_test + n_validation >= total:
        held_out = f", beside {n_validation} for validation" if n_validation else ""
        raise ValueError(
            f"test_share={test_share} leaves none of the {total} {kind} for training{held_out}; "
            "lower it, or use more data"
        )
    return n_test


def check_disjoint(content: Mapping[str, Mapping[str, str]]) -> None:
    """Check that no two splits have the same content.

    Args:
        content: By split, the names of its files by their digests.

    Raises:
        ValueError: If two have.
    """
    seen: dict[str, tuple[str, str]] = {}
    for split, files in content.items():
        for digest, file in files.items():
            if digest in seen:
                other, place = seen[digest]
                same = f"{file} is" if place == file else f"{file} has the content of {place}, which is"
                raise ValueError(f"{split}: {same} in the {other} split too; give each split files of its own")
        seen |= {digest: (split, file) for digest, file in files.items()}


def _open_held_out(source: Source, place: Place, key: str) -> Source:
    if not isinstance(source, SplittableSource):
        kind = type(source).__name__
        raise ValueError(f"{key}={place!r}: {kind} has no such files; leave it out, or use data=text or another source")
    return source.open_held_out(place, key)


def _list_content(source: Source) -> Iterator[tuple[str, str]]:
    """Yield digest and name of each file of a source, or of the whole source if it has no list of files."""
    if not hasattr(source, "list_files"):
        yield source.fingerprint(), str(source)
        return
    for path in source.list_files():
        yield compute_file_digest(Path(path)), str(path)


def _read_nonblank(source: Source) -> list[Document]:
    """Return the documents of a source that have text.

    Raises:
        ValueError: If there are none.
    """
    documents = [document for document in source.iter_documents() if document.text.strip()]
    if not documents:
        raise ValueError(f"{source} holds no document with text")
    return documents


def _divide_lone_document(
    document: Document, val_fraction: float, test_share: float
) -> tuple[list[Document], list[Document], list[Document]]:
    """Return the training, test and validation part of a single text, such as a book; none for a share of 0.

    It is cut where the held-out parts begin, or at the last space before that.

    Raises:
        ValueError: If a part has no text.
    """
    text, length = document.text, len(document.text)
    text, validation = _cut_at_space(text, round(length * (1 - val_fraction))) if val_fraction else (text, "")
    text, test = _cut_at_space(text, round(length * (1 - val_fraction - test_share))) if test_share else (text, "")
    for name, share, part in (("val_fraction", val_fraction, validation), ("test_share", test_share, test)):
        if share and not (part.strip() and text.strip()):
            raise ValueError(f"{name}={share}: the only document is too short to be cut; raise it, or use more text")
    held_out = [[Document(part)] if part else [] for part in (test, validation)]
    return [Document(text, document.prompt)], held_out[0], held_out[1]


def _cut_at_space(text: str, target: int) -> tuple[str, str]:
    """Cut a text at its last space or end of a line before `target`, or else there."""
    boundary = max(text.rfind(" ", 1, target), text.rfind("\n", 1, target))
    boundary = target if boundary < 0 else boundary
    return text[:boundary], text[boundary:]
