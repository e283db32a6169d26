"""Exported tokenizers keep their ids, and have the form that transformers 4 and older tokenizers read."""

import json
from pathlib import Path

import pytest
import tokenizers

from harness.data.sources import Document
from harness.data.tokenizer_export import make_tokenizer_portable
from harness.data.tokenizers import ByteLevelBPE, PretrainedTokenizer, WordPiece

TEXT = "low lower lowest, new newer newest"
DOCUMENTS = [Document("", f"{TEXT} {number}") for number in range(50)]
KINDS = {"bpe": ByteLevelBPE(vocab_size=290), "wordpiece": WordPiece(vocab_size=50)}


def read_config(folder: Path) -> dict:
    return json.loads((folder / "tokenizer_config.json").read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_trained_tokenizer(kind, tmp_path) -> None:
    folder = tmp_path / kind
    ids = KINDS[kind].build(DOCUMENTS, [], folder).encode([TEXT])
    make_tokenizer_portable(folder, 128)
    assert read_config(folder)["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert read_config(folder)["model_max_length"] == 128
    merges = json.loads((folder / "tokenizer.json").read_text())["model"].get("merges", [])
    assert all(isinstance(pair, str) for pair in merges)
    assert bool(merges) == (kind == "bpe")
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert [backend.encode(TEXT, add_special_tokens=False).ids] == ids


def test_tokenizer_that_transformers_5_has_saved(tmp_path) -> None:
    from transformers import AutoTokenizer

    KINDS["bpe"].build(DOCUMENTS, [], tmp_path / "bpe")
    saved = AutoTokenizer.from_pretrained(tmp_path / "bpe", model_max_length=64)
    saved.add_special_tokens({"additional_special_tokens": ["<a>", "<b>"]})
    saved.save_pretrained(tmp_path / "saved")
    PretrainedTokenizer(name=tmp_path / "saved").build(DOCUMENTS, [], tmp_path / "again")
    before = read_config(tmp_path / "again")
    assert before["tokenizer_class"] == "TokenizersBackend"  # which transformers 4 refuses
    make_tokenizer_portable(tmp_path / "again", 128)
    after = read_config(tmp_path / "again")
    assert (after["tokenizer_class"], after["model_max_length"]) == ("PreTrainedTokenizerFast", 64)
    assert after["additional_special_tokens"] == before["extra_special_tokens"] == ["<a>", "<b>"]
    assert "extra_special_tokens" not in after
    again = AutoTokenizer.from_pretrained(tmp_path / "again")
    assert again(TEXT + "<a>").input_ids == saved(TEXT + "<a>").input_ids
    assert again.all_special_tokens == saved.all_special_tokens


def test_merges_with_spaces_keep_their_form(tmp_path) -> None:
    content = {"model": {"type": "BPE", "merges": [["a b", "c"], ["d", "e"]]}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    make_tokenizer_portable(tmp_path, None)
    assert json.loads((tmp_path / "tokenizer.json").read_text()) == content
    assert read_config(tmp_path) == {"tokenizer_class": "PreTrainedTokenizerFast"}
