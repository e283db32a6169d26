"""The training, validation and test documents: a share of one source, or sources of their own."""

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

    Without a source of their own, the validation documents are the last `val_fraction` of those of `train`. The test
    documents are tokenized apart, and read by nothing that trains, evaluates or searches.
    """

    train: Source
    val_fraction: float | None
    validation: Source | None = None
    test: Source | None = None

    @property
    def sources(self) -> Mapping[str, Source]:
        """The source of each split that has its own."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: source for name, source in named.items() if source is not None}

    def compute_digests(self) -> dict[str, str]:
        """Return the digest of each split, without reading documents."""
        train = self.train.fingerprint()
        if self.validation is None:
            share = [train, self.val_fraction]
            digests = {"train": compute_digest(*share), "validation": compute_digest(*share, "validation")}
        else:
            digests = {"train": train, "validation": self.validation.fingerprint()}
        return digests if self.test is None else {**digests, "test": self.test.fingerprint()}

    def compute_training_digest(self) -> str:
        """Return a digest of what training and evaluation read: all but the test split."""
        if self.validation is None:
            return compute_digest(self.train.fingerprint(), self.val_fraction)
        return compute_digest(self.train.fingerprint(), self.validation.fingerprint())

    def describe_source(self) -> str:
        """Return where the documents come from, for the record."""
        held_out = [f"{name}: {source!r}" for name, source in self.sources.items() if name != "train"]
        return "; ".join([repr(self.train), *held_out])

    def read_documents(self) -> dict[str, list[Document]]:
        """Return the documents with text of the splits that runs read, `train` and `val`.

        Raises:
            ValueError: If a source has no text.
        """
        documents = {name: _list_nonblank(source) for name, source in self.sources.items() if name != "test"}
        if self.validation is None:
            documents["train"], documents["validation"] = _divide(documents["train"], self.val_fraction or 0)
        for name, found in documents.items():
            _check_any_text(found, self.sources.get(name, self.train))
        return {"train": documents["train"], "val": documents["validation"]}


def open_splits(
    source: Source, *, val_fraction: float | None, validation: Place | None, test: Place | None
) -> DocumentSplits:
    """Return the splits of `source`, with validation and test documents at places of their own if these are given.

    Raises:
        FileNotFoundError: If there are no files at a place.
        ValueError: If a setting is invalid, or a file is in two splits.
    """
    check_split_settings(val_fraction, validation)
    opened = {
        name: None if place is None else _open_held_out(source, place, name)
        for name, place in (("validation", validation), ("test", test))
    }
    splits = DocumentSplits(source, val_fraction, **opened)
    check_disjoint({name: dict(_list_content(one)) for name, one in splits.sources.items()})
    return splits


def check_split_settings(val_fraction: float | None, validation: object) -> None:
    """Check that the validation set is either a share of the training data or has files of its own.

    Raises:
        ValueError: If it is neither or both, or if the share is not between 0 and 1.
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


def read_nonblank(source: Source) -> list[Document]:
    """Return the documents of a source that have text.

    Raises:
        ValueError: If there are none.
    """
    documents = _list_nonblank(source)
    _check_any_text(documents, source)
    return documents


def _list_nonblank(source: Source) -> list[Document]:
    return [document for document in source.iter_documents() if document.text.strip()]


def _check_any_text(documents: Sequence[Document], source: Source) -> None:
    if not documents:
        raise ValueError(f"{source} holds no document with text")


def _divide(documents: list[Document], val_fraction: float) -> tuple[list[Document], list[Document]]:
    """Hold out the last documents, at least one; a lone document is cut in two."""
    if len(documents) == 1:
        documents = _split_lone_document(documents[0], val_fraction)
    held_out = min(max(1, round(val_fraction * len(documents))), len(documents) - 1)
    return (documents[:-held_out], documents[-held_out:]) if len(documents) > 1 else ([], [])


def _split_lone_document(document: Document, val_fraction: float) -> list[Document]:
    """Split a single text, such as a book, where the validation part begins, or at the last space before it."""
    text, target = document.text, round(len(document.text) * (1 - val_fraction))
    boundary = max(text.rfind(" ", 1, target), text.rfind("\n", 1, target))
    if boundary < 0:
        boundary = target
    return [Document(text[:boundary], document.prompt), Document(text[boundary:])]
