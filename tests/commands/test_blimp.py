"""BLiMP during training, of a finished run, of a transformers model, and in MLflow."""

import json
import re
from pathlib import Path

import huggingface_hub
import pytest
import torch

from harness import cli
from harness.config.compose import compose_config
from harness.core.errors import ConfigError
from harness.data.blimp_published import PUBLISHED_MODELS
from harness.run.load import load_recorded_run
from harness.run.runner import run
from harness.tasks.minimal_pairs import build_likelihood, compare_pairs
from harness.tracking.mlflow_client import connect_to_store
from harness.tracking.run_uploader import upload_run
from harness.tracking.upload_cursor import UploadCursor
from tests.data.documents import WORDS, SyntheticDocuments
from tests.data.test_blimp import write_jsonl
from tests.run.test_run import read_series
from tests.tracking.stores import new_store, only_run

SHORT = [
    "device=cpu",
    "observers=metrics_only",
    "data=text",
    "data.sequence_length=32",
    "batch.batch_size=8",
    "loop.evals=2",
]
SHORT += ["tokenizer.vocab_size=400", "loop.max_steps=6", "data.source.split_on=\\n"]
CAUSAL = ["experiment=smoke", *SHORT, "tokenizer=bpe", "model.layers=1", "model.width=16", "model.heads=2"]
MASKED = ["experiment=ltg_bert", *SHORT, "tokenizer.vocab_size=90", "optimizer.lr=0.01", "model.layers=1"]
MASKED += ["model.width=16", "model.heads=2", "model.hidden=32"]


@pytest.fixture(scope="module")
def text_and_pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Write text in the invented language, and minimal pairs of sentences and the same words backwards."""
    folder = tmp_path_factory.mktemp("text_and_pairs")
    (folder / "text.txt").write_text(
        "\n".join(document.text for document in SyntheticDocuments(count=200).iter_documents())
    )
    rows = []
    for number in range(24):
        words = WORDS[number : number + 3 + number % 4]
        uid = ("order_1", "order_2", "agreement_1")[number % 3]
        sentences = {"sentence_good": " ".join(words), "sentence_bad": " ".join(reversed(words))}
        rows.append({**sentences, "UID": uid, "linguistics_term": uid[:-2], "field": "syntax"})
    return folder / "text.txt", write_jsonl(folder / "pairs.jsonl", rows)


def train_run(kind: list[str], text_and_pairs: tuple[Path, Path], places: list[str], *more: str) -> Path:
    text, pairs = text_and_pairs
    chosen = [*kind, *places, f"data.source.path={text}", f"task.blimp.path={pairs}", "task.blimp.per_paradigm=null"]
    result = run(compose_config([*chosen, *more]))
    assert result.status == "completed", result.reason
    return result.folder


@pytest.mark.parametrize("kind", [CAUSAL, MASKED], ids=["causal", "masked"])
def test_command_matches_best_evaluation_of_run(kind: list[str], text_and_pairs, places, capsys) -> None:
    folder = train_run(kind, text_and_pairs, places)
    losses, shares = read_series(folder, "val/loss"), read_series(folder, "val/blimp")
    assert len(losses) == len(shares) == len(read_series(folder, "val/blimp_se")) == 3
    assert cli.main(["blimp", str(folder), "--data", str(text_and_pairs[1])]) == 0
    output = capsys.readouterr().out
    assert ("pseudo-log-likelihood" if kind is MASKED else "by log-likelihood") in output
    written = json.loads((folder / "blimp.json").read_text())
    assert written["metrics"]["blimp/accuracy"] == shares[losses.index(min(losses))]
    rows = {row[1]: dict(zip(written["columns"], row, strict=True)) for row in written["rows"]}
    assert [rows[name]["pairs"] for name in ("accuracy", "syntax", "order", "order_1")] == [24, 24, 16, 8]
    assert written["about"]["method"] in output


def test_likelihood_context_matches_training(text_and_pairs, places) -> None:
    run = load_recorded_run(str(train_run(MASKED, text_and_pairs, places, "task.blimp.path=null")))
    assert not read_series(run.folder, "val/blimp")
    around = {name: run.tokenizer.backend.token_to_id(name) for name in ("[CLS]", "[SEP]", "[MASK]")}
    score = build_likelihood(run.model, run.tokenizer, is_masked=True)
    assert (score.prefix, score.suffix, score.mask_id) == ((around["[CLS]"],), (around["[SEP]"],), around["[MASK]"])
    causal = build_likelihood(run.model, run.tokenizer, is_masked=False)
    assert (causal.prefix, causal.suffix, causal.mask_id) == ((around["[SEP]"], around["[CLS]"]), (), None)


def test_tie_counts_as_wrong(text_and_pairs, places) -> None:
    run = load_recorded_run(str(train_run(CAUSAL, text_and_pairs, places)))
    good, bad = run.tokenizer.encode([" ".join(WORDS[:4]), " ".join(WORDS[4:9])])
    score = build_likelihood(run.model, run.tokenizer, is_masked=False)
    assert compare_pairs(score, [good, good, bad], [good, bad, good]) in ([False, True, False], [False, False, True])


def test_mlflow_gets_latest_metrics_and_table(text_and_pairs, places, tmp_path, monkeypatch) -> None:
    folder = train_run(CAUSAL, text_and_pairs, places)
    store = new_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    UploadCursor(store, "default").save(folder)
    upload_run(folder)
    ended = only_run(store)[1].info.end_time
    for per_paradigm in ("2", "8"):
        assert cli.main(["blimp", str(folder), "--data", str(text_and_pairs[1]), "--per-paradigm", per_paradigm]) == 0
    client, recorded = only_run(store)
    assert (recorded.info.status, recorded.info.end_time) == ("FINISHED", ended)
    metrics = json.loads((folder / "blimp.json").read_text())["metrics"]
    assert metrics.items() <= recorded.data.metrics.items()
    assert {"blimp/accuracy", "blimp/accuracy_se", "blimp/syntax", "blimp/order", "blimp/order_1"} <= metrics.keys()
    assert recorded.data.tags["unit.blimp/accuracy"] == "fraction of pairs"
    step = json.loads((folder / "checkpoints" / "best" / "checkpoint.json").read_text())["counters"]["step"]
    assert {point.step for point in client.get_metric_history(recorded.info.run_id, "blimp/accuracy")} == {step}
    artifacts = {file.path: file for file in client.list_artifacts(recorded.info.run_id)}
    assert {"blimp.json", "blimp_table.json"} <= artifacts.keys()
    table = json.loads(Path(client.download_artifacts(recorded.info.run_id, "blimp_table.json")).read_text())
    assert table["columns"] == ["kind", "name", "accuracy", "standard_error", "pairs", *PUBLISHED_MODELS]
    assert [row[4] for row in table["data"] if row[1] == "accuracy"] == [24]
    assert json.loads(recorded.data.tags["mlflow.loggedArtifacts"]) == [{"path": "blimp_table.json", "type": "table"}]


def test_unreachable_store_is_synced_later(text_and_pairs, places, tmp_path, capsys, monkeypatch) -> None:
    folder = train_run(CAUSAL, text_and_pairs, places)
    store = new_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    UploadCursor(store, "default").save(folder)
    upload_run(folder)
    hidden = (tmp_path / "mlflow.db").rename(tmp_path / "away.db")
    (tmp_path / "mlflow.db").mkdir()
    assert cli.main(["blimp", str(folder), "--data", str(text_and_pairs[1])]) == 1
    assert f"plateau sync {folder}" in capsys.readouterr().err
    (tmp_path / "mlflow.db").rmdir()
    hidden.rename(tmp_path / "mlflow.db")
    assert cli.main(["sync", str(folder)]) == 0
    client = connect_to_store(store)
    [recorded] = client.search_runs([client.get_experiment_by_name("default").experiment_id])
    assert (
        recorded.data.metrics["blimp/accuracy"]
        == json.loads((folder / "blimp.json").read_text())["metrics"]["blimp/accuracy"]
    )


@pytest.fixture
def hf_folder(tmp_path) -> Path:
    """Save a random GPT-2 and a word tokenizer with transformers."""
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(["<end>", "<unk>", *WORDS])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>").save_pretrained(tmp_path)
    sizes = {"vocab_size": len(vocabulary), "n_positions": 16, "n_layer": 1, "n_embd": 8, "n_head": 2}
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).save_pretrained(tmp_path)
    return tmp_path


def test_transformers_folder_is_scored_without_writing(hf_folder, text_and_pairs, capsys) -> None:
    files = set(hf_folder.iterdir())
    assert cli.main(["blimp", str(hf_folder), "--data", str(text_and_pairs[1])]) == 0
    assert "GPT-2" in capsys.readouterr().out
    assert set(hf_folder.iterdir()) == files


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{model}", "--data", "nowhere.jsonl"], "--data: path='nowhere.jsonl' does not exist"),
        (["{model}", "--data", "{pairs}", "--per-paradigm", "0"], "--data: per_paradigm=0 must be at least 1"),
        (["{model}", "--data", "{pairs}", "--batch-tokens", "0"], "RUN: batch_tokens=0 must be at least 1"),
        (["{pairs}", "--data", "{pairs}"], "is not the folder of a run"),
        (
            ["nobody/nothing", "--data", "{pairs}"],
            "or a run in .*; and as a transformers model: name='nobody",
        ),
    ],
)
def test_invalid_input_is_one_line(arguments, message, hf_folder, text_and_pairs, capsys, monkeypatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    filled = [argument.format(model=hf_folder, pairs=text_and_pairs[1]) for argument in arguments]
    assert cli.main(["blimp", *filled]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1, error
    assert re.search(message, error), error


def test_too_long_sentences_are_rejected_before_the_run(text_and_pairs, places, tmp_path) -> None:
    long = write_jsonl(tmp_path / "long.jsonl", [
        {"sentence_good": "b " * 200, "sentence_bad": "a", "UID": "u", "linguistics_term": "t", "field": "f"}
    ])  # fmt: skip
    chosen = [*CAUSAL, *places, f"data.source.path={text_and_pairs[0]}", f"task.blimp.path={long}"]
    with pytest.raises(ConfigError, match=r"task: a sentence takes \d+ tokens, more than the model's 128 positions"):
        run(compose_config(chosen))
    assert not (tmp_path / "outputs").exists()
