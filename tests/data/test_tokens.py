"""Every token is learned once an epoch, prompts never; what is cached is not made again."""

import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.data.sources import Document, Headlines, PydocQA, TextFiles
from harness.data.tokenizers import ByteLevelBPE, Pretrained, Tokenizer
from harness.data.tokens import IGNORED, TokenData, TokenRows, order, prepare
from tests.data.documents import Given

BPE = ByteLevelBPE(280)
PROMPTED = Given(count=30, longest=20, prompted=0.7)


def prepared(cache_dir: Path, source: object = PROMPTED, tokenizer: object = BPE, **changes: object) -> TokenData:
    settings = {"sequence_length": 16, "layout": "examples", "val_share": 0.2, "shuffle": True, "eval_batch_size": 8}
    return prepare(source, tokenizer, seed=0, cache_dir=cache_dir, **{**settings, **changes})


def scored_tokens(rows: TokenRows) -> list[int]:
    """The scored targets in the order of the stream, each read from its batch."""
    batch = rows.batch(np.argsort(rows.starts).tolist())
    return batch.targets[batch.targets != IGNORED].tolist()


def expected(data: TokenData, documents: list[Document]) -> list[int]:
    encoded = Tokenizer.load(data.tokenizer_path).encode([document.text for document in documents])
    return [token for ids in encoded for token in (*ids, data.eos_id)]


@pytest.mark.parametrize("layout", ["packed", "examples"])
@pytest.mark.parametrize("sequence_length", [1, 7, 16, 200])
@pytest.mark.parametrize("seed", range(3))
def test_every_scored_token_is_a_target_exactly_once(
    tmp_path: Path, layout: str, sequence_length: int, seed: int
) -> None:
    for prompted in (0.0, 0.7):
        source = Given(count=30, longest=40, prompted=prompted, seed=seed)
        data = prepared(tmp_path, source, layout=layout, sequence_length=sequence_length)
        documents = list(source.documents())
        assert scored_tokens(data.train) == expected(data, documents[:24])
        assert scored_tokens(data.val) == expected(data, documents[24:])
        for rows in (data.train, data.val):
            assert rows.lengths.max() <= sequence_length
            assert rows.scored_total == len(scored_tokens(rows))


@pytest.mark.parametrize("layout", ["packed", "examples"])
def test_each_target_follows_its_input_in_the_text(tmp_path: Path, layout: str) -> None:
    data = prepared(tmp_path, Given(), layout=layout)
    batch = data.train.batch(range(len(data.train)))
    pairs = [(row, column) for row in range(len(batch)) for column in range(batch.lengths[row])]
    inputs, targets = ([tensor[at].item() for at in pairs] for tensor in (batch.inputs, batch.targets))
    assert inputs == [data.eos_id, *targets[:-1]]


def test_a_row_of_the_packed_layout_is_full_and_one_of_the_examples_is_a_document(tmp_path: Path) -> None:
    packed, examples = (prepared(tmp_path, layout=layout, sequence_length=400) for layout in ("packed", "examples"))
    assert set(packed.train.lengths[:-1]) == {400}
    assert len(examples.train) == 24
    assert examples.train.batch(range(24)).inputs[:, 0].tolist() == [examples.eos_id] * 24
    assert packed.digest == examples.digest


def test_prompts_are_seen_and_never_scored(tmp_path: Path) -> None:
    data = prepared(tmp_path, Given(count=20, prompted=1.0), sequence_length=400)
    tokenizer = Tokenizer.load(data.tokenizer_path)
    batch = data.train.batch(range(len(data.train)))
    for row, document in enumerate(list(Given(count=20, prompted=1.0).documents())[:16]):
        prompt, text = tokenizer.encode([document.prompt, document.text])
        length = batch.lengths[row]
        assert batch.inputs[row, :length].tolist() == [data.eos_id, *prompt, *text]
        assert batch.targets[row, :length].tolist() == [*[IGNORED] * len(prompt), *text, data.eos_id]


def test_padding_is_on_the_right_and_counts_nowhere(tmp_path: Path) -> None:
    data = prepared(tmp_path)
    batch = data.train.batch([3, 0, 5, 1])
    assert batch.inputs.shape == batch.targets.shape == (4, batch.lengths.max())
    assert batch.inputs.dtype == batch.targets.dtype == torch.int64
    assert batch.count == (batch.targets != IGNORED).sum()
    assert batch.tokens == sum(batch.lengths)
    for row, length in enumerate(batch.lengths):
        assert (batch.targets[row, length:] == IGNORED).all()
        assert (batch.inputs[row, length:] == data.eos_id).all()


def test_slices_of_a_batch_are_the_batches_of_their_rows(tmp_path: Path) -> None:
    rows = prepared(tmp_path).train
    for wanted in (slice(0, 2), slice(2, 5), slice(1, None, 2), slice(4, 99)):
        cut, own = rows.batch(range(5))[wanted], rows.batch(range(5)[wanted])
        assert torch.equal(cut.inputs, own.inputs)
        assert torch.equal(cut.targets, own.targets)
        assert (len(cut), cut.count, cut.tokens) == (len(own), own.count, own.tokens)
    assert (len(rows.batch(range(5))[5:]), rows.batch(range(5))[5:].count) == (0, 0)


def test_validation_rows_run_from_long_to_short(tmp_path: Path) -> None:
    lengths = prepared(tmp_path, sequence_length=400).val.lengths
    assert lengths.tolist() == sorted(lengths, reverse=True)
    assert len(set(lengths)) > 1


def test_an_epoch_is_a_permutation_and_the_next_one_another() -> None:
    first, second = (order(start, 50, 50, seed=3, shuffle=True) for start in (0, 50))
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert first != order(0, 50, 50, seed=4, shuffle=True)
    assert order(0, 5, 3, seed=3, shuffle=False) == [0, 1, 2, 0, 1]


def test_a_position_alone_decides_the_rows_that_follow() -> None:
    whole = order(0, 200, 30, seed=3, shuffle=True)
    assert [order(position, 7, 30, 3, True) for position in (150, 0, 29, 64)] == [
        whole[position : position + 7] for position in (150, 0, 29, 64)
    ]


def test_statistics_are_those_of_the_validation_text(tmp_path: Path) -> None:
    data = prepared(tmp_path)
    held_out = list(PROMPTED.documents())[24:]
    counts = Counter(expected(data, held_out))
    shares = [count / counts.total() for count in counts.values()]
    assert data.unigram_entropy == pytest.approx(-sum(share * math.log(share) for share in shares))
    assert data.val_characters == sum(len(document.text) for document in held_out)
    assert data.val_bytes == sum(len(document.text.encode()) for document in held_out) > data.val_characters
    assert (data.name, data.vocab_size) == ("Given", 280)


def test_settings_that_only_cut_do_not_read_the_documents_again(tmp_path: Path) -> None:
    first = prepared(tmp_path)
    closed = Given(count=30, longest=20, prompted=0.7, is_open=False)
    changes = {"sequence_length": 11, "layout": "packed", "shuffle": False, "eval_batch_size": 3}
    second = prepared(tmp_path, closed, **changes)
    assert second.digest == first.digest
    with pytest.raises(AssertionError, match="the documents were read"):
        prepared(tmp_path, closed, val_share=0.3)
    with pytest.raises(AssertionError, match="the documents were read"):
        prepared(tmp_path, closed, ByteLevelBPE(281))


def test_a_second_run_needs_neither_the_documents_nor_transformers(tmp_path: Path) -> None:
    pretrained = Pretrained(str(ByteLevelBPE(280).build(list(Given().documents()), [], tmp_path / "own").folder))
    first = prepared(tmp_path, tokenizer=pretrained)
    code = f"""
import sys
from pathlib import Path
from harness.data.tokenizers import Pretrained
from harness.data.tokens import prepare
from tests.data.documents import Given
source = Given(count=30, longest=20, prompted=0.7, is_open=False)
data = prepare(source, Pretrained({pretrained.name!r}), sequence_length=16, layout="examples", val_share=0.2,
               shuffle=True, seed=0, eval_batch_size=8, cache_dir=Path({str(tmp_path)!r}))
print(data.digest, data.train.batch(range(9)).inputs.sum().item(), "transformers" in sys.modules)
"""
    root = Path(__file__).parents[2]
    told = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert told.stdout.split() == [first.digest, str(first.train.batch(range(9)).inputs.sum().item()), "False"]


@pytest.mark.parametrize("torn", ["train.npy", "val.npy", "val_scored.npy", "meta.json", "tokenizer/tokenizer.json"])
def test_a_torn_cache_is_made_again(tmp_path: Path, torn: str) -> None:
    def tokens() -> tuple[list[int], list[int]]:
        data = prepared(tmp_path)
        return scored_tokens(data.train), scored_tokens(data.val)

    whole = tokens()
    (path,) = (tmp_path / "data").glob(f"*/{torn}")
    content = path.read_bytes()
    path.unlink()  # not under the map that the first reading may still hold
    path.write_bytes(content[:-5])
    assert tokens() == whole
    assert path.read_bytes() == content


def test_the_vocabulary_of_a_large_tokenizer_is_stored_whole(tmp_path: Path) -> None:
    folder = ByteLevelBPE(280).build(list(Given().documents()), [], tmp_path / "own").folder
    facts = json.loads((folder / "harness.json").read_text())
    (folder / "harness.json").write_text(json.dumps({**facts, "vocab_size": 70_000, "eos_id": 69_999}))
    large = Tokenizer.load(folder)

    class Large(ByteLevelBPE):
        def build(self, *_: object) -> Tokenizer:
            return large

    data = prepared(tmp_path, tokenizer=Large(280))
    assert data.train.batch([0]).inputs[0, 0] == 69_999


def test_a_lone_text_is_cut_between_words_where_validation_begins(tmp_path: Path) -> None:
    words = " ".join(document.text for document in Given(count=60).documents())
    (tmp_path / "book.txt").write_text(words)
    data = prepared(tmp_path, TextFiles(str(tmp_path / "book.txt")), layout="packed", val_share=0.25)
    assert data.val_characters == pytest.approx(len(words) / 4, abs=6)
    decoded = Tokenizer.load(data.tokenizer_path).backend.decode(scored_tokens(data.val))
    assert decoded.startswith(" ")
    assert words.endswith(decoded)


def test_answers_of_the_standard_library_fit_their_rows(tmp_path: Path) -> None:
    data = prepared(tmp_path, PydocQA(), ByteLevelBPE(1000), sequence_length=96, val_share=0.1)
    batch = data.train.batch(order(0, 32, len(data.train), 0, True))
    assert 0 < batch.count < batch.tokens < batch.inputs.numel()
    assert data.unigram_entropy < math.log(1000)


BAD = {
    "layout": ({"layout": "rows"}, "layout='rows' is neither packed nor examples"),
    "val_share 0": ({"val_share": 0.0}, "val_share=0.0 must lie between 0 and 1"),
    "val_share 1": ({"val_share": 1}, "val_share=1 must lie between 0 and 1"),
    "sequence_length": ({"sequence_length": 0}, "sequence_length=0 must be 1 or more"),
    "eval_batch_size": ({"eval_batch_size": 0}, "eval_batch_size=0 must be 1 or more"),
    "validation": (
        {"layout": "packed", "sequence_length": 900},
        r"sequence_length=900 is more than the \d+ tokens of the validation split at val_share=0.2; lower",
    ),
    "training": (
        {"layout": "packed", "sequence_length": 900, "val_share": 0.9},
        r"sequence_length=900 is more than the \d+ tokens of the train split",
    ),
    "vocabulary": ({"tokenizer": ByteLevelBPE(9000)}, r"tokenizer.vocab_size=9000 is more than the text supports, \d+"),
    "no text": ({"source": Given(count=0)}, "Given.count=0.* holds no document with text"),
}


@pytest.mark.parametrize(("changes", "said"), BAD.values(), ids=BAD)
def test_what_cannot_be_prepared_is_said_in_one_sentence(tmp_path: Path, changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        prepared(tmp_path, **changes)


def test_headlines_from_a_file_reach_the_batch(tmp_path: Path) -> None:
    titles = [document.text for document in Given(count=50).documents()]
    (tmp_path / "titles.txt").write_text("\n".join(titles))
    data = prepared(tmp_path, Headlines(str(tmp_path / "titles.txt")), layout="packed")
    text = Tokenizer.load(data.tokenizer_path).backend.decode(scored_tokens(data.train), skip_special_tokens=False)
    assert set(text.removesuffix("<eos>").split("<eos>")) <= set(titles)
