"""Documents of each source, their order, fingerprints, and one-line errors for invalid files."""

import csv
import gzip
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.data.sources import (
    JSONL,
    Document,
    Headlines,
    HuggingFace,
    PydocQA,
    PydocText,
    QAMarkdown,
    Source,
    TextFiles,
)

SHARED = Path(os.environ.get("HARNESS_DATA") or Path(__file__).parents[3] / "shared" / "data")
TITLES = [f"Title {number}" for number in range(50)]


def find_shared_data(name: str) -> str:
    if not (SHARED / name).exists():
        pytest.skip(f"NOT TESTED on real data: {SHARED / name} is absent; set HARNESS_DATA to its folder")
    return str(SHARED / name)


def write_file(folder: Path, name: str, content: str | bytes) -> str:
    raw = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return str(folder / name)


def read_texts(source: Source) -> list[str]:
    return [document.text for document in source.iter_documents()]


def test_pydoc_text_has_no_duplicates() -> None:
    prose = read_texts(PydocText())
    assert len(prose) > 5000
    assert sum(map(len, prose)) > 1_000_000
    assert len(set(prose)) == len(prose)


def test_pydoc_qa_answers_with_summaries() -> None:
    answers = {document.prompt: document.text for document in PydocQA().iter_documents()}
    assert len(answers) > 5000
    assert " Join two or more pathname" in answers["QUESTION: What does `os.path.join` do?\nANSWER:"]
    assert len(set(answers.values())) == len(answers)
    names = [prompt.split("`")[1].split(".")[-1] for prompt in answers]
    assert not [name for name in names if name.startswith("_") and not name.endswith("__")]


def test_pydoc_order_is_the_same_in_another_process() -> None:
    code = "from harness.data.sources import PydocQA; import hashlib; print(PydocQA().fingerprint(), hashlib.sha256("
    code += "repr(list(PydocQA().iter_documents())).encode()).hexdigest())"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    completed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    here = hashlib.sha256(repr(list(PydocQA().iter_documents())).encode()).hexdigest()
    assert completed.stdout.split() == [PydocQA().fingerprint(), here]


def test_text_files_split_on_pattern(tmp_path: Path) -> None:
    path = write_file(tmp_path, "a.txt", "\ufeffone\r\nline\r\n\r\n \r\ntwo\n= = = Title = = =\nthree")
    assert read_texts(TextFiles(path)) == ["one\nline\n\n \ntwo\n= = = Title = = =\nthree"]
    assert read_texts(TextFiles(path, r"\n\s*\n")) == ["one\nline", "two\n= = = Title = = =\nthree"]
    assert read_texts(TextFiles(path, "^= = = .* = = =$")) == ["one\nline\n\n \ntwo", "three"]


def test_folders_and_globs_read_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    for name in ("b.txt", "a.md.gz", "inner/c.markdown", "weights.bin"):
        write_file(tmp_path, name, name)
    assert read_texts(TextFiles(str(tmp_path))) == ["a.md.gz", "b.txt", "inner/c.markdown"]
    assert read_texts(TextFiles(f"{tmp_path}/*.txt")) == ["b.txt"]


@pytest.mark.parametrize("name", ["t.txt", "t.txt.gz", "t.csv", "t.tsv.gz"])
def test_headlines_are_shuffled_by_seed(tmp_path: Path, name: str) -> None:
    mark = {"csv": ",", "tsv": "\t"}.get(name.split(".")[1])
    rows = [f"{number}{mark}{title}" for number, title in enumerate(TITLES)]
    lines = [f"id{mark}title", *rows] if mark else TITLES
    path, column = write_file(tmp_path, name, "\n".join(lines) + "\n"), "title" if mark else None
    shuffled = read_texts(Headlines(path, column))
    assert sorted(shuffled) == sorted(TITLES)
    assert shuffled != TITLES
    assert read_texts(Headlines(path, column)) == shuffled
    assert read_texts(Headlines(path, column, seed=1)) != shuffled
    assert read_texts(Headlines(path, column, limit=7)) == shuffled[:7]


def test_csv_and_tsv_quoting(tmp_path: Path) -> None:
    with (tmp_path / "t.csv").open("w", newline="") as table:
        csv.writer(table).writerows([["title"], ['The new "Star Wars", again']])
    assert read_texts(Headlines(f"{tmp_path}/t.csv", "title")) == ['The new "Star Wars", again']
    assert read_texts(Headlines(write_file(tmp_path, "t.tsv", 'n\ttitle\n1\tThe 3.5" disk\n'), "title")) == [
        'The 3.5" disk'
    ]


def test_qa_markdown_questions_are_prompts(tmp_path: Path) -> None:
    path = write_file(
        tmp_path, "qa.md", "# Title\n\nQUESTION: a?\n\nANSWER: b\nc\n\nQUESTION: d?\nANSWER: QUESTION: e\n"
    )
    assert list(QAMarkdown(path).iter_documents()) == [
        Document(prompt="QUESTION: a?\nANSWER:", text=" b\nc"),
        Document(prompt="QUESTION: d?\nANSWER:", text=" QUESTION: e"),
    ]


def test_jsonl_text_and_prompt_fields(tmp_path: Path) -> None:
    rows = [{"q": "why?", "a": "because\u2028so"}, {"q": "how?", "a": "thus"}]
    path = write_file(
        tmp_path, "rows.jsonl.gz", "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n"
    )
    assert read_texts(JSONL(path, text="a")) == ["because\u2028so", "thus"]
    assert next(JSONL(path, text="a", prompt="q").iter_documents()) == Document("because\u2028so", "why?\n")


def test_hugging_face_local_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "rows").mkdir()
    write_file(tmp_path / "rows", "train.jsonl", '{"text": "one", "q": "1?"}\n{"text": "two", "q": "2?"}\n')
    assert read_texts(HuggingFace(f"{tmp_path}/rows")) == ["one", "two"]
    datasets.Dataset.from_list([{"body": "three", "q": "3?"}]).save_to_disk(tmp_path / "saved")
    saved = HuggingFace(f"{tmp_path}/saved", text="body", prompt="q")
    assert list(saved.iter_documents()) == [Document("three", "3?\n")]
    assert saved.fingerprint() != HuggingFace(f"{tmp_path}/rows", text="body", prompt="q").fingerprint()


def test_unreachable_hub_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(pytest.importorskip("datasets").config, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"path='no-one/nothing'.*offline, give a local folder"):
        list(HuggingFace("no-one/nothing").iter_documents())
    assert constants.HF_HUB_OFFLINE


def test_fingerprint_depends_on_content_and_settings_not_path(tmp_path: Path) -> None:
    first, second = (write_file(tmp_path, name, "same") for name in ("a.txt", "b.txt"))
    other = write_file(tmp_path, "c.txt", "other")
    assert TextFiles(first).fingerprint() == TextFiles(second).fingerprint()
    assert TextFiles(first).fingerprint() != TextFiles(other).fingerprint()
    assert TextFiles(first).fingerprint() != TextFiles(first, "x").fingerprint()
    assert TextFiles(first).fingerprint() != Headlines(first).fingerprint()


BAD: dict[str, tuple[Callable[[str], Source], str, str | bytes | None, str]] = {
    "missing": (TextFiles, "a.txt", None, "path='.*a.txt' does not exist"),
    "no match": (lambda path: TextFiles(path + "*.md"), "a.txt", "x", "does not exist; give a file, a folder or"),
    "folder without text": (lambda path: TextFiles(str(Path(path).parent)), "a.bin", "x", "holds no .txt, .md"),
    "empty": (TextFiles, "a.txt", "", "a.txt is empty; give files with content"),
    "latin-1": (TextFiles, "a.txt", "caf\xe9 au lait".encode("latin-1"), "not UTF-8: byte 0xE9 at offset 3; convert"),
    "no gzip": (TextFiles, "a.txt", "x", "not a complete gzip file"),
    "pattern": (lambda path: TextFiles(path, "("), "a.txt", "x", r"split_on='\(' is not a regular expression"),
    "no column": (Headlines, "a.csv", "id,title\n1,x\n", "column=None: .*has the columns id, title; choose one"),
    "no limit": (lambda path: Headlines(path, limit=0), "a.txt", "x", "limit=0 must be 1 or more"),
    "no question": (QAMarkdown, "a.md", "prose", "no line that begins with QUESTION:"),
    "no answer": (QAMarkdown, "a.md", "QUESTION: a?\nANSWER: b\nQUESTION: c?\n", r"question 2 \('c\?'\) has 0 ANSWER:"),
    "two answers": (QAMarkdown, "a.md", "QUESTION: a?\nANSWER: b\nANSWER: c", r"question 1 \('a\?'\) has 2 ANSWER:"),
    "empty answer": (
        QAMarkdown,
        "a.md",
        "QUESTION: a?\nANSWER: \n",
        r"question 1 \('a\?'\) has an empty question or answer",
    ),
    "empty question": (QAMarkdown, "a.md", "QUESTION:\nANSWER: b\n", r"question 1 \(''\) has an empty"),
    "no JSON": (JSONL, "a.jsonl", '{"text": "x"}\n{"text"', "line 2 is not JSON"),
    "no object": (JSONL, "a.jsonl", "[1]", "line 1 is not a JSON object but list"),
    "no field": (JSONL, "a.jsonl", '{"body": "x", "id": 1}', "text='text': .*line 1 has body, id; choose one"),
    "no text": (JSONL, "a.jsonl", '{"text": 1}', "text='text': .*line 1 has int there, not text"),
}


@pytest.mark.parametrize(("build", "name", "content", "message"), BAD.values(), ids=BAD)
def test_invalid_file_error_is_one_line(
    tmp_path: Path, build: Callable[[str], Source], name: str, content: str | bytes | None, message: str
) -> None:
    path = str(tmp_path / name) if content is None else write_file(tmp_path, name, content)
    if message == "not a complete gzip file":
        path = str(Path(path).rename(f"{path}.gz"))
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        list(build(path).iter_documents())
    assert "\n" not in str(caught.value)


def test_long_csv_field_is_read(tmp_path: Path) -> None:
    assert [
        len(text) for text in read_texts(Headlines(write_file(tmp_path, "a.csv", f"title\n{'a' * 200_000}\n"), "title"))
    ] == [200_000]


def test_lone_surrogate_error_names_line(tmp_path: Path) -> None:
    path = write_file(tmp_path, "a.jsonl", '{"text": "whole"}\n{"text": "half \\ud83d"}\n')
    with pytest.raises(ValueError, match=r"a.jsonl, line 2 has a lone surrogate there, '\\ud83d'"):
        list(JSONL(path).iter_documents())


@pytest.mark.parametrize("source", [TextFiles, JSONL, HuggingFace])
def test_empty_path_is_rejected(source: type) -> None:
    with pytest.raises(ValueError, match="path='' is empty"):
        source("")


def test_all_empty_files_are_named(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "c.txt"):
        write_file(tmp_path, name, "" if name != "b.txt" else "x")
    with pytest.raises(ValueError, match=r"a.txt, .*c.txt"):
        TextFiles(str(tmp_path))


def test_shared_data_sizes() -> None:
    assert len(read_texts(QAMarkdown(find_shared_data("gsm8k/qa_train.md.gz")))) == 7473
    assert len(read_texts(JSONL(find_shared_data("gsm8k/test.jsonl.gz"), text="answer", prompt="question"))) == 1319
    assert len(read_texts(Headlines(find_shared_data("headlines_clickbait/headlines.csv.gz"), "headline"))) == 32000
    assert (
        len(read_texts(Headlines(find_shared_data("hn_titles_gpt2_synthetic/titles.tsv.gz"), "title", limit=100_000)))
        == 100_000
    )
    assert (
        len(read_texts(TextFiles(find_shared_data("gutenberg_children/gutenberg_children.txt.gz"), "^= = = .* = = =$")))
        == 33
    )
