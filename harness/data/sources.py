"""Document sources. Each has a cheap fingerprint and yields its documents in a fixed order."""

import csv
import io
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from harness.core.digests import compute_file_digest
from harness.data import pydoc
from harness.data.cache import compute_digest
from harness.data.hf_hub import go_offline_if_unreachable
from harness.data.text_files import (
    MAX_CSV_FIELD_CHARS,
    find_data_files,
    get_csv_dialect,
    read_json_objects,
    read_text_file,
)

PYDOC_SHUFFLE_SEED = 1337
MIN_PROSE_CHARS, MIN_ANSWER_CHARS = 20, 12  # shorter docstrings say nothing
PRIVATE_NAME = re.compile(r"(^|\.)_(?!.*__$)[^.]*$")  # last part of a dotted name: _private, but not __dunder__


@dataclass(frozen=True)
class Document:
    """A text to train on and a prompt before it. Only `text` is scored by the loss."""

    text: str
    prompt: str = ""


class Source(Protocol):
    """A collection of documents."""

    def fingerprint(self) -> str:
        """Return a digest of content and settings without reading the documents."""

    def iter_documents(self) -> Iterator[Document]:
        """Yield every document, in the same order each time."""


@runtime_checkable
class SplittableSource(Source, Protocol):
    """A source whose validation and test documents may be kept apart from those for training."""

    def open_held_out(self, place: str | Sequence[str], key: str) -> Source:
        """Return the source of the documents at `place`, read with the same settings; messages call it by its `key`."""


def format_qa_document(question: str, answer: str) -> Document:
    """Return a question as the prompt and its answer as the text.

    The space before the answer belongs to the text: tokenizers join it to the word that follows.
    """
    return Document(prompt=f"QUESTION: {question.strip()}\nANSWER:", text=f" {answer.strip()}")


@dataclass(frozen=True)
class PydocText:
    """Docstrings and help topics of the standard library: about 2 MB of technical English, no download."""

    def fingerprint(self) -> str:
        return compute_digest("prose", pydoc.compute_stdlib_digest())

    def iter_documents(self) -> Iterator[Document]:
        texts = [text for _, text in pydoc.read_docstrings()] + pydoc.read_help_topics()
        return _shuffle_unique(Document(text) for text in texts if len(text) >= MIN_PROSE_CHARS)


@dataclass(frozen=True)
class PydocQA:
    """Questions such as "What does `os.path.join` do?", answered by docstring summaries.

    All answers differ, so no validation answer is in the training set.
    """

    def fingerprint(self) -> str:
        return compute_digest("question-answer", pydoc.compute_stdlib_digest())

    def iter_documents(self) -> Iterator[Document]:
        public = [(name, text) for name, text in pydoc.read_docstrings() if not PRIVATE_NAME.search(name)]
        summaries = {" ".join(text.split("\n\n")[0].split()): name for name, text in reversed(public)}
        return _shuffle_unique(
            format_qa_document(f"What does `{name}` do?", summary)
            for summary, name in summaries.items()
            if len(summary) >= MIN_ANSWER_CHARS
        )


@dataclass(frozen=True)
class _FileSource:
    """Files named by `path`: a file, a folder, a glob, or a list of these; UTF-8, plain or .gz."""

    path: str | Sequence[str]

    SUFFIXES: ClassVar[tuple[str, ...]] = (".txt", ".md", ".markdown")  # read in a folder; .gz may follow

    def __post_init__(self) -> None:
        self.list_files()

    def list_files(self) -> list[Path]:
        return find_data_files(self.path, self.SUFFIXES)

    def fingerprint(self) -> str:
        settings = {**asdict(self), "path": None}  # moving a file does not change its fingerprint
        return compute_digest(type(self).__name__, settings, [compute_file_digest(path) for path in self.list_files()])

    def open_held_out(self, place: str | Sequence[str], key: str) -> Self:
        find_data_files(place, self.SUFFIXES, key)
        return replace(self, path=place)


@dataclass(frozen=True)
class TextFiles(_FileSource):
    """Plain text or markdown.

    Each file is one document, or several, separated by matches of the regular expression `split_on`.
    """

    split_on: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            re.compile(self.split_on or "")
        except re.error as error:
            raise ValueError(f"split_on={self.split_on!r} is not a regular expression: {error}") from error

    def iter_documents(self) -> Iterator[Document]:
        for path in self.list_files():
            text = read_text_file(path)
            parts = re.split(self.split_on, text, flags=re.MULTILINE) if self.split_on else [text]
            yield from (Document(part.strip()) for part in parts if part.strip())


@dataclass(frozen=True)
class Headlines(_FileSource):
    """One headline per line, or per row of `column` in a .csv or .tsv file with a header.

    Headlines are shuffled with `seed`; then the first `limit` are kept. Held-out files are kept whole.
    """

    column: str | None = None
    seed: int = 1337
    limit: int | None = None

    SUFFIXES = (".txt", ".csv", ".tsv")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit={self.limit} must be 1 or more, or null for all")

    def open_held_out(self, place: str | Sequence[str], key: str) -> Self:
        return replace(super().open_held_out(place, key), limit=None)

    def iter_documents(self) -> Iterator[Document]:
        headlines = [line.strip() for path in self.list_files() for line in self._read_titles(path) if line.strip()]
        random.Random(self.seed).shuffle(headlines)
        return map(Document, headlines[: self.limit])

    def _read_titles(self, path: Path) -> list[str]:
        text, dialect = read_text_file(path), get_csv_dialect(path)
        if dialect is None:
            return text.split("\n")
        csv.field_size_limit(MAX_CSV_FIELD_CHARS)
        table = csv.DictReader(io.StringIO(text, newline=""), **dialect)
        column = _check_column("column", self.column, table.fieldnames or [], f"{path} has the columns")
        return [row[column] or "" for row in table]


@dataclass(frozen=True)
class QAMarkdown(_FileSource):
    """Blocks of `QUESTION: ...` and `ANSWER: ...`, each at the start of a line. The question is the prompt."""

    def iter_documents(self) -> Iterator[Document]:
        for path in self.list_files():
            blocks = re.split(r"^QUESTION:", read_text_file(path), flags=re.MULTILINE)[1:]
            if not blocks:
                raise ValueError(f"path: {path} has no line that begins with QUESTION:; for plain text use data=text")
            for number, block in enumerate(blocks, 1):
                question, *answers = re.split(r"^ANSWER:", block, flags=re.MULTILINE)
                where = f"path: {path}, question {number} ({question.strip()[:40]!r})"
                if len(answers) != 1:
                    raise ValueError(f"{where} has {len(answers)} ANSWER: lines; it needs one")
                if not (question.strip() and answers[0].strip()):
                    raise ValueError(f"{where} has an empty question or answer; fill in both, or remove it")
                yield format_qa_document(question, answers[0])


@dataclass(frozen=True)
class JSONL(_FileSource):
    """One JSON object per line. The field `text` is scored; the field `prompt`, on a line before it, is not."""

    text: str = "text"
    prompt: str | None = None

    SUFFIXES = (".jsonl", ".ndjson")

    def iter_documents(self) -> Iterator[Document]:
        for path in self.list_files():
            yield from (_row_to_document(row, self, f"{where} has") for where, row in read_json_objects(path))


@dataclass(frozen=True)
class HuggingFace:
    """A data set of the Hub or of a local folder, read with the `datasets` library.

    The content of a Hub data set is assumed never to change.
    """

    path: str
    name: str | None = None
    split: str = "train"
    text: str = "text"
    prompt: str | None = None

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("path='' is empty; give a data set of the Hub or a folder")

    def fingerprint(self) -> str:
        local = Path(self.path).expanduser()
        files = sorted(path for path in local.rglob("*") if path.is_file()) if local.is_dir() else []
        settings = {**asdict(self), "path": None if files else self.path}
        return compute_digest("HuggingFace", settings, [compute_file_digest(path) for path in files])

    def open_held_out(self, place: str | Sequence[str], key: str) -> Self:
        """Return another split of the same data set, such as `validation`."""
        if not isinstance(place, str) or not place:
            raise ValueError(f"{key}={place!r} is not a split of the data set; name one, such as {key}={key}")
        return replace(self, split=place)

    def iter_documents(self) -> Iterator[Document]:
        return (_row_to_document(row, self, f"{self.path} has") for row in self.load_rows())

    def load_rows(self) -> Iterable[dict[str, Any]]:
        """Load the rows of the split.

        Raises:
            ValueError: If the data set does not load.
        """
        local = Path(self.path).expanduser()
        with self._explain_load_errors():
            datasets = self._import_datasets()
            if (local / "dataset_dict.json").exists():
                return datasets.load_from_disk(str(local / self.split))
            if (local / "state.json").exists():
                return datasets.load_from_disk(str(local))
            return datasets.load_dataset(str(local) if local.exists() else self.path, self.name, split=self.split)

    def list_configs(self) -> list[str]:
        """Return the names of the data set's configurations.

        Raises:
            ValueError: If the data set does not load.
        """
        with self._explain_load_errors():
            return self._import_datasets().get_dataset_config_names(self.path)

    def _import_datasets(self) -> Any:
        if not Path(self.path).expanduser().exists():
            go_offline_if_unreachable()
        import datasets  # only now: it reads the offline setting once, at import

        return datasets

    @contextmanager
    def _explain_load_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).split("\n")[0]
            raise ValueError(
                f"path={self.path!r} (name={self.name!r}, split={self.split!r}) does not load: {reason}; "
                "check all three; offline, give a local folder"
            ) from error


def _shuffle_unique(documents: Iterable[Document]) -> Iterator[Document]:
    """Remove duplicates and shuffle, so that a split by position is a random split."""
    unique = list(dict.fromkeys(documents))
    random.Random(PYDOC_SHUFFLE_SEED).shuffle(unique)
    return iter(unique)


def _row_to_document(row: dict[str, Any], names: JSONL | HuggingFace, where: str) -> Document:
    def get_field(parameter: str) -> str:
        name = _check_column(parameter, getattr(names, parameter), list(row), where)
        value = row[name]
        if not isinstance(value, str):
            raise ValueError(f"{parameter}={name!r}: {where} {type(value).__name__} there, not text")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            surrogate = f"a lone surrogate there, {value[error.start]!a}; plateau clean drops such rows"
            raise ValueError(f"{parameter}={name!r}: {where} {surrogate}") from error
        return value

    return Document(get_field("text"), f"{get_field('prompt').rstrip()}\n" if names.prompt else "")


def _check_column(parameter: str, name: str | None, available: Iterable[str], where: str) -> str:
    if name is None or name not in available:
        names = list(available)
        example = f", such as data.source.{parameter}={names[0]}" if names else ""
        raise ValueError(f"{parameter}={name!r}: {where} {', '.join(names)}; choose one{example}")
    return name
