"""Where documents come from. Each source has a digest that costs little and yields its documents in a fixed order."""

import csv
import glob
import gzip
import io
import json
import random
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from harness.data import pydoc
from harness.data.cache import compute_digest, compute_file_digest
from harness.data.hf_hub import go_offline_if_unreachable

PYDOC_SHUFFLE_SEED = 1337
MIN_PROSE_CHARS, MIN_ANSWER_CHARS = 20, 12
"""In characters: below these a docstring says nothing."""
MAX_CSV_FIELD_CHARS = 2**31 - 1  # characters of a .csv; the csv module takes 131,072 unless told
PRIVATE_NAME = re.compile(r"(^|\.)_(?!.*__$)[^.]*$")
"""A dotted name whose last part begins with an underscore and is no `__dunder__`."""


@dataclass(frozen=True)
class Document:
    """`text` is learned and scored; `prompt` stands before it and counts in no loss."""

    text: str
    prompt: str = ""


class Source(Protocol):
    def fingerprint(self) -> str:
        """A digest of the content and the settings, without reading documents."""

    def iter_documents(self) -> Iterator[Document]:
        """Every document, in the same order each time."""


def format_qa_document(question: str, answer: str) -> Document:
    """The space before the answer is the answer's, because a tokenizer joins it to the word that follows."""
    return Document(prompt=f"QUESTION: {question.strip()}\nANSWER:", text=f" {answer.strip()}")


@dataclass(frozen=True)
class PydocText:
    """The standard library's docstrings and help topics: about 2 MB of technical English, no download."""

    def fingerprint(self) -> str:
        return compute_digest("prose", pydoc.compute_stdlib_digest())

    def iter_documents(self) -> Iterator[Document]:
        texts = [text for _, text in pydoc.read_docstrings()] + pydoc.read_help_topics()
        return _shuffle_unique(Document(text) for text in texts if len(text) >= MIN_PROSE_CHARS)


@dataclass(frozen=True)
class PydocQA:
    """What does `os.path.join` do? Its summary. No two answers are equal, so none is both learned and held out."""

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
    """`path`: a file, a folder or a glob, each file plain or .gz, in UTF-8."""

    path: str

    SUFFIXES: ClassVar[tuple[str, ...]] = (".txt", ".md", ".markdown")
    """Of the files to read in a folder; .gz may follow."""

    def __post_init__(self) -> None:
        self.list_files()

    def list_files(self) -> list[Path]:
        return find_data_files(self.path, self.SUFFIXES)

    def fingerprint(self) -> str:
        """Content and settings: moved files keep their digest."""
        settings = {**asdict(self), "path": None}
        return compute_digest(type(self).__name__, settings, [compute_file_digest(path) for path in self.list_files()])


@dataclass(frozen=True)
class TextFiles(_FileSource):
    """Plain text or markdown: a document a file, or a document between each two matches of the regular expression
    `split_on`."""

    split_on: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            re.compile(self.split_on or "")
        except re.error as error:
            raise ValueError(f"split_on={self.split_on!r} is no regular expression: {error}") from error

    def iter_documents(self) -> Iterator[Document]:
        for path in self.list_files():
            text = read_text_file(path)
            pieces = re.split(self.split_on, text, flags=re.MULTILINE) if self.split_on else [text]
            yield from (Document(piece.strip()) for piece in pieces if piece.strip())


@dataclass(frozen=True)
class Headlines(_FileSource):
    """One headline a line, or the column `column` of a .csv or .tsv with a header; shuffled by `seed`, then the first
    `limit`."""

    column: str | None = None
    seed: int = 1337
    limit: int | None = None

    SUFFIXES = (".txt", ".csv", ".tsv")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit={self.limit} leaves no headline; use 1 or more, or null for all")

    def iter_documents(self) -> Iterator[Document]:
        headlines = [line.strip() for path in self.list_files() for line in self._read_titles(path) if line.strip()]
        random.Random(self.seed).shuffle(headlines)
        return map(Document, headlines[: self.limit])

    def _read_titles(self, path: Path) -> list[str]:
        text, kind = read_text_file(path), Path(path.name.removesuffix(".gz")).suffix
        if kind not in (".csv", ".tsv"):
            return text.split("\n")
        dialect = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if kind == ".tsv" else {}
        csv.field_size_limit(MAX_CSV_FIELD_CHARS)
        table = csv.DictReader(io.StringIO(text, newline=""), **dialect)
        _check_column("column", self.column, table.fieldnames or [], f"{path} has the columns")
        return [row[self.column] or "" for row in table]


@dataclass(frozen=True)
class QAMarkdown(_FileSource):
    """Blocks of `QUESTION: ...` and `ANSWER: ...`, each at the start of a line; the question is the prompt."""

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
                    raise ValueError(f"{where} is empty or its answer is; write both, or leave it out")
                yield format_qa_document(question, answers[0])


@dataclass(frozen=True)
class JSONL(_FileSource):
    """An object a line: its field `text` is scored; its field `prompt`, on a line of its own before it, is not."""

    text: str = "text"
    prompt: str | None = None

    SUFFIXES = (".jsonl", ".ndjson")

    def iter_documents(self) -> Iterator[Document]:
        for path in self.list_files():
            yield from (_row_to_document(row, self, f"{where} has") for where, row in read_json_objects(path))


@dataclass(frozen=True)
class HuggingFace:
    """A data set of the Hub, or a local folder, by the `datasets` library; a Hub data set is taken never to change."""

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

    def iter_documents(self) -> Iterator[Document]:
        return (_row_to_document(row, self, f"{self.path} has") for row in self.load_rows())

    def load_rows(self) -> Iterable[dict[str, Any]]:
        """As they are; ValueError where they do not load."""
        local = Path(self.path).expanduser()
        with self._explain_load_errors():
            datasets = self._import_datasets()
            if (local / "dataset_dict.json").exists():
                return datasets.load_from_disk(str(local / self.split))
            if (local / "state.json").exists():
                return datasets.load_from_disk(str(local))
            return datasets.load_dataset(str(local) if local.exists() else self.path, self.name, split=self.split)

    def list_configs(self) -> list[str]:
        """The configurations there are; ValueError where nobody can tell."""
        with self._explain_load_errors():
            return self._import_datasets().get_dataset_config_names(self.path)

    def _import_datasets(self) -> Any:
        if not Path(self.path).expanduser().exists():
            go_offline_if_unreachable()
        import datasets  # after the Hub was asked, for it reads once, at import, whether it is offline

        return datasets

    @contextmanager
    def _explain_load_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).split("\n")[0]
            raise ValueError(
                f"path={self.path!r} (name={self.name!r}, split={self.split!r}) does not load: {reason}; "
                "check the three, and offline give a local folder"
            ) from error


def _shuffle_unique(documents: Iterable[Document]) -> Iterator[Document]:
    """Without duplicates, in an order in which a split by position is fair."""
    unique = list(dict.fromkeys(documents))
    random.Random(PYDOC_SHUFFLE_SEED).shuffle(unique)
    return iter(unique)


def _row_to_document(row: dict[str, Any], names: JSONL | HuggingFace, where: str) -> Document:
    def field(parameter: str) -> str:
        name = getattr(names, parameter)
        _check_column(parameter, name, list(row), where)
        if not isinstance(row[name], str):
            raise ValueError(f"{parameter}={name!r}: {where} {type(row[name]).__name__} there, not text")
        try:
            row[name].encode()
        except UnicodeEncodeError as error:
            half = f"half a character there, {row[name][error.start]!a}; python -m harness clean drops it"
            raise ValueError(f"{parameter}={name!r}: {where} {half}") from error
        return row[name]

    return Document(field("text"), f"{field('prompt').rstrip()}\n" if names.prompt else "")


def read_json_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and line, the JSON object there) of each line that is not blank; ValueError for one that holds none."""
    for number, line in enumerate(read_text_file(path).split("\n"), 1):
        if line.strip():
            yield (where := f"{path}, line {number}"), _parse_json_object(line, where)


def _parse_json_object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"path: {where} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"path: {where} is not a JSON object but {type(row).__name__}")
    return row


def _check_column(parameter: str, name: str | None, available: Iterable[str], where: str) -> None:
    if name not in available:
        raise ValueError(f"{parameter}={name!r}: {where} {', '.join(available)}; choose one")


def find_data_files(path: str, suffixes: tuple[str, ...]) -> list[Path]:
    """The files that `path` names, sorted; FileNotFoundError where there are none, ValueError where some are empty."""
    if not path:  # which would be the working directory
        raise ValueError("path='' is empty; give a file, a folder or a glob")
    place = Path(path).expanduser()
    if place.is_dir():
        found = [file for file in place.rglob("*") if file.name.removesuffix(".gz").endswith(suffixes)]
    else:
        found = [place] if place.is_file() else [Path(match) for match in glob.glob(str(place), recursive=True)]
    found = sorted(file for file in found if file.is_file())
    if not found:
        kind = f"holds no {', '.join(suffixes)} file" if place.is_dir() else "does not exist"
        raise FileNotFoundError(f"path={path!r} {kind}; give a file, a folder or a glob")
    if empty := [str(file) for file in found if not file.stat().st_size]:
        raise ValueError(f"path={path!r}: empty: {', '.join(empty)}")
    return found


def read_text_file(path: Path) -> str:
    """The file's text with Unix line ends; ValueError where it is not UTF-8 or not a whole gzip file."""
    content = path.read_bytes()
    try:
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ValueError(
            f"path: {path} is not UTF-8: byte 0x{byte:02X} at offset {error.start}; "
            "convert it, for example with iconv -f latin1 -t utf-8"
        ) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"path: {path} is not a whole gzip file: {error}") from error
    return text.removeprefix("\ufeff").replace("\r\n", "\n")
