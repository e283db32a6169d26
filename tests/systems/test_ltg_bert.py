"""LTG-BERT end to end: attention within documents, loading a run, and warm starts."""

from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from harness.config.compose import compose_config
from harness.core.errors import ConfigError
from harness.data.tokenizers import WordPiece
from harness.data.tokens import IGNORE_INDEX, TokenBatch, prepare_token_data
from harness.models.ltg_bert import LTGBert
from harness.run.load import load_recorded_run
from harness.run.runner import run
from harness.tasks.masked_lm import build_masked_lm_task
from tests.data.documents import SyntheticDocuments
from tests.run.test_run import read_record, read_series

SIZES = {"width": 32, "layers": 2, "heads": 2, "hidden": 64}
SHORT = [
    "device=cpu",
    "observers=metrics_only",
    "data=text",
    "data.sequence_length=32",
    "batch.batch_size=8",
    "loop.evals=2",
]
TINY = ["experiment=ltg_bert", *SHORT, "tokenizer.vocab_size=90", "loop.max_steps=30", "optimizer.lr=0.03"]
TINY += [f"model.{name}={size}" for name, size in SIZES.items()]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Write a file with one document per line and return its overrides."""
    file = tmp_path_factory.mktemp("text") / "documents.txt"
    file.write_text("\n".join(document.text for document in SyntheticDocuments(count=300).iter_documents()))
    return [f"data.source.path={file}", "data.source.split_on=\\n"]


def compute_piece_loss(task: object, batch: TokenBatch, row: int, start: int, end: int) -> float:
    """Return the loss of a part of a row on its own."""
    inputs, targets = batch.inputs[row : row + 1, start:end], batch.targets[row : row + 1, start:end]
    count = (targets != IGNORE_INDEX).sum(1).numpy()
    return task.compute_loss(TokenBatch(inputs, targets, count * 0 + (end - start), count)).sum.item()


def test_packed_document_scores_as_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = partial(LTGBert, **SIZES, dropout=0.0)
    rows = {"sequence_length": 64, "layout": "packed", "val_fraction": 0.2, "shuffle": True, "eval_batch_size": 8}
    data, tokenizer = partial(prepare_token_data, SyntheticDocuments(count=100, longest=12), **rows), WordPiece(90)
    choices = {"mask": "span", "mask_fraction": 0.15, "within_documents": True}
    task = build_masked_lm_task(model=model, data=data, tokenizer=tokenizer, seed=0, cache_dir=tmp_path, **choices)
    for parameter in task.model.parameters():  # larger weights: every visible token changes the loss
        parameter.data.mul_(4)
    batch = task.get_batch(0, 4)
    for row in range(4):
        ends = [0, *(batch.inputs[row] == task.data.eos_id).nonzero().flatten().add(1).tolist(), 64]
        pieces = [(start, end) for start, end in pairwise(ends) if start < end]
        assert len(pieces) >= 3
        alone = sum(compute_piece_loss(task, batch, row, *piece) for piece in pieces)
        assert task.compute_loss(batch[row : row + 1]).sum.item() == pytest.approx(alone, rel=1e-5)
        task.within_documents = False
        assert abs(task.compute_loss(batch[row : row + 1]).sum.item() - alone) > 1e-4 * alone  # 10 times the tolerance
        task.within_documents = True


def test_run_learns_and_loads(places: list[str], text: list[str]) -> None:
    result = run(compose_config([*TINY, *text, *places]))
    start, losses = read_record(result.folder)[0], read_series(result.folder, "val/loss")
    assert result.status == "completed"
    assert losses[0] == pytest.approx(start["constants"]["ln_vocabulary"], abs=0.3)
    assert losses[-1] < losses[0] - 0.5
    assert 0 < start["constants"]["unigram_entropy"] < start["constants"]["ln_vocabulary"]
    assert 0 < read_series(result.folder, "val/accuracy")[-1] < 1
    assert read_series(result.folder, "val/coverage")[-1] == pytest.approx(0.15, abs=0.03)
    assert start["effective"]["optimizer"] == "Lamb"
    recorded = load_recorded_run(str(result.folder))
    assert isinstance(recorded.model, LTGBert)
    assert (recorded.tokenizer.mask_id, recorded.tokenizer.vocab_size) == (4, 90)


def test_adapters_start_at_the_loss_of_their_base(places: list[str], text: list[str]) -> None:
    first = run(compose_config([*TINY, *text, *places, "loop.max_steps=4"]))
    changes = ["start=warm", f"start.source={first.folder}", "lora=all_linear", "loop.max_steps=2"]
    second = run(compose_config([*TINY, *text, *places, *changes]))
    assert read_series(second.folder, "val/loss")[0] == pytest.approx(
        read_series(first.folder, "val/loss")[-1], rel=1e-5
    )
    assert 0 < second.effective.trainable_parameters < second.effective.parameters / 3


def test_transformers_masked_model_trains(places: list[str], text: list[str], tmp_path: Path) -> None:
    from transformers import BertConfig, BertForMaskedLM

    tokenizer = WordPiece(90).build(list(SyntheticDocuments(count=300).iter_documents()), [], tmp_path / "bert")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    BertForMaskedLM(BertConfig(vocab_size=90, **sizes)).save_pretrained(tokenizer.folder)
    chosen = [
        "model=hf_masked",
        f"model.name={tokenizer.folder}",
        "lora=none",
        "optimizer.lr=3e-3",
        "loop.max_steps=12",
    ]
    result = run(compose_config([*chosen, *SHORT, *text, *places]))
    losses = read_series(result.folder, "val/loss")
    assert losses[-1] < losses[0] - 0.2


def test_tokenizer_without_mask_token_is_rejected(places: list[str], text: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="task: the tokenizer's vocabulary does not match a masked model"):
        run(compose_config([*TINY, *text, *places, "tokenizer=bpe", "tokenizer.vocab_size=280"]))
    assert not (tmp_path / "outputs").exists()
