"""plateau clean: the copy, the list of changes, and invalid input."""

import gzip
import json
from pathlib import Path

import pytest

from harness import cli

ROWS = [*({"text": f"Text number {number}"} for number in range(5)), {"text": "Text number 3"}, {"text": "It\ufffds"}]


@pytest.fixture
def original(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the file to clean into the current folder, so that overrides are the same in every test."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


def run_clean(file: Path, to: Path, *more: str) -> int:
    return cli.main(["clean", "data=jsonl", f"data.source.path={file.name}", "--to", str(to), *more])


def test_clean_writes_copy_and_changes(original: Path, capsys) -> None:
    before, to = original.read_bytes(), original.with_name("cleaned.jsonl")
    assert run_clean(original, to) == 0
    assert [json.loads(line) for line in to.read_text().splitlines()] == ROWS[:5]
    assert original.read_bytes() == before
    rows = [line.split("\t") for line in to.with_name("cleaned.jsonl.changes").read_text().splitlines()]
    assert rows[0] == ["line", "action", "reason", "excerpt"]
    assert [row[:3] for row in rows[1:]] == [["6", "dropped", "duplicate"], ["7", "dropped", "broken encoding"]]
    output = capsys.readouterr().out
    assert "1  dropped  duplicate" in output
    assert sorted(path.name for path in original.parent.iterdir()) == [
        "cleaned.jsonl",
        "cleaned.jsonl.changes",
        "rows.jsonl",
    ]


def test_cleaning_twice_changes_nothing(original: Path, capsys) -> None:
    to, again = original.with_name("cleaned.jsonl"), original.with_name("again.jsonl")
    run_clean(original, to)
    assert run_clean(to, again) == 0
    assert again.read_bytes() == to.read_bytes()
    assert "no changes" in capsys.readouterr().out


def test_line_ends_and_a_byte_order_mark_are_changed_and_said(original: Path, capsys) -> None:
    to = original.with_name("cleaned.jsonl")
    original.write_bytes(b"\xef\xbb\xbf" + b"".join(json.dumps(row).encode() + b"\r\n" for row in ROWS[:5]))
    assert run_clean(original, to) == 0
    assert to.read_bytes() == "".join(json.dumps(row) + "\n" for row in ROWS[:5]).encode()
    output = capsys.readouterr().out
    assert "5  replaced CRLF by LF" in output
    assert "1  removed  byte order mark" in output
    rows = [line.split("\t")[:3] for line in to.with_name("cleaned.jsonl.changes").read_text().splitlines()]
    assert rows[1:] == [["1", "removed", "byte order mark"], ["1", "replaced", "CRLF by LF: 5 line ends"]]


def test_single_rows_without_the_field_are_dropped_with_the_reason(original: Path, capsys) -> None:
    to = original.with_name("cleaned.jsonl")
    more = [{"body": "elsewhere"}, {"text": ["a", "list"]}, "no object"]
    original.write_text("".join(json.dumps(row) + "\n" for row in ROWS[:5] + more))
    assert run_clean(original, to) == 0
    output = capsys.readouterr().out
    for reason in ("no field 'text'", "field 'text' is no text but list", "not a JSON object but str"):
        assert f"1  dropped  {reason}" in output


def test_gz_copy_is_compressed(original: Path) -> None:
    to = original.with_name("cleaned.jsonl.gz")
    assert run_clean(original, to) == 0
    assert len(gzip.decompress(to.read_bytes()).splitlines()) == 5


def test_existing_file_needs_force(original: Path, capsys) -> None:
    to = original.with_name("cleaned.jsonl")
    to.write_text("mine")
    assert run_clean(original, to) == 2
    assert "exists; name another file, or overwrite it with --force" in capsys.readouterr().err
    assert to.read_text() == "mine"
    assert run_clean(original, to, "--force") == 0
    assert to.read_text() != "mine"


@pytest.mark.parametrize("name", ["rows.jsonl", "link.jsonl"])
def test_original_is_never_overwritten(name: str, original: Path, capsys) -> None:
    (original.parent / "link.jsonl").symlink_to(original)
    before = original.read_bytes()
    assert run_clean(original, original.parent / name, "--force") == 2
    assert "is the original file; name another one" in capsys.readouterr().err
    assert original.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data=pydoc_text"], "data: clean needs a text file"),
        (["experiment=operator"], "data: clean needs a text file"),
        (["data=jsonl"], "data.source.path: has no value"),
        (["data=text", "data.source.path="], "data.source.path: has no value"),
        (["data=huggingface", "data.source.path=/nowhere"], "HuggingFace reads something else"),
        (["data=jsonl", "data.source.path=/nowhere.jsonl"], "path='/nowhere.jsonl' does not exist"),
        (["data=text", "data.source.path={folder}"], "names 2 files; clean takes one at a time"),
        (["data=qa_markdown", "data.source.path={folder}/a.txt"], "no line begins with QUESTION:"),
        (["data=text", "data.source.path={folder}/latin1.dat"], "is not UTF-8"),
        (["data=jsonl", "data.source.path={folder}/a.txt"], "a.txt: line 1: not JSON; write an object on each line"),
        (
            ["data=text", "data.source.path={folder}/wide.dat"],
            "is UTF-16 text, not UTF-8; convert it: iconv",
        ),
        (
            ["data=jsonl", "data.source.path={folder}/rows.dat"],
            "line 1: no field 'text'; its fields are id, body, note; choose one, such as data.source.text=body",
        ),
        (
            ["data=jsonl", "data.source.path={folder}/array.dat"],
            "one JSON array, not one on each line; jq -c '.[]' ",
        ),
    ],
)
def test_invalid_input_writes_nothing(arguments: list[str], message: str, tmp_path: Path, capsys) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("Some text\n")
    (tmp_path / "latin1.dat").write_bytes(b"caf\xe9")
    (tmp_path / "wide.dat").write_bytes("Some text\n".encode("utf-16"))
    rows = [{"id": 7, "body": f"The text of row {number}", "note": "short"} for number in range(3)]
    (tmp_path / "rows.dat").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "array.dat").write_text(json.dumps(rows, indent=1))
    before = sorted(tmp_path.iterdir())
    arguments = [argument.format(folder=tmp_path) for argument in arguments]
    assert cli.main(["clean", *arguments, "--to", str(tmp_path / "new.txt")]) == 2
    assert message.format(folder=tmp_path) in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_missing_folder_is_rejected(original: Path, capsys) -> None:
    assert run_clean(original, original.parent / "new" / "cleaned.jsonl") == 2
    assert "--to: there is no folder" in capsys.readouterr().err
