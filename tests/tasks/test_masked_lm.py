"""Masked language modelling: rows, masks, attention and scores."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from harness.core.distributed import ProcessGroup
from harness.data.tokenizers import ByteLevelBPE, Tokenizer, TokenizerBuilder, WordPiece
from harness.data.tokens import IGNORE_INDEX, get_example_indices, prepare_token_data
from harness.models.gpt import GPT
from harness.tasks.masked_lm import MaskedLM, build_masked_lm_task
from harness.training.evaluation import evaluate
from tests.data.documents import SyntheticDocuments

CPU = ProcessGroup(torch.device("cpu"))
SOURCE, LENGTH, VOCABULARY = SyntheticDocuments(count=120, longest=12), 32, 90


def make_bert(*, vocab_size: int, kind: str = "Bert", spread: float = 0.02) -> nn.Module:
    """Return a one-layer transformers encoder. With a large weight `spread` all visible tokens change the loss."""
    import transformers

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    sizes |= {"vocab_size": vocab_size, "max_position_embeddings": 64, "initializer_range": spread}
    config = getattr(transformers, f"{kind}Config")(**sizes)
    return getattr(transformers, f"{kind}ForMaskedLM")(config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cache shared by the tests of this file."""
    return tmp_path_factory.mktemp("masked")


def make_masked_task(
    folder: Path,
    *,
    model: object = make_bert,
    tokenizer: TokenizerBuilder | None = None,
    seed: int = 0,
    **changes: object,
) -> MaskedLM:
    rows = {"sequence_length": LENGTH, "layout": "packed", "val_fraction": 0.25, "shuffle": True, "eval_batch_size": 8}
    rows["test_share"] = None
    cut = {name: changes.pop(name) for name in list(changes) if name in rows}
    torch.manual_seed(0)
    choices = {"mask": "span", "mask_fraction": 0.15, "within_documents": True, **changes}
    data, tokenizer = partial(prepare_token_data, SOURCE, **{**rows, **cut}), tokenizer or WordPiece(VOCABULARY)
    task = build_masked_lm_task(model=model, data=data, tokenizer=tokenizer, seed=seed, cache_dir=folder, **choices)
    task.model.eval()
    return task


def test_test_split_is_masked_and_scored_as_a_validation_set_is(folder: Path) -> None:
    cut = make_masked_task(folder, tokenizer=WordPiece(VOCABULARY, corpus=SOURCE), test_share=0.25)
    test_task = cut.make_test_task()
    assert test_task is not None
    assert test_task.model is cut.model
    report = evaluate(test_task, CPU)
    assert report["coverage"].unit == "fraction of test tokens"
    [first, *_] = test_task.validation_batches()
    assert torch.equal(first.inputs, next(iter(test_task.validation_batches())).inputs)  # the same masks every time
    assert report["loss"].value == evaluate(test_task, CPU)["loss"].value != evaluate(cut, CPU)["loss"].value


def test_examples_row_is_one_document_with_special_tokens(folder: Path) -> None:
    task = make_masked_task(folder, layout="examples", sequence_length=60)
    tokenizer = Tokenizer.load(task.data.tokenizer_path)
    encoded = tokenizer.encode([document.text for document in SOURCE.iter_documents()])
    batch = task.get_batch(0, 20)
    for row, which in enumerate(get_example_indices(0, 20, len(task.data.train), 0, True)):
        true = torch.where(batch.targets[row] == IGNORE_INDEX, batch.inputs[row], batch.targets[row])
        assert true[: batch.lengths[row]].tolist() == [tokenizer.cls_id, *encoded[which], tokenizer.eos_id]


def test_packed_rows_cover_every_token_once(folder: Path) -> None:
    task = make_masked_task(folder)
    batch = task.data.train.read_rows(range(len(task.data.train)))
    tokens = [row[1 : 1 + length] for row, length in zip(batch[0], batch[2], strict=True)]
    assert [token for row in tokens for token in row] == task.data.train.stream[1:].tolist()
    assert {len(row) for row in tokens[:-1]} == {LENGTH}


def test_count_scored_is_masked_tokens(folder: Path) -> None:
    task = make_masked_task(folder, layout="examples", sequence_length=60)
    batch = task.get_batch(5, 16)
    assert task.count_scored(batch) == (batch.targets != IGNORE_INDEX).sum()
    assert task.count_tokens(batch) == batch.lengths.sum() < batch.inputs.numel()
    parts = task.split_batch(batch, 3)
    assert sum(part.n_scored for part in parts) == task.count_scored(batch)


@pytest.mark.parametrize("layout", ["packed", "examples"])
def test_loss_is_cross_entropy_of_masked_tokens(folder: Path, layout: str) -> None:
    task = make_masked_task(folder, layout=layout, model=partial(make_bert, spread=1.0))
    batch = task.get_batch(0, 8)
    expected = torch.zeros(())
    for row in range(8):  # alone: no padding, no mask except that of documents
        inputs = batch.inputs[row : row + 1, : batch.lengths[row]]
        documents = (inputs == task.data.eos_id).cumsum(1) - (inputs == task.data.eos_id).long()
        visible = (documents[:, :, None] == documents[:, None, :])[:, None]
        logits = task.model(input_ids=inputs, attention_mask=visible).logits[0]
        expected += F.cross_entropy(logits, batch.targets[row, : batch.lengths[row]], reduction="sum")
    assert task.compute_loss(batch).sum.item() == pytest.approx(expected.item(), rel=1e-5)
    assert sum(task.compute_loss(part).sum.item() for part in task.split_batch(batch, 3)) == pytest.approx(
        expected.item(), rel=1e-5
    )


def test_initial_loss_and_accuracy(folder: Path) -> None:
    task = make_masked_task(folder)
    report = evaluate(task, CPU)
    assert report["loss"].value == pytest.approx(math.log(VOCABULARY), abs=0.05)
    assert report["loss"].unit == "nats/masked token"
    assert report["loss"].standard_error > 0
    hits, masks = 0, 0
    for batch in task.validation_batches():
        logits = task.model(input_ids=batch.inputs, **task.attention_inputs(batch)).logits
        is_masked = batch.targets != IGNORE_INDEX
        hits += (logits.argmax(-1) == batch.targets)[is_masked].sum().item()
        masks += is_masked.sum().item()
    assert report["accuracy"].value == hits / masks
    assert report["coverage"].value == pytest.approx(0.15, abs=0.02)
    assert not report.keys() & {"perplexity", "nats_per_character", "bits_per_byte"}


def test_unigram_entropy_excludes_special_tokens(folder: Path) -> None:
    task = make_masked_task(folder)
    tokenizer = Tokenizer.load(task.data.tokenizer_path)
    held_out = [document.text for document in SOURCE.iter_documents()][-30:]
    tokens = torch.tensor([token for ids in tokenizer.encode(held_out) for token in ids])
    shares = tokens.bincount() / len(tokens)
    assert task.constants["unigram_entropy"] == pytest.approx(
        -torch.special.xlogy(shares, shares).sum().item(), rel=1e-5
    )


def test_validation_masks_are_the_same_in_every_run(folder: Path) -> None:
    tasks = [make_masked_task(folder, seed=seed, eval_batch_size=size) for seed, size in ((0, 8), (3, 8), (3, 5))]
    losses = [evaluate(task, CPU)["loss"].value for task in tasks]
    assert losses[0] == losses[1]
    assert losses[2] == pytest.approx(losses[0], rel=1e-6)


def test_training_masks_depend_on_position_and_seed(folder: Path) -> None:
    task = make_masked_task(folder, shuffle=False)
    rows = len(task.data.train)
    first, again, next_epoch = (task.get_batch(position, 8) for position in (4, 4, 4 + rows))
    assert torch.equal(first.targets, again.targets)
    assert torch.equal(first.inputs, again.inputs)
    assert not torch.equal(first.targets, next_epoch.targets)
    inside = task.get_batch(0, 8).targets[4:]
    assert torch.equal(inside, first.targets[:4])
    assert not torch.equal(first.targets, make_masked_task(folder, shuffle=False, seed=1).get_batch(4, 8).targets)


def test_batch_without_masked_tokens_has_zero_loss(folder: Path) -> None:
    task = make_masked_task(folder)
    batch = task.get_batch(0, 2)
    empty = replace(
        batch, targets=torch.full_like(batch.targets, IGNORE_INDEX), scored_per_row=batch.scored_per_row * 0
    )
    loss = task.compute_loss(empty)
    loss.sum.backward()
    assert (loss.sum.item(), loss.count) == (0, 1)


BAD = {
    "no mask": (
        {"tokenizer": ByteLevelBPE(280)},
        "vocabulary does not match a masked model: it has no mask token; use",
    ),
    "unit": ({"mask": "sentence"}, "mask='sentence' must be one of span, subword, whole_word"),
    "share": ({"mask_fraction": 0.0}, "mask_fraction=0.0 must lie between 0 and 1"),
    "positions": ({"sequence_length": 65}, "sequence_length=65 is longer than the model's 64 positions"),
    "a causal model": (
        {"model": partial(GPT, positions=64, layers=1, width=16, heads=2, dropout=0.0)},
        "sees only the tokens before each position; use a bidir",
    ),
    "a model that takes no such mask": (
        {"model": partial(make_bert, kind="MegatronBert")},
        "MegatronBertForMaskedLM does not keep attention within documents; use task.within_documents=false",
    ),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_untrainable_configs_are_rejected(folder: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_masked_task(folder, **changes)


def test_remedy_for_unsupported_attention_mask_works(folder: Path) -> None:
    choices = {
        "model": partial(make_bert, kind="MegatronBert", spread=1.0),
        "within_documents": False,
        "layout": "examples",
    }
    task = make_masked_task(folder, **choices)
    batch = task.get_batch(0, 8)
    alone = sum(task.compute_loss(row).sum.item() for row in task.split_batch(batch, 1))
    assert task.compute_loss(batch).sum.item() == pytest.approx(alone, rel=1e-4)
