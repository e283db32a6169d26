"""Validation and test documents in files of their own, for every source."""

import json
from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.data.sources import JSONL, Headlines, HuggingFace, PydocQA, QAMarkdown, Source, TextFiles
from harness.data.splits import open_splits
from harness.data.token_stream import read_token_stream
from harness.data.tokenizers import ByteLevelBPE, Tokenizer, TokenizerBuilder
from harness.data.tokens import TokenData, prepare_token_data
from tests.conftest import ROOT
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


def prepare(source: Source, folder: Path, tokenizer: TokenizerBuilder = BPE, **changes: object) -> TokenData:
    settings: dict[str, Any] = {"sequence_length": 64, "layout": "examples", "val_fraction": None, "shuffle": True}
    settings |= {"seed": 0, "eval_batch_size": 8, "cache_dir": folder / "cache", **changes}
    return prepare_token_data(source, tokenizer, **settings)


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


def read_split(data: TokenData, split: str) -> list[str]:
    """Return the documents of a split, in their order on the disk."""
    name = {"validation": "val"}.get(split, split)
    own = data.tokenizer_path.parent
    for folder in sorted(own.parent.iterdir()) if split == "test" else [own]:
        if (folder / f"{name}.npy").exists():
            tokens, _, ends = read_token_stream(folder, name)
            backend = Tokenizer.load(data.tokenizer_path).backend
            return [backend.decode(tokens[start + 1 : end].tolist()) for start, end in pairwise(ends)]
    raise FileNotFoundError(split)


FIXED = ByteLevelBPE(280, corpus=SyntheticDocuments(count=60))
SHARED_SOURCES: Mapping[str, tuple[str, Any]] = {
    **SOURCES,
    "headlines": (".csv", lambda path: Headlines(path, column="title", limit=37, seed=5)),
    "huggingface": (".jsonl", lambda path: HuggingFace(str(Path(path).parent), text="body")),
}


@pytest.mark.parametrize(("suffix", "make"), SHARED_SOURCES.values(), ids=SHARED_SOURCES)
def test_test_share_is_cut_from_training_right_before_validation(suffix: str, make: Any, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / f"a{suffix}").write_text(WRITERS[suffix](SPLITS["train"]))
    source = make(str(tmp_path / "train" / f"a{suffix}"))
    documents = [f"{document.prompt}{document.text}" for document in source.iter_documents()]
    settings: dict[str, Any] = {"val_fraction": 0.2, "layout": "packed"}
    without = prepare(source, tmp_path / "without", FIXED, **settings)
    data = prepare(source, tmp_path / "with", FIXED, **settings, test_share=0.3)
    parts = {name: read_split(data, name) for name in SPLITS}
    assert [*parts["train"], *parts["test"], *parts["validation"]] == documents
    assert len(parts["test"]) == round(0.3 * len(documents))
    assert parts["validation"] == read_split(without, "validation")
    assert np.array_equal(data.val.stream, without.val.stream)
    assert data.split_digests["validation"] == without.split_digests["validation"]
    assert data.split_digests["train"] != without.split_digests["train"]
    assert data.digest != without.digest
    assert len({*data.split_digests.values()}) == 3
    evaluated = data.with_test_evaluated()
    assert evaluated is not None
    assert (evaluated.val, evaluated.evaluated, without.with_test_evaluated()) == (data.test, "test", None)
    texts = [document.text for document in source.iter_documents()][len(parts["train"]) :][: len(parts["test"])]
    assert evaluated.val_characters == sum(map(len, texts)) != data.val_characters
    assert evaluated.val_scored_tokens == sum(len(ids) + 1 for ids in Tokenizer.load(data.tokenizer_path).encode(texts))


def test_tokenizers_are_not_trained_on_a_test_share(tmp_path: Path) -> None:
    texts = [
        *SPLITS["train"][:30],
        *["qqqq qqqq qqqq qqqq"] * 5,
        *SPLITS["train"][30:35],
    ]  # the test documents are last
    (tmp_path / "a.txt").write_text(WRITERS[".txt"](texts))
    source = TextFiles(str(tmp_path / "a.txt"), split_on=r"\n\n")
    for fit_on in ("train", "all"):
        tokenizer = ByteLevelBPE(290, fit_on=fit_on)
        vocabularies = [
            Tokenizer.load(prepare(source, tmp_path, tokenizer, val_fraction=1 / 8, test_share=share).tokenizer_path)
            for share in (None, 1 / 8)
        ]
        assert ["qq" in tokenizer.backend.get_vocab() for tokenizer in vocabularies] == [True, False]


def test_test_share_goes_with_validation_files(tmp_path: Path) -> None:
    files = write_splits(tmp_path, ".jsonl")
    source = JSONL(files["train"], text="body")
    data = prepare(source, tmp_path, FIXED, validation=files["validation"], test_share=0.25)
    assert read_split(data, "train") == SPLITS["train"][:30]
    assert read_split(data, "test") == SPLITS["train"][30:]
    assert read_split(data, "validation") == SPLITS["validation"]
    without = prepare(source, tmp_path, FIXED, validation=files["validation"])
    changed = {name for name, digest in without.split_digests.items() if data.split_digests[name] != digest}
    assert changed == {"train"}


@pytest.mark.parametrize("has_files", [False, True])
def test_single_document_is_cut_in_three(has_files: bool, tmp_path: Path) -> None:
    book = " ".join(WORDS)
    (tmp_path / "book.txt").write_text(book)
    (tmp_path / "val.txt").write_text("bari gola")
    val = {"validation": str(tmp_path / "val.txt")} if has_files else {"val_fraction": 0.25}
    source = TextFiles(str(tmp_path / "book.txt"))
    data, without = (prepare(source, tmp_path, FIXED, **val, test_share=share) for share in (0.1, None))
    [train], [test], [validation] = (read_split(data, name) for name in ("train", "test", "validation"))
    assert [validation] == read_split(without, "validation")
    assert f"{train}{test}{'' if has_files else validation}" == book
    assert len(test) == pytest.approx(0.1 * len(book), abs=20)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_share": 0.0}, "^test_share=0.0 must lie between 0 and 1, for example 0.1; null for no test split"),
        ({"test_share": 1.0}, "^test_share=1.0 must lie between 0 and 1"),
        ({"test_share": float("nan")}, "^test_share=nan must lie between 0 and 1"),
        (
            {"test_share": 0.1, "test": "{test}"},
            "^test_share=0.1 does not go with test, which names the whole test split",
        ),
        ({"test_share": 0.8}, "^test_share=0.8 and val_fraction=0.2 leave nothing for training; lower one of them"),
        (
            {"test_share": 0.79},
            "^test_share=0.79 leaves none of the 40 documents for training, beside 8 for validation",
        ),
        (
            {"test_share": 0.01, "layout": "packed", "sequence_length": 60},
            "tokens of the test split at test_share=0.01; lower the first, change the second, or use more text",
        ),
    ],
)
def test_unsuitable_test_shares_are_rejected(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    files = write_splits(tmp_path, ".jsonl")
    changes = {key: value.format(**files) if isinstance(value, str) else value for key, value in changes.items()}
    with pytest.raises(ValueError, match=message):
        prepare(JSONL(files["train"], text="body"), tmp_path, **{"val_fraction": 0.2, **changes})


def test_text_too_short_to_be_cut_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("ab cd")
    with pytest.raises(ValueError, match=r"^test_share=0.05: the only document is too short to be cut; raise it"):
        prepare(TextFiles(str(tmp_path / "short.txt")), tmp_path, FIXED, val_fraction=0.5, test_share=0.05)


REAL = ROOT.parent / "shared" / "data"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "make"),
    [
        ("tinyshakespeare/*.txt", TextFiles),
        ("headlines_clickbait/*.csv.gz", partial(Headlines, column="headline", limit=4000)),
    ],
)
def test_real_text_is_cut_in_three(pattern: str, make: Any, tmp_path: Path) -> None:
    files = sorted(REAL.glob(pattern))
    if not files:
        pytest.skip(f"there is no {REAL / pattern}")
    source = make(str(files[0]))
    settings = {"val_fraction": 0.1, "layout": "packed"}
    data, without = (prepare(source, tmp_path, FIXED, **settings, test_share=share) for share in (0.1, None))
    assert np.array_equal(data.val.stream, without.val.stream)
    parts = [part for name in ("train", "test", "validation") for part in read_split(data, name)]
    assert parts == [part for name in ("train", "validation") for part in read_split(without, name)] or (
        len(parts) == 3 and "".join(parts) == "".join(read_split(without, "train") + read_split(without, "validation"))
    )
    sizes = [len("".join(read_split(data, name))) for name in ("test", "validation")]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)
