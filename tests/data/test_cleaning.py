"""Dropped and repaired segments in each file format; cleaning twice changes nothing."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from harness.data.cleaning import clean_text, split_segments
from harness.data.sources import JSONL, Headlines, PydocText, QAMarkdown, TextFiles

WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "a",
    "is",
    "that",
    "for",
    "it",
    "was",
    "on",
    "are",
    "as",
    "with",
    "his",
    "they",
]
BROKEN, MISREAD = "caf\ufffd noir", "CafÃ© au lait"


def make_prose(words: int, seed: int = 0) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def write_source(kind: type, folder: Path, content: str, name: str = "file.txt", **settings: Any) -> Any:
    file = folder / name
    file.write_text(content)
    return kind(str(file), **settings)


def make_jsonl(*texts: str) -> str:
    return "".join(json.dumps({"id": number, "text": text}) + "\n" for number, text in enumerate(texts))


def make_qa_blocks(*texts: str) -> str:
    return "".join(f"QUESTION: {text}?\n\nANSWER: {text}.\n\n" for text in texts)


GOOD, COPY = "A good one", "A good one"
FORMATS = {
    "jsonl": (JSONL, "file.jsonl", make_jsonl, {}),
    "questions": (QAMarkdown, "file.md", lambda *texts: "# Questions\n\n" + make_qa_blocks(*texts), {}),
    "lines": (Headlines, "file.txt", lambda *texts: "".join(f"{text}\n" for text in texts), {}),
    "csv": (
        Headlines,
        "file.csv",
        lambda *texts: "n,title\n" + "".join(f'1,"{t}"\n' for t in texts),
        {"column": "title"},
    ),
    "tsv": (
        Headlines,
        "file.tsv",
        lambda *texts: "n\ttitle\n" + "".join(f"1\t{t}\n" for t in texts),
        {"column": "title"},
    ),
    "passages": (TextFiles, "file.txt", lambda *texts: "\n\n".join(texts), {"split_on": r"\n\n"}),
}


@pytest.mark.parametrize("name", FORMATS)
def test_clean_text_drops_and_repairs_in_every_format(name: str, tmp_path: Path) -> None:
    kind, file, write, settings = FORMATS[name]
    made = write_source(kind, tmp_path, write("placeholder"), file, **settings)
    kept, changes = clean_text(made, write(GOOD, BROKEN, "Another", COPY, MISREAD, "Last"))
    actions = sorted((change.action, change.reason) for change in changes)
    assert actions == [("dropped", "broken encoding"), ("dropped", "duplicate"), ("repaired", "broken encoding")]
    (tmp_path / file).write_text(kept)
    read = [document.prompt + document.text for document in made.iter_documents()]
    assert len(read) == 4
    assert sum("Café au lait" in text for text in read) == 1
    assert clean_text(made, kept) == (kept, [])


@pytest.mark.parametrize("name", FORMATS)
def test_sound_file_is_unchanged(name: str, tmp_path: Path) -> None:
    kind, file, write, settings = FORMATS[name]
    text = write("One", "Two – “three”", "日本語 🙂", "Four")
    assert clean_text(write_source(kind, tmp_path, text, file, **settings), text) == (text, [])


@pytest.mark.parametrize("name", FORMATS)
def test_segments_join_to_the_file(name: str, tmp_path: Path) -> None:
    kind, file, write, settings = FORMATS[name]
    text = write(GOOD, BROKEN, "", MISREAD, COPY)
    made = write_source(kind, tmp_path, text, file, **settings)
    segments = list(split_segments(made, text))
    assert "".join(segment.raw for segment in segments) == text
    [broken] = [segment for segment in segments if "\ufffd" in (segment.text or "")]
    assert text.split("\n")[broken.line - 1].strip().startswith(broken.raw.strip().split("\n")[0])


def test_qa_block_without_exactly_one_answer_is_dropped(tmp_path: Path) -> None:
    text = (
        make_qa_blocks("One", "Two") + "QUESTION: none\n\nQUESTION: two\nANSWER: a\nANSWER: b\n\nQUESTION:\nANSWER: x\n"
    )
    made = write_source(QAMarkdown, tmp_path, text)
    kept, changes = clean_text(made, text)
    assert [change.reason for change in changes] == ["0 ANSWER: lines", "2 ANSWER: lines", "empty"]
    assert [change.line for change in changes] == [9, 11, 15]
    Path(made.path).write_text(kept)
    assert len(list(made.iter_documents())) == 2


def test_json_lines_without_text_are_dropped(tmp_path: Path) -> None:
    text = make_jsonl("One", "Two", " ") + '{"id": 7}\nnot json\n[1]\n{"text": 5}\n'
    kept, changes = clean_text(write_source(JSONL, tmp_path, text, "file.jsonl"), text)
    assert kept == make_jsonl("One", "Two")
    assert [change.line for change in changes] == [3, 4, 5, 6, 7]
    assert [change.reason for change in changes] == [
        "empty", "no field 'text'", "not JSON", "not a JSON object but list", "field 'text' is no text but int"
    ]  # fmt: skip


def test_same_answer_to_another_prompt_is_not_a_duplicate(tmp_path: Path) -> None:
    text = "".join(json.dumps({"q": question, "a": "yes"}) + "\n" for question in ("Is it?", "Was it?", "Is it?"))
    _, [change] = clean_text(write_source(JSONL, tmp_path, text, "f.jsonl", text="a", prompt="q"), text)
    assert (change.line, change.reason) == (3, "duplicate")


def test_json_line_is_rewritten_only_if_repaired(tmp_path: Path) -> None:
    text = '{"text": "Caf\\u00c3\\u00a9", "n": 1}\n{"text":   "spaced \\u00e9"}\n'
    kept, [change] = clean_text(write_source(JSONL, tmp_path, text, "f.jsonl"), text)
    assert kept.splitlines() == ['{"text": "Café", "n": 1}', '{"text":   "spaced \\u00e9"}']
    assert (change.line, change.action) == (1, "repaired")


@pytest.mark.parametrize("odd", ["ha " * 1300, "\n".join(f"{n * 7919 % 99991:05d}{n:08b}$#%" for n in range(300))])
def test_outlier_document_is_dropped(odd: str, tmp_path: Path) -> None:
    texts = [make_prose(300, seed) for seed in range(40)]
    made = write_source(TextFiles, tmp_path, "x", split_on=r"\n\n")
    kept, [change] = clean_text(made, "\n\n".join([*texts[:20], odd, *texts[20:]]))
    assert change.reason.startswith("outlier: ")
    assert (change.line, kept) == (41, "\n\n".join(texts))
    assert clean_text(made, kept) == (kept, [])


def test_outlier_lines_of_one_long_text_are_dropped(tmp_path: Path) -> None:
    lines = [make_prose(12, seed % 50) + "\n" for seed in range(3000)]
    noise = [f"{number * 104729 % 1000003} $#% {number:b} ^~|\n" for number in range(200)]
    made = write_source(TextFiles, tmp_path, "x")
    kept, changes = clean_text(made, "".join([*lines[:1500], *noise, *lines[1500:]]))
    assert changes
    assert {change.reason.partition(":")[0] for change in changes} == {"outlier"}
    left = kept.splitlines(keepends=True)
    assert sum(line in left for line in noise) < 30
    assert len([line for line in left if line in lines]) > 2970
    assert clean_text(made, kept) == (kept, [])


def test_source_without_text_file_is_rejected() -> None:
    with pytest.raises(ValueError, match="PydocText does not read text files"):
        clean_text(PydocText(), "text")


def test_lone_surrogate_is_broken_encoding(tmp_path: Path) -> None:
    lines = [r'{"text": "A good one"}', r'{"text": "half \ud83d of one"}', r'{"id": "\ud83d", "text": "CafÃ© au lait"}']
    content = "".join(f"{line}\n" for line in lines)
    after, changes = clean_text(write_source(JSONL, tmp_path, content, "file.jsonl"), content)
    assert [(change.line, change.action, change.reason) for change in changes] == [
        (2, "dropped", "broken encoding"),
        (3, "repaired", "broken encoding"),
    ]
    assert after.encode().isascii()
    assert [json.loads(line)["text"] for line in after.splitlines()] == ["A good one", "Café au lait"]


def test_long_csv_field_is_kept(tmp_path: Path) -> None:
    content = f"title\n{make_prose(40_000)}\n"
    assert clean_text(write_source(Headlines, tmp_path, content, "file.csv", column="title"), content) == (content, [])
