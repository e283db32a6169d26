"""Rows and batches of token streams, the order of examples, and the cache."""

import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.core.digests import write_manifest
from harness.data.sources import Document, Headlines, PydocQA, TextFiles
from harness.data.tokenizers import ByteLevelBPE, PretrainedTokenizer, Tokenizer
from harness.data.tokens import IGNORE_INDEX, TokenData, TokenRows, get_example_indices, prepare_token_data
from tests.data.documents import SyntheticDocuments

BPE = ByteLevelBPE(280)
PROMPTED = SyntheticDocuments(count=30, longest=20, prompt_chance=0.7)


def make_token_data(
    cache_dir: Path, source: object = PROMPTED, tokenizer: object = BPE, **changes: object
) -> TokenData:
    settings = {"sequence_length": 16, "layout": "examples", "val_fraction": 0.2, "shuffle": True, "eval_batch_size": 8}
    return prepare_token_data(source, tokenizer, seed=0, cache_dir=cache_dir, **{**settings, **changes})


def collect_scored_tokens(rows: TokenRows) -> list[int]:
    """Return the scored targets of all rows in the order of the stream."""
    batch = rows.make_batch(np.argsort(rows.starts).tolist())
    return batch.targets[batch.targets != IGNORE_INDEX].tolist()


def encode_documents(data: TokenData, documents: list[Document]) -> list[int]:
    encoded = Tokenizer.load(data.tokenizer_path).encode([document.text for document in documents])
    return [token for ids in encoded for token in (*ids, data.eos_id)]


@pytest.mark.parametrize("layout", ["packed", "examples"])
@pytest.mark.parametrize("sequence_length", [1, 7, 16, 200])
@pytest.mark.parametrize("seed", range(3))
def test_every_scored_token_is_a_target_once(tmp_path: Path, layout: str, sequence_length: int, seed: int) -> None:
    for prompted in (0.0, 0.7):
        source = SyntheticDocuments(count=30, longest=40, prompt_chance=prompted, seed=seed)
        data = make_token_data(tmp_path, source, layout=layout, sequence_length=sequence_length)
        documents = list(source.iter_documents())
        assert collect_scored_tokens(data.train) == encode_documents(data, documents[:24])
        assert collect_scored_tokens(data.val) == encode_documents(data, documents[24:])
        for rows in (data.train, data.val):
            assert rows.lengths.max() <= sequence_length
            assert rows.n_scored == len(collect_scored_tokens(rows))


@pytest.mark.parametrize("layout", ["packed", "examples"])
def test_targets_are_the_next_inputs(tmp_path: Path, layout: str) -> None:
    data = make_token_data(tmp_path, SyntheticDocuments(), layout=layout)
    batch = data.train.make_batch(range(len(data.train)))
    pairs = [(row, column) for row in range(len(batch)) for column in range(batch.lengths[row])]
    inputs, targets = ([tensor[at].item() for at in pairs] for tensor in (batch.inputs, batch.targets))
    assert inputs == [data.eos_id, *targets[:-1]]


def test_packed_rows_are_full_and_examples_are_documents(tmp_path: Path) -> None:
    packed, examples = (
        make_token_data(tmp_path, layout=layout, sequence_length=400) for layout in ("packed", "examples")
    )
    assert set(packed.train.lengths[:-1]) == {400}
    assert len(examples.train) == 24
    assert examples.train.make_batch(range(24)).inputs[:, 0].tolist() == [examples.eos_id] * 24
    assert packed.digest == examples.digest


def test_prompts_are_inputs_but_not_targets(tmp_path: Path) -> None:
    data = make_token_data(tmp_path, SyntheticDocuments(count=20, prompt_chance=1.0), sequence_length=400)
    tokenizer = Tokenizer.load(data.tokenizer_path)
    batch = data.train.make_batch(range(len(data.train)))
    for row, document in enumerate(list(SyntheticDocuments(count=20, prompt_chance=1.0).iter_documents())[:16]):
        prompt, text = tokenizer.encode([document.prompt, document.text])
        length = batch.lengths[row]
        assert batch.inputs[row, :length].tolist() == [data.eos_id, *prompt, *text]
        assert batch.targets[row, :length].tolist() == [*[IGNORE_INDEX] * len(prompt), *text, data.eos_id]


def test_padding_is_on_the_right_and_not_counted(tmp_path: Path) -> None:
    data = make_token_data(tmp_path)
    batch = data.train.make_batch([3, 0, 5, 1])
    assert batch.inputs.shape == batch.targets.shape == (4, batch.lengths.max())
    assert batch.inputs.dtype == batch.targets.dtype == torch.int64
    assert batch.n_scored == (batch.targets != IGNORE_INDEX).sum()
    assert batch.n_tokens == sum(batch.lengths)
    for row, length in enumerate(batch.lengths):
        assert (batch.targets[row, length:] == IGNORE_INDEX).all()
        assert (batch.inputs[row, length:] == data.eos_id).all()


def test_slice_of_batch_equals_batch_of_slice(tmp_path: Path) -> None:
    rows = make_token_data(tmp_path).train
    for selected in (slice(0, 2), slice(2, 5), slice(1, None, 2), slice(4, 99)):
        cut, own = rows.make_batch(range(5))[selected], rows.make_batch(range(5)[selected])
        assert torch.equal(cut.inputs, own.inputs)
        assert torch.equal(cut.targets, own.targets)
        assert (len(cut), cut.n_scored, cut.n_tokens) == (len(own), own.n_scored, own.n_tokens)
    assert (len(rows.make_batch(range(5))[5:]), rows.make_batch(range(5))[5:].n_scored) == (0, 0)


def test_validation_rows_are_sorted_longest_first(tmp_path: Path) -> None:
    lengths = make_token_data(tmp_path, sequence_length=400).val.lengths
    assert lengths.tolist() == sorted(lengths, reverse=True)
    assert len(set(lengths)) > 1


def test_each_epoch_is_another_permutation() -> None:
    first, second = (get_example_indices(start, 50, 50, seed=3, shuffle=True) for start in (0, 50))
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert first != get_example_indices(0, 50, 50, seed=4, shuffle=True)
    assert get_example_indices(0, 5, 3, seed=3, shuffle=False) == [0, 1, 2, 0, 1]


def test_example_indices_depend_on_position_only() -> None:
    whole = get_example_indices(0, 200, 30, seed=3, shuffle=True)
    assert [get_example_indices(position, 7, 30, 3, True) for position in (150, 0, 29, 64)] == [
        whole[position : position + 7] for position in (150, 0, 29, 64)
    ]


def test_metadata_describes_the_validation_text(tmp_path: Path) -> None:
    data = make_token_data(tmp_path)
    held_out = list(PROMPTED.iter_documents())[24:]
    counts = Counter(encode_documents(data, held_out))
    shares = [count / counts.total() for count in counts.values()]
    assert data.unigram_entropy == pytest.approx(-sum(share * math.log(share) for share in shares))
    assert data.val_characters == sum(len(document.text) for document in held_out)
    assert data.val_bytes == sum(len(document.text.encode()) for document in held_out) > data.val_characters
    assert (data.name, data.vocab_size) == ("SyntheticDocuments", 280)


def test_layout_settings_do_not_reread_documents(tmp_path: Path) -> None:
    first = make_token_data(tmp_path)
    closed = SyntheticDocuments(count=30, longest=20, prompt_chance=0.7, is_readable=False)
    changes = {"sequence_length": 11, "layout": "packed", "shuffle": False, "eval_batch_size": 3}
    second = make_token_data(tmp_path, closed, **changes)
    assert second.digest == first.digest
    with pytest.raises(AssertionError, match="the documents were read"):
        make_token_data(tmp_path, closed, val_fraction=0.3)
    with pytest.raises(AssertionError, match="the documents were read"):
        make_token_data(tmp_path, closed, ByteLevelBPE(281))


def test_cached_data_needs_no_documents_or_transformers(tmp_path: Path) -> None:
    pretrained = PretrainedTokenizer(
        str(ByteLevelBPE(280).build(list(SyntheticDocuments().iter_documents()), [], tmp_path / "own").folder)
    )
    first = make_token_data(tmp_path, tokenizer=pretrained)
    code = f"""
import sys
from pathlib import Path
from harness.data.tokenizers import PretrainedTokenizer
from harness.data.tokens import prepare_token_data
from tests.data.documents import SyntheticDocuments
source = SyntheticDocuments(count=30, longest=20, prompt_chance=0.7, is_readable=False)
data = prepare_token_data(source, PretrainedTokenizer({pretrained.name!r}), sequence_length=16, layout="examples",
                          val_fraction=0.2, shuffle=True, seed=0, eval_batch_size=8, cache_dir=Path({str(tmp_path)!r}))
print(data.digest, data.train.make_batch(range(9)).inputs.sum().item(), "transformers" in sys.modules)
"""
    root = Path(__file__).parents[2]
    completed = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert completed.stdout.split() == [
        first.digest,
        str(first.train.make_batch(range(9)).inputs.sum().item()),
        "False",
    ]


@pytest.mark.parametrize("torn", ["train.npy", "val.npy", "val_scored.npy", "meta.json", "tokenizer/tokenizer.json"])
def test_incomplete_cache_is_rebuilt(tmp_path: Path, torn: str) -> None:
    def tokens() -> tuple[list[int], list[int]]:
        data = make_token_data(tmp_path)
        return collect_scored_tokens(data.train), collect_scored_tokens(data.val)

    whole = tokens()
    (path,) = (tmp_path / "data").glob(f"*/{torn}")
    content = path.read_bytes()
    path.unlink()  # not under the map that the first reading may still hold
    path.write_bytes(content[:-5])
    assert tokens() == whole
    assert path.read_bytes() == content


def test_vocabulary_over_65536_is_stored_exactly(tmp_path: Path) -> None:
    folder = ByteLevelBPE(280).build(list(SyntheticDocuments().iter_documents()), [], tmp_path / "own").folder
    facts = json.loads((folder / "harness.json").read_text())
    (folder / "harness.json").write_text(json.dumps({**facts, "vocab_size": 70_000, "eos_id": 69_999}))
    write_manifest(folder)
    large = Tokenizer.load(folder)

    class Large(ByteLevelBPE):
        def build(self, *_: object) -> Tokenizer:
            return large

    data = make_token_data(tmp_path, tokenizer=Large(280))
    assert data.train.make_batch([0]).inputs[0, 0] == 69_999


def test_single_document_is_split_between_words(tmp_path: Path) -> None:
    words = " ".join(document.text for document in SyntheticDocuments(count=60).iter_documents())
    (tmp_path / "book.txt").write_text(words)
    data = make_token_data(tmp_path, TextFiles(str(tmp_path / "book.txt")), layout="packed", val_fraction=0.25)
    assert data.val_characters == pytest.approx(len(words) / 4, abs=6)
    decoded = Tokenizer.load(data.tokenizer_path).backend.decode(collect_scored_tokens(data.val))
    assert decoded.startswith(" ")
    assert words.endswith(decoded)


def test_pydoc_answers_fit_their_rows(tmp_path: Path) -> None:
    data = make_token_data(tmp_path, PydocQA(), ByteLevelBPE(1000), sequence_length=96, val_fraction=0.1)
    batch = data.train.make_batch(get_example_indices(0, 32, len(data.train), 0, True))
    assert 0 < batch.n_scored < batch.n_tokens < batch.inputs.numel()
    assert data.unigram_entropy < math.log(1000)


def test_short_test_split_is_no_matter_of_val_fraction(tmp_path: Path) -> None:
    words = " ".join(document.text for document in SyntheticDocuments(count=60).iter_documents())
    (tmp_path / "train.txt").write_text(words)
    (tmp_path / "test.txt").write_text("one two three")
    source = TextFiles(str(tmp_path / "train.txt"))
    with pytest.raises(ValueError, match=r"more than the \d+ tokens of the test split; lower it, or use more text"):
        make_token_data(tmp_path, source, layout="packed", sequence_length=40, test=str(tmp_path / "test.txt"))


BAD = {
    "layout": ({"layout": "rows"}, "layout='rows' must be packed or examples"),
    "val_fraction 0": ({"val_fraction": 0.0}, "val_fraction=0.0 must lie between 0 and 1"),
    "val_fraction 1": ({"val_fraction": 1}, "val_fraction=1 must lie between 0 and 1"),
    "sequence_length": ({"sequence_length": 0}, "sequence_length=0 must be 1 or more"),
    "eval_batch_size": ({"eval_batch_size": 0}, "eval_batch_size=0 must be 1 or more"),
    "validation": (
        {"layout": "packed", "sequence_length": 900},
        r"sequence_length=900 is more than the \d+ tokens of the validation split at val_fraction=0.2; lower",
    ),
    "training": (
        {"layout": "packed", "sequence_length": 900, "val_fraction": 0.9},
        r"sequence_length=900 is more than the \d+ tokens of the train split",
    ),
    "vocabulary": ({"tokenizer": ByteLevelBPE(9000)}, r"tokenizer.vocab_size=9000 is more than the text supports, \d+"),
    "no text": ({"source": SyntheticDocuments(count=0)}, "SyntheticDocuments.count=0.* holds no document with text"),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_invalid_settings_are_rejected(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_token_data(tmp_path, **changes)


def test_headlines_file_reaches_the_batch(tmp_path: Path) -> None:
    titles = [document.text for document in SyntheticDocuments(count=50).iter_documents()]
    (tmp_path / "titles.txt").write_text("\n".join(titles))
    data = make_token_data(tmp_path, Headlines(str(tmp_path / "titles.txt")), layout="packed")
    text = Tokenizer.load(data.tokenizer_path).backend.decode(
        collect_scored_tokens(data.train), skip_special_tokens=False
    )
    assert set(text.removesuffix("<eos>").split("<eos>")) <= set(titles)
