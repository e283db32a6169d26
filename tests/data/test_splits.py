"""Validation and test documents in files of their own, for every source."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.data.sources import JSONL, Headlines, HuggingFace, PydocQA, QAMarkdown, Source, TextFiles
from harness.data.splits import open_splits
from harness.data.tokenizers import ByteLevelBPE, Tokenizer
from harness.data.tokens import TokenData, prepare_token_data
from tests.data.documents import SyntheticDocuments

WORDS = [document.text for document in SyntheticDocuments(count=60).iter_documents()]
SPLITS = {"train": WORDS[:40], "validation": WORDS[40:50], "test": WORDS[50:]}
BPE = ByteLevelBPE(280, fit_on="all")

WRITERS = {
    ".txt": lambda texts: "\n\n".join(texts),
    ".md": lambda texts: "".join(f"QUESTION: {text}\nANSWER: {text}\n" for text in texts),
    ".csv": lambda texts: "\n".join(["n,title", *(f"1,{text}" for text in texts)]),
    ".jsonl": lambda texts: "\n".join(json.dumps({"body": text}) for text in texts),
}
SOURCES: Mapping[str, tuple[str, Any]] = {
    "text": (".txt", lambda path: TextFiles(path, split_on=r"\n\n")),
    "qa_markdown": (".md", QAMarkdown),
    "headlines": (".csv", lambda path: Headlines(path, column="title", limit=30)),
    "jsonl": (".jsonl", lambda path: JSONL(path, text="body")),
}


def write_splits(folder: Path, suffix: str) -> dict[str, str]:
    for name, texts in SPLITS.items():
        (folder / f"{name}{suffix}").write_text(WRITERS[suffix](texts))
    return {name: str(folder / f"{name}{suffix}") for name in SPLITS}


def prepare(source: Source, folder: Path, **changes: object) -> TokenData:
    settings: dict[str, Any] = {"sequence_length": 64, "layout": "examples", "val_fraction": None, "shuffle": True}
    settings |= {"seed": 0, "eval_batch_size": 8, "cache_dir": folder / "cache", **changes}
    return prepare_token_data(source, BPE, **settings)


def decode(data: TokenData, split: str) -> str:
    rows = getattr(data, split)
    assert rows is not None
    return Tokenizer.load(data.tokenizer_path).backend.decode(rows.stream.tolist())


@pytest.mark.parametrize(("suffix", "make"), SOURCES.values(), ids=SOURCES)
def test_every_file_source_has_splits_of_its_own(suffix: str, make: Any, tmp_path: Path) -> None:
    files = write_splits(tmp_path, suffix)
    data = prepare(make(files["train"]), tmp_path, validation=files["validation"], test=files["test"])
    for split, name in (("val", "validation"), ("test", "test")):
        text = decode(data, split)
        assert all(document in text for document in SPLITS[name])
        assert not any(document in text for document in SPLITS["train"] if len(document) > 40)
    assert sum(document in decode(data, "train") for document in SPLITS["train"]) >= (30 if suffix == ".csv" else 40)


def test_digests_tell_which_split_changed(tmp_path: Path) -> None:
    files = write_splits(tmp_path, ".txt")

    def digests() -> tuple[str, Mapping[str, str]]:
        data = prepare(TextFiles(files["train"]), tmp_path, validation=files["validation"], test=files["test"])
        return data.digest, data.split_digests

    whole, splits = digests()
    assert set(splits) == {"train", "validation", "test"}
    for name in SPLITS:
        Path(files[name]).write_text(f"{' '.join(SPLITS[name])} changed")
        changed, others = digests()
        assert (changed != whole) == (name != "test")  # runs do not read it
        assert {split for split in SPLITS if others[split] != splits[split]} == {name}
        whole, splits = changed, others


def test_test_split_does_not_reach_the_tokenizer_or_the_other_splits(tmp_path: Path) -> None:
    files = write_splits(tmp_path, ".txt")
    source = TextFiles(files["train"])
    without = prepare(source, tmp_path, validation=files["validation"])
    data = prepare(source, tmp_path, validation=files["validation"], test=files["test"])
    metadata = [json.loads((one.tokenizer_path.parent / "meta.json").read_text()) for one in (without, data)]
    assert metadata[0]["tokenizer"] == metadata[1]["tokenizer"]
    assert without.digest == data.digest
    assert without.tokenizer_path == data.tokenizer_path  # nothing else is tokenized again
    assert without.test is None
    for split in ("train", "val"):
        assert decode(data, split) == decode(without, split)
    share = prepare(source, tmp_path, val_fraction=0.2, test=files["test"])
    assert set(share.split_digests) == {"train", "validation", "test"}


def test_folders_globs_and_lists_are_files_too(tmp_path: Path) -> None:
    files = write_splits(tmp_path, ".txt")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.txt").write_text("bari gola")
    for place in (
        [files["validation"], str(tmp_path / "more")],
        [files["validation"], str(tmp_path / "mor*" / "*.txt")],
    ):
        data = prepare(TextFiles(files["train"]), tmp_path, validation=place)
        assert "bari gola" in decode(data, "val")
    data = prepare(TextFiles([files["train"], str(tmp_path / "more")]), tmp_path, validation=files["validation"])
    assert "bari gola" in decode(data, "train")
    assert SPLITS["train"][0] in decode(data, "train")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"validation": "{train}"},
            r"^validation: .*train.txt is in the train split too; give each split files of its",
        ),
        (
            {"validation": "{folder}/copy.txt"},
            r"^validation: .*copy.txt has the content of .*train.txt, which is in the",
        ),
        (
            {"validation": "{validation}", "test": "{folder}/v*.txt"},
            r"^test: .*validation.txt is in the validation split",
        ),
        (
            {"validation": "{folder}/none.txt"},
            r"^validation='.*none.txt' does not exist; give a file, a folder or a glob",
        ),
        ({"validation": ["{validation}", "{validation}"]}, r"^validation: .*validation.txt is named twice"),
        ({"validation": []}, r"^validation=\[\] is empty; give"),
        ({"validation": "{folder}/blank.txt"}, "blank.txt.* holds no document with text"),
        ({"validation": None}, "^val_fraction=null needs validation"),
        ({"validation": "{validation}", "val_fraction": 0.1}, "^val_fraction=0.1 does not go with validation"),
        (
            {"validation": "{validation}", "layout": "packed", "sequence_length": 999},
            "validation split; lower it, or use",
        ),
    ],
)
def test_unsuitable_splits_are_rejected(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    files = write_splits(tmp_path, ".txt")
    (tmp_path / "copy.txt").write_bytes(Path(files["train"]).read_bytes())
    (tmp_path / "blank.txt").write_text(" \n")

    def fill(value: Any) -> Any:
        if isinstance(value, list):
            return [fill(one) for one in value]
        return value.format(**files, folder=tmp_path) if isinstance(value, str) else value

    with pytest.raises((ValueError, FileNotFoundError), match=message):
        prepare(TextFiles(files["train"]), tmp_path, **{key: fill(value) for key, value in changes.items()})


def test_training_folder_with_the_validation_file_is_rejected(tmp_path: Path) -> None:
    files = write_splits(tmp_path, ".txt")
    with pytest.raises(ValueError, match=r"^validation: .*validation.txt is in the train split too"):
        open_splits(TextFiles(str(tmp_path)), val_fraction=None, validation=files["validation"], test=None)


def test_splits_of_a_data_set_are_named() -> None:
    source = HuggingFace("someone/data", split="train")
    splits = open_splits(source, val_fraction=None, validation="validation", test="test")
    assert [getattr(one, "split", None) for one in splits.sources.values()] == ["train", "validation", "test"]
    assert len(set(splits.compute_digests().values())) == 3
    with pytest.raises(ValueError, match=r"^validation: .*is in the train split too"):
        open_splits(source, val_fraction=None, validation="train", test=None)
    with pytest.raises(ValueError, match=r"^test=\['a'\] is not a split of the data set; name one, such as test=test"):
        open_splits(source, val_fraction=0.1, validation=None, test=["a"])


def test_source_without_files_says_so() -> None:
    with pytest.raises(ValueError, match=r"^test='t.txt': PydocQA has no such files; leave it out"):
        open_splits(PydocQA(), val_fraction=0.1, validation=None, test="t.txt")
