"""150 mistakes of new users, 30 for each of five journeys, and the folder that they are made in.

Each is a command line as it was typed, and a part of the message that answers it.
"""

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import torch

_WORDS = "the model reads a text and learns to predict which word comes next in every sentence of it"
_MODEL = "model=hf model.name=my_model"
_QA = "data=qa_markdown data.source.path=qa.md"
_OWN = "tokenizer=bpe tokenizer.vocab_size=400 lora=none start=scratch"
_TEXT = f"data=text data.source.path=notes/ {_OWN}"
_FIELDS = "experiment=operator data=pde_files"
_SPLIT = f"{_FIELDS} data.train=train.pt data.validation=val.pt"

LORA = [
    (f"run model=hf {_QA}", "model.name"),
    (f"run model=my_model {_QA}", "model.name=my_model"),
    (f"run model=hf model.name=my_modle {_QA}", "my_modle"),
    (f"run model=hf model.name=empty {_QA}", "model.name"),
    (f"run model=hf model.name=my_model/config.json {_QA}", "model.name"),
    (f"run model=hf model.name=broken_model {_QA}", "broken_model"),
    (f"run model=hf model.name=list_model {_QA}", "list_model"),
    (f"run {_MODEL} data=qa.md", "data.source.path=qa.md"),
    (f"run {_MODEL} data=qa_markdown", "data.source.path"),
    (f"run {_MODEL} data=qa_markdown data.source.path=qa.txt", "qa.txt"),
    (f"run {_MODEL} data=qa_markdown data.path=qa.md", "data.source.path"),
    ("run data=qa_markdown data.source.path=empty", "empty"),
    ("run data=qa_markdown data.source.path=photo.png", "not a text file"),
    ("run data=qa_markdown data.source.path=empty.txt", "empty.txt"),
    ("run data=qa_markdown data.source.path=notes/a.txt", "QUESTION:"),
    ("run data=qa_markdown data.source.path=questions.md", "ANSWER:"),
    (f"run {_QA} lora.rank=0", "rank=0"),
    (f"run {_QA} lora.rank=eight", "lora.rank: 'eight'"),
    (f"run {_QA} lora.rank=8.5", "lora.rank: 8.5"),
    (f"run {_QA} lora.r=8", "lora.rank"),
    (f"run {_QA} rank=8", "lora.rank"),
    (f"run {_QA} lora.dropout=1.5", "dropout=1.5"),
    (f"run {_QA} lora.target_modules=[q_proj]", "q_proj"),
    (f"run {_QA} --lora.rank=8", "lora.rank=8"),
    (f"run {_QA} lora.rank 8", "lora.rank"),
    (f"run {_QA} lora=lora", "lora=lora"),
    (f"run {_QA} data.validation=qa.md", "qa.md"),
    ("sample lasst 'QUESTION: What is a sweep?'", "lasst"),
    ("sample mine", "PROMPT"),
    ("export gone", "gone"),
]

PRETRAINING = [
    (f"run data=text data.source.path=note/ {_OWN}", "note/"),
    (f"run data=text data.source.path=empty {_OWN}", "empty"),
    (f"run data=text data.source.path=empty.txt {_OWN}", "empty.txt"),
    (f"run data=text data.source.path=photo.png {_OWN}", "photo.png"),
    (f"run data=text data.source.path=latin1.txt {_OWN}", "latin1.txt"),
    (f"run data=text 'data.source.path=notes/*.tex' {_OWN}", "notes/*.tex"),
    (f"run data=notes/ {_OWN}", "data.source.path=notes/"),
    (f"run data=headlines data.source.path=titles.csv data.source.column=titel {_OWN}", "title"),
    (f"run data=jsonl data.source.path=notes/a.txt {_OWN}", "a.txt"),
    (f"run data=jsonl data.source.path=docs.jsonl data.source.field=body {_OWN}", "data.source.field"),
    (f"run {_TEXT} tokenizer.vocab_size=10000000", "tokenizer.vocab_size"),
    (f"run {_TEXT} tokenizer.vocab_size=10", "vocab_size=10"),
    (f"run {_TEXT} tokenizer.vocab_size=4k", "tokenizer.vocab_size: '4k'"),
    ("run data=text data.source.path=notes/ tokenizer=gpt2", "tokenizer=gpt2"),
    ("run data=text data.source.path=notes/ tokenizer=pretrained start=scratch", "tokenizer.name"),
    (f"run {_TEXT} data.sequence_length=1024", "data.sequence_length=1024"),
    (f"run {_TEXT} data.seq_len=64", "data.sequence_length"),
    (f"run {_TEXT} model=gpt_medium", "model=gpt_medium"),
    (f"run {_TEXT} model.heads=5", "heads"),
    (f"run {_TEXT} batch=64", "batch.batch_size=64"),
    (f"run {_TEXT} batch.batch_size=32.5", "batch.batch_size: 32.5"),
    (f"run {_TEXT} loop.max_steps=0", "loop.max_steps: 0"),
    (f"run {_TEXT} loop.epochs=three", "loop.epochs: 'three'"),
    (f"run {_TEXT} epochs=3", "loop.epochs"),
    (f"run {_TEXT} data.val_fraction=10%", "data.val_fraction: '10%'"),
    (f"run {_TEXT} data.val_fraction=10", "val_fraction=10"),
    (f"run {_TEXT} data.validation=notes/a.txt", "a.txt"),
    (f"run {_TEXT} precision=bfloat16", "bf16"),
    (f"run {_TEXT} device=gpu", "device=gpu"),
    (f"run {_TEXT} optimizer=AdamW", "adamw"),
]

OPERATOR = [
    (f"run {_FIELDS}", "data.train"),
    (f"run {_FIELDS} data.train=trian.pt", "trian.pt"),
    ("run experiment=operator data=train.pt", "data.train=train.pt"),
    (f"run {_FIELDS} data.train=named.pt", "data.x"),
    (f"run {_FIELDS} data.train=train.pt data.x=a", "data.x"),
    (f"run {_FIELDS} data.train=uneven.pt", "uneven.pt"),
    (f"run {_FIELDS} data.train=other_grid.pt", "other_grid.pt"),
    (f"run {_FIELDS} data.train=array.pt", "array.pt"),
    (f"run {_FIELDS} data.train=text.pt", "text.pt"),
    (f"run {_FIELDS} data.train=cut.pt", "cut.pt"),
    (f"run {_FIELDS} data.train=empty.pt", "empty.pt"),
    (f"run {_FIELDS} data.train=nan.pt", "nan.pt"),
    (f"run {_FIELDS} data.train=one.pt", "1 samples"),
    (f"run {_FIELDS} data.train=complex.pt", "complex"),
    (f"run {_FIELDS} data.train=flat.pt", "flat.pt"),
    (f"run {_FIELDS} data.train=strings.npz", "strings.npz"),
    (f"run {_SPLIT} data.channels=2", "data.channels"),
    (f"run {_SPLIT} data.channels=last model.modes=40", "model.modes"),
    (f"run {_SPLIT} model.modes=0", "modes=0"),
    (f"run {_SPLIT} model.modes=many", "model.modes: 'many'"),
    (f"run {_FIELDS} data.train=train.mat", "train.mat"),
    (f"run {_FIELDS} data.train=x.npy", "x.npy"),
    (f"run {_FIELDS} data.train={{x: x.npy, y: y.npy}}", "quote"),
    (f"run {_FIELDS} 'data.train={{x: x.npy}}'", "keys x and y"),
    (f"run {_FIELDS} 'data.train={{x: x.npy, y: gone.npy}}'", "gone.npy"),
    (f"run {_FIELDS} data.train=empty", "empty"),
    (f"run {_SPLIT} data.limit=0", "limit=0"),
    (f"run {_FIELDS} data.train=train.pt data.validation=train.pt", "train.pt"),
    (f"run {_SPLIT} task.loss=mse", "task.loss"),
    (f"run {_SPLIT} lora=all_linear", "lora"),
]

LOG = [
    ("diagnose", "RUN_OR_LOG"),
    ("diagnose gone.log", "gone.log"),
    ("diagnose train.log gone.log", "gone.log"),
    ("diagnose empty.txt", "empty.txt"),
    ("diagnose photo.png", "photo.png"),
    ("diagnose empty", "empty"),
    ("diagnose notes/", "notes"),
    ("diagnose notes/a.txt", "a.txt"),
    ("diagnose header.csv", "header.csv"),
    ("diagnose prices.csv", "prices.csv"),
    ("diagnose cut/trainer_state.json", "trainer_state.json"),
    ("diagnose other/trainer_state.json", "trainer_state.json"),
    ("diagnose list.json", "list.json"),
    ("diagnose cut.jsonl", "cut.jsonl"),
    ("diagnose log.gz", "log.gz"),
    ("diagnose events.out.tfevents.1", "events.out.tfevents.1"),
    ("diagnose train.pt", "train.pt"),
    ("diagnose /dev/null", "/dev/null"),
    ("diagnose outputs", "outputs"),
    ("diagnose https://example.org/train.log", "https://example.org/train.log"),
    ("diagnose deadbeefdeadbeefdeadbeefdeadbeef", "deadbeef"),
    ("diagnose log=train.log", "train.log"),
    ("diagnose train.log --metric loss", "--metric"),
    ("diagnose train.log --threshold spike=8", "spike"),
    ("diagnose train.log --threshold spike_z=high", "spike_z"),
    ("diagnose train.log --threshold spike_z", "spike_z"),
    ("diagnose train.log --expect 'loss < 3'", "loss < 3"),
    ("diagnose train.log --expect 'step ten: val/loss < 3'", "step ten"),
    ("diagnos train.log", "diagnose"),
    ("prescribe train.log", "train.log"),
]

PLATFORM = [
    ("run -m sweep.n_trials=0", "sweep.n_trials: 0"),
    ("run -m sweep.n_trials=ten", "sweep.n_trials: 'ten'"),
    ("run -m n_trials=10", "sweep.n_trials"),
    ("run -m sweep.n_jobs=-1", "sweep.n_jobs: -1"),
    ("run -m sweeps=optimiser", "optimizers"),
    ("run -m optimizer.lr=1e-4..1e-2", "optimizer.lr"),
    ("run -m 'optimizer.lr=interval(1e-2,1e-4)'", "optimizer.lr"),
    ("run -m 'optimizer.lr=tag(log,interval(0,1e-2))'", "optimizer.lr"),
    ("run -m lora.ranks=2,4", "lora.rank"),
    ("run -m lora.rank=0,4", "lora.rank"),
    ("run seed=1,2", "-m"),
    ("run -m sweep.storage=nosuch://host/db sweep.dry_run=true", "sweep.storage"),
    ("run -m sweep.study=a/b", "sweep.study: 'a/b'"),
    ("run -m sweep.objectives=[accuracy]", "accuracy"),
    ("run -m sweep.max_seconds=1h", "sweep.max_seconds: '1h'"),
    ("run -m sweep.enqueue=[1]", "sweep.enqueue"),
    ("run -m pruner=hyperbnd", "hyperband"),
    ("run -m hydra/launcher=slurm", "hydra/launcher=slurm"),
    ("run start=resume", "start.run"),
    ("run start=resume start.run=gone", "gone"),
    ("run start=resume start.run=mine/best", "mine/best"),
    ("repair gone", "gone"),
    ("repair notes", "notes"),
    ("sync gone", "gone"),
    ("ui --port 99999", "99999"),
    ("run tracking.uri=http//localhost:5000", "tracking.uri"),
    ("run output_dir=notes/a.txt", "output_dir"),
    ("run name=my/run", "name: 'my/run'"),
    ("preflight --only gradient", "gradients"),
    ("run --config-name=mine", "--config-name"),
]

JOURNEYS = {"lora": LORA, "pretraining": PRETRAINING, "operator": OPERATOR, "log": LOG, "platform": PLATFORM}


def write_files(folder: Path) -> None:
    """Write the files that the mistakes name into `folder`."""
    _write_texts(folder)
    _write_fields(folder)
    _write_logs(folder)
    png = struct.pack(">8sI4sIIBBBBB", b"\x89PNG\r\n\x1a\n", 13, b"IHDR", 64, 64, 8, 2, 0, 0, 0)
    (folder / "photo.png").write_bytes(png + bytes(range(256)) * 8)
    (folder / "empty").mkdir()
    for name, config in {
        "my_model": '{"model_type": "gpt2"}',
        "broken_model": '{"model_type"',
        "list_model": "[1]",
    }.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(config)


def _write_texts(folder: Path) -> None:
    (folder / "notes").mkdir()
    for name in ("a.txt", "b.md"):
        (folder / "notes" / name).write_text("\n\n".join(f"{name} {i}: {_WORDS}." for i in range(200)))
    (folder / "empty.txt").touch()
    (folder / "latin1.txt").write_bytes("naïve café ".encode("latin-1") * 100)
    (folder / "qa.md").write_text("\n\n".join(f"QUESTION: What is {i}?\nANSWER: {_WORDS}." for i in range(60)))
    (folder / "questions.md").write_text("\n\n".join(f"QUESTION: What is {i}?" for i in range(60)))
    (folder / "titles.csv").write_text("title,year\n" + "".join(f"Title {i},20{i}\n" for i in range(10, 90)))
    (folder / "docs.jsonl").write_text("".join(json.dumps({"text": f"{i} {_WORDS}"}) + "\n" for i in range(60)))


def _write_fields(folder: Path) -> None:
    x, y = torch.rand(12, 16, 16), torch.rand(12, 16, 16)
    fields = {
        "train": {"x": x, "y": y},
        "val": {"x": x[:4] + 1, "y": y[:4]},
        "named": {"a": x, "u": y},
        "uneven": {"x": x, "y": y[:9]},
        "other_grid": {"x": x, "y": y[:, :8, :8]},
        "array": x,
        "nan": {"x": x, "y": y * float("nan")},
        "one": {"x": x[:1], "y": y[:1]},
        "complex": {"x": x.to(torch.complex64), "y": y},
        "flat": {"x": x[:, 0, 0], "y": y[:, 0, 0]},
    }
    for name, value in fields.items():
        torch.save(value, folder / f"{name}.pt")
    (folder / "text.pt").write_text(_WORDS)
    (folder / "cut.pt").write_bytes((folder / "train.pt").read_bytes()[:5000])
    (folder / "empty.pt").touch()
    (folder / "train.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    np.savez(folder / "strings.npz", x=np.array(["a", "b"]), y=np.array(["c", "d"]))
    for name, array in {"x": x, "y": y}.items():
        np.save(folder / f"{name}.npy", array.numpy())


def _write_logs(folder: Path) -> None:
    (folder / "train.log").write_text("".join(f"step {i}: loss {4 - i / 50:.3f}, lr 1e-3\n" for i in range(100)))
    (folder / "header.csv").write_text("step,loss\n")
    (folder / "prices.csv").write_text("city,price\nParis,3\nRome,4\nOslo,5\n")
    for name, text in {"cut": '{"log_history": [{"step"', "other": '{"epoch": 3}'}.items():
        (folder / name).mkdir()
        (folder / name / "trainer_state.json").write_text(text)
    (folder / "list.json").write_text("[1, 2, 3]")
    (folder / "cut.jsonl").write_text('{"step": 1, "los')
    (folder / "log.gz").write_bytes(gzip.compress(b"step 1: loss 3\n" * 100)[:30])
    (folder / "events.out.tfevents.1").write_bytes(bytes(range(256)))
    (folder / "outputs").mkdir()
