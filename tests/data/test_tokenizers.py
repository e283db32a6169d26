"""Tokenizers: round trips, caching, compatibility with transformers, and error messages."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from harness.data.sources import Document
from harness.data.tokenizers import ByteLevelBPE, PretrainedTokenizer, Tokenizer, WordPiece
from tests.attack_target import AttackTarget
from tests.data.documents import SyntheticDocuments

DOCUMENTS = list(SyntheticDocuments(count=60).iter_documents())
UNSEEN = ["Zürich, 東京!\n\n\tx", "", "<eos> and <pad> in a text", " leading space"]


def train_bpe(folder: Path, vocab_size: int = 300) -> Tokenizer:
    return ByteLevelBPE(vocab_size).build(DOCUMENTS, [], folder)


def test_bpe_round_trip(tmp_path: Path) -> None:
    tokenizer = train_bpe(tmp_path / "t")
    assert tokenizer.vocab_size == 300
    assert [tokenizer.backend.decode(ids, skip_special_tokens=False) for ids in tokenizer.encode(UNSEEN)] == UNSEEN


def test_special_token_name_in_text_is_text(tmp_path: Path) -> None:
    tokenizer = train_bpe(tmp_path / "t")
    assert tokenizer.eos_id not in tokenizer.encode(["one <eos> two"])[0]
    assert tokenizer.backend.decode([tokenizer.eos_id], skip_special_tokens=False) == "<eos>"


def test_training_is_deterministic(tmp_path: Path) -> None:
    first, second = (train_bpe(tmp_path / name).folder / "tokenizer.json" for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_cached_tokenizer_is_not_trained_again(tmp_path: Path) -> None:
    train_bpe(tmp_path / "t")
    closed = ByteLevelBPE(300, corpus=SyntheticDocuments(is_readable=False))
    assert closed.build([], [], tmp_path / "t").vocab_size == 300


def test_fit_on_and_corpus_choose_the_training_text(tmp_path: Path) -> None:
    train, val, corpus = (
        list(SyntheticDocuments(seed=1).iter_documents()),
        list(SyntheticDocuments(seed=2).iter_documents()),
        SyntheticDocuments(seed=3),
    )

    def trained(choice: ByteLevelBPE, *splits: list) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        return (choice.build(*splits, folder).folder / "tokenizer.json").read_text()

    on_train = trained(ByteLevelBPE(300), train, val)
    on_all = trained(ByteLevelBPE(300, fit_on="all"), train, val)
    on_corpus = trained(ByteLevelBPE(300, corpus), train, val)
    assert on_train == trained(ByteLevelBPE(300), train, [])
    assert on_all == trained(ByteLevelBPE(300), [*train, *val], [])
    assert on_corpus == trained(ByteLevelBPE(300), list(corpus.iter_documents()), [])
    assert len({on_train, on_all, on_corpus}) == 3


def test_fingerprint_follows_what_decides_the_ids() -> None:
    own, corpus = ByteLevelBPE(300), ByteLevelBPE(300, SyntheticDocuments())
    assert own.fingerprint("a split") != own.fingerprint("another")
    assert corpus.fingerprint("a split") == corpus.fingerprint("another")
    different = [
        own,
        corpus,
        ByteLevelBPE(301),
        ByteLevelBPE(300, fit_on="all"),
        ByteLevelBPE(300, SyntheticDocuments(seed=1)),
    ]
    assert len({choice.fingerprint("a split") for choice in different}) == len(different)


def test_trained_tokenizer_loads_as_pretrained(tmp_path: Path) -> None:
    trained = train_bpe(tmp_path / "t")
    pretrained = PretrainedTokenizer(str(trained.folder))
    loaded = pretrained.build([], [], tmp_path / "p")
    texts = [document.text for document in DOCUMENTS]
    assert loaded.encode(texts) == trained.encode(texts)
    assert (loaded.vocab_size, loaded.eos_id) == (300, trained.eos_id)
    assert pretrained.fingerprint("") != PretrainedTokenizer(str(train_bpe(tmp_path / "u", 301).folder)).fingerprint("")


def test_unreachable_hub_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"tokenizer.name: 'no-one/nothing' does not load: .*offline, give a folder"):
        PretrainedTokenizer("no-one/nothing").build([], [], tmp_path / "t")


def test_folder_without_tokenizer_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not load"):
        PretrainedTokenizer(str(tmp_path)).build([], [], tmp_path / "t")


@pytest.mark.parametrize("kind", ["gpt2", "bloom"])
def test_folder_with_a_model_alone_has_no_tokenizer(kind: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(ValueError, match=r"tokenizer.name: .* has no tokenizer; save it"):
        PretrainedTokenizer(name=str(tmp_path)).load_hf_tokenizer()


def test_too_large_vocabulary_error_names_both_sizes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"vocab_size=9000 is more than the text supports, (\d+); use .*=\1 or less"):
        train_bpe(tmp_path / "t", 9000)


def train_wordpiece(folder: Path, vocab_size: int = 100) -> Tokenizer:
    return WordPiece(vocab_size).build(DOCUMENTS, [], folder)


def test_wordpiece_matches_transformers(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = train_wordpiece(tmp_path / "t")
    plain = AutoTokenizer.from_pretrained(tokenizer.folder)
    assert (tokenizer.vocab_size, len(plain)) == (100, 100)
    assert (tokenizer.cls_id, tokenizer.eos_id, tokenizer.mask_id) == (2, 3, 4)
    assert (plain.cls_token_id, plain.sep_token_id, plain.mask_token_id) == (2, 3, 4)
    assert tokenizer.special_ids == (0, 1, 2, 3, 4) == tuple(sorted(plain.all_special_ids))
    text = DOCUMENTS[0].text
    assert plain(text).input_ids == [2, *tokenizer.encode([text])[0], 3]
    assert plain.decode(tokenizer.encode([text])[0]) == text


def test_mask_token_name_in_text_is_text(tmp_path: Path) -> None:
    tokenizer = WordPiece(60).build([*DOCUMENTS, Document("[MASK] [SEP]")], [], tmp_path / "t")
    assert not set(tokenizer.encode(["one [MASK] two [SEP]"])[0]) & {tokenizer.mask_id, tokenizer.eos_id}


def test_wordpiece_word_starts(tmp_path: Path) -> None:
    tokenizer = train_wordpiece(tmp_path / "t")
    begins = tokenizer.find_word_starts()
    pieces = [tokenizer.backend.id_to_token(id) for id in range(100)]
    assert [piece for piece in pieces if piece.startswith("##")] == [pieces[id] for id in np.flatnonzero(~begins)]
    assert 0 < begins.sum() < 100


def test_byte_level_word_starts(tmp_path: Path) -> None:
    tokenizer = train_bpe(tmp_path / "t", 400)
    [ids] = tokenizer.encode(["gan dento\nbonto kin"])
    starts = tokenizer.find_word_starts()[ids]
    words = [tokenizer.backend.decode([id]) for id, is_start in zip(ids, starts, strict=True) if is_start]
    assert sum(starts) == 3  # the first word of a text has no space before it
    assert all(word[0].isspace() for word in words)


def test_pretrained_masked_tokenizer_keeps_metadata(tmp_path: Path) -> None:
    trained = train_wordpiece(tmp_path / "t")
    loaded = PretrainedTokenizer(str(trained.folder)).build([], [], tmp_path / "p")
    for fact in ("eos_id", "cls_id", "mask_id", "special_ids", "vocab_size"):
        assert getattr(loaded, fact) == getattr(trained, fact)


def test_causal_tokenizer_has_no_cls_or_mask(tmp_path: Path) -> None:
    tokenizer = train_bpe(tmp_path / "t")
    assert (tokenizer.cls_id, tokenizer.mask_id) == (None, None)


@pytest.mark.parametrize(
    ("vocab_size", "message"),
    [
        (9000, r"9000 is more than the text supports, (\d+); use .*=\1 or less"),
        (10, r"10 is less than the char.*or more"),
    ],
)
def test_wordpiece_vocabulary_of_wrong_size_is_rejected(tmp_path: Path, vocab_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_wordpiece(tmp_path / "t", vocab_size)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocab_size": 258}, "vocab_size=258 must be at least 259"),
        ({"vocab_size": 300, "fit_on": "val"}, "fit_on='val' must be train or all"),
    ],
)
def test_invalid_settings_are_rejected(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ByteLevelBPE(**settings)


def test_wordpiece_vocabulary_must_fit_special_tokens() -> None:
    with pytest.raises(ValueError, match="vocab_size=5 must be at least 6: a character, 5 special tokens"):
        WordPiece(5)


@pytest.mark.parametrize("known", [False, True])
def test_code_of_a_tokenizers_folder_never_runs(known: bool, tmp_path: Path, target: AttackTarget, monkeypatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # what a user would answer if transformers asked
    folder = tmp_path / "own"
    folder.mkdir()
    shutil.copy(target.folder / "evil.py", folder / "evil.py")
    code = {"auto_map": {"AutoTokenizer": ["evil.Component", "evil.Component"]}, "tokenizer_class": "Component"}
    (folder / "tokenizer_config.json").write_text(json.dumps(code))
    model = {"model_type": "gpt2" if known else "of_its_own", "auto_map": {"AutoConfig": "evil.Component"}}
    (folder / "config.json").write_text(json.dumps(model))
    with pytest.raises(ValueError, match="does not load"):
        PretrainedTokenizer(str(folder)).load_hf_tokenizer()
    target.check_untouched()
