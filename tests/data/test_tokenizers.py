"""Tokenizers give ids that decode to the text, cached folders that transformers loads, and clear refusals."""

from pathlib import Path

import pytest

from harness.data.tokenizers import ByteLevelBPE, Pretrained, Tokenizer
from tests.data.given import Given

DOCUMENTS = list(Given(count=60).documents())
UNSEEN = ["Zürich, 東京!\n\n\tx", "", "<eos> and <pad> in a text", " leading space"]


def build(folder: Path, vocab_size: int = 300) -> Tokenizer:
    return ByteLevelBPE(vocab_size).build(DOCUMENTS, [], folder)


def test_a_trained_tokenizer_gives_back_any_text(tmp_path: Path) -> None:
    tokenizer = build(tmp_path / "t")
    assert tokenizer.vocab_size == 300
    assert [tokenizer.backend.decode(ids, skip_special_tokens=False) for ids in tokenizer.encode(UNSEEN)] == UNSEEN


def test_a_special_token_spelt_out_in_a_text_is_text(tmp_path: Path) -> None:
    tokenizer = build(tmp_path / "t")
    assert tokenizer.eos_id not in tokenizer.encode(["one <eos> two"])[0]
    assert tokenizer.backend.decode([tokenizer.eos_id], skip_special_tokens=False) == "<eos>"


def test_training_twice_gives_the_same_tokenizer(tmp_path: Path) -> None:
    first, second = (build(tmp_path / name).folder / "tokenizer.json" for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_a_cached_tokenizer_is_not_trained_again(tmp_path: Path) -> None:
    build(tmp_path / "t")
    closed = ByteLevelBPE(300, corpus=Given(is_open=False))
    assert closed.build([], [], tmp_path / "t").vocab_size == 300


def test_it_is_trained_on_the_training_split_or_on_all_or_on_a_corpus(tmp_path: Path) -> None:
    train, val, corpus = list(Given(seed=1).documents()), list(Given(seed=2).documents()), Given(seed=3)

    def trained(choice: ByteLevelBPE, *splits: list) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        return (choice.build(*splits, folder).folder / "tokenizer.json").read_text()

    on_train = trained(ByteLevelBPE(300), train, val)
    on_all = trained(ByteLevelBPE(300, fit_on="all"), train, val)
    on_corpus = trained(ByteLevelBPE(300, corpus), train, val)
    assert on_train == trained(ByteLevelBPE(300), train, [])
    assert on_all == trained(ByteLevelBPE(300), [*train, *val], [])
    assert on_corpus == trained(ByteLevelBPE(300), list(corpus.documents()), [])
    assert len({on_train, on_all, on_corpus}) == 3


def test_the_digest_follows_what_decides_the_ids() -> None:
    own, corpus = ByteLevelBPE(300), ByteLevelBPE(300, Given())
    assert own.fingerprint("a split") != own.fingerprint("another")
    assert corpus.fingerprint("a split") == corpus.fingerprint("another")
    different = [own, corpus, ByteLevelBPE(301), ByteLevelBPE(300, fit_on="all"), ByteLevelBPE(300, Given(seed=1))]
    assert len({choice.fingerprint("a split") for choice in different}) == len(different)


def test_a_saved_tokenizer_is_a_pretrained_one(tmp_path: Path) -> None:
    trained = build(tmp_path / "t")
    pretrained = Pretrained(str(trained.folder))
    loaded = pretrained.build([], [], tmp_path / "p")
    texts = [document.text for document in DOCUMENTS]
    assert loaded.encode(texts) == trained.encode(texts)
    assert (loaded.vocab_size, loaded.eos_id) == (300, trained.eos_id)
    assert pretrained.fingerprint("") != Pretrained(str(build(tmp_path / "u", 301).folder)).fingerprint("")


def test_a_name_that_the_hub_cannot_answer_for_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"tokenizer.name='no-one/nothing' does not load: .*offline give a folder"):
        Pretrained("no-one/nothing").build([], [], tmp_path / "t")


def test_a_folder_without_a_tokenizer_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not load"):
        Pretrained(str(tmp_path)).build([], [], tmp_path / "t")


def test_a_vocabulary_that_the_text_does_not_support_names_both_sizes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"vocab_size=9000 is more than the text supports, (\d+); use .*=\1 or less"):
        build(tmp_path / "t", 9000)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"vocab_size": 258}, "vocab_size=258 is below 259"),
        ({"vocab_size": 300, "fit_on": "val"}, "fit_on='val' is neither"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ByteLevelBPE(**settings)
