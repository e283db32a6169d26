"""150 mistakes of new users, 30 for each of five journeys, and the folder that they are made in.

Each is a command line as it was typed, and the remedy in the message that answers it, which is no part of the line.
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
    (f"run model=hf {_QA}", "model.name="),
    (f"run model=my_model {_QA}", "model=hf model.name=my_model"),
    (f"run model=hf model.name=my_modle {_QA}", "check the name; offline, give a folder with config.json"),
    (f"run model=hf model.name=empty {_QA}", "check the name; offline, give a folder with config.json"),
    (f"run model=hf model.name=my_model/config.json {_QA}", "check the name; offline, give a folder with config.json"),
    (f"run model=hf model.name=broken_model {_QA}", "or set tokenizer.name to a folder that has one"),
    (f"run model=hf model.name=list_model {_QA}", "or set tokenizer.name to a folder that has one"),
    (f"run {_MODEL} data=qa.md", "data=text data.source.path=qa.md"),
    (f"run {_MODEL} data=qa_markdown", "data.source.path="),
    (f"run {_MODEL} data=qa_markdown data.source.path=qa.txt", "give a file, a folder or a glob"),
    (f"run {_MODEL} data=qa_markdown data.path=qa.md", "data.source.path=qa.md?"),
    ("run data=qa_markdown data.source.path=empty", "give a file, a folder or a glob"),
    ("run data=qa_markdown data.source.path=photo.png", "choose one, or convert it to text"),
    ("run data=qa_markdown data.source.path=empty.txt", "is empty; give files with content"),
    ("run data=qa_markdown data.source.path=notes/a.txt", "data=text"),
    ("run data=qa_markdown data.source.path=questions.md", "it needs one"),
    (f"run {_QA} lora.rank=0", "lora=none"),
    (f"run {_QA} lora.rank=eight", "is not a whole number"),
    (f"run {_QA} lora.rank=8.5", "is not a whole number"),
    (f"run {_QA} lora.r=8", "lora.rank=8"),
    (f"run {_QA} rank=8", "lora.rank=8"),
    (f"run {_QA} lora.dropout=1.5", "must lie from 0 to below 1"),
    (f"run {_QA} lora.target_modules=[q_proj]", "choose attention, all_linear, with_head"),
    (f"run {_QA} --lora.rank=8", "settings have no dashes"),
    (f"run {_QA} lora.rank 8", "key=value"),
    (f"run {_QA} lora=lora", "(it has all_linear, attention"),
    (f"run {_QA} data.validation=qa.md", "give each split files of its own"),
    ("sample lasst 'QUESTION: What is a sweep?'", "is not a file, a folder, or a run in"),
    ("sample mine", "`plateau sample --help` lists the arguments"),
    ("export gone", "is not a file, a folder, or a run in"),
]

PRETRAINING = [
    (f"run data=text data.source.path=note/ {_OWN}", "give a file, a folder or a glob"),
    (f"run data=text data.source.path=empty {_OWN}", "give a file, a folder or a glob"),
    (f"run data=text data.source.path=empty.txt {_OWN}", "is empty; give files with content"),
    (f"run data=text data.source.path=photo.png {_OWN}", "choose one, or convert it to text"),
    (f"run data=text data.source.path=latin1.txt {_OWN}", "convert it, for example with iconv -f latin1 -t utf-8"),
    (f"run data=text 'data.source.path=notes/*.tex' {_OWN}", "give a file, a folder or a glob"),
    (f"run data=notes/ {_OWN}", "data=text data.source.path=notes/"),
    (f"run data=headlines data.source.path=titles.csv data.source.column=titel {_OWN}", "data.source.column=title"),
    (f"run data=jsonl data.source.path=notes/a.txt {_OWN}", "data=text"),
    (f"run data=jsonl data.source.path=docs.jsonl data.source.field=body {_OWN}", "data.source has path, text, prompt"),
    (f"run {_TEXT} tokenizer.vocab_size=10000000", "tokenizer.vocab_size=523"),
    (f"run {_TEXT} tokenizer.vocab_size=10", "must be at least 259"),
    (f"run {_TEXT} tokenizer.vocab_size=4k", "is not a whole number"),
    ("run data=text data.source.path=notes/ tokenizer=gpt2", "tokenizer=pretrained tokenizer.name=gpt2"),
    ("run data=text data.source.path=notes/ tokenizer=pretrained start=scratch", "tokenizer.name="),
    (f"run {_TEXT} data.sequence_length=1024", "data.sequence_length=128"),
    (f"run {_TEXT} data.seq_len=64", "data.sequence_length=64"),
    (
        f"run {_TEXT} model=gpt_medium",
        "did you mean 'gpt_headlines'? for a folder or a hub name use model=hf model.name=gpt_medium",
    ),
    (f"run {_TEXT} model.heads=5", "is not divisible by"),
    (f"run {_TEXT} batch=64", "batch.batch_size=64"),
    (f"run {_TEXT} batch.batch_size=32.5", "is not a whole number"),
    (f"run {_TEXT} loop.max_steps=0", "must be at least 1"),
    (f"run {_TEXT} loop.epochs=three", "is not a number"),
    (f"run {_TEXT} epochs=3", "loop.epochs=3"),
    (f"run {_TEXT} data.val_fraction=10%", "is not a number"),
    (f"run {_TEXT} data.val_fraction=10", "must lie between 0 and 1, for example 0.1"),
    (f"run {_TEXT} data.validation=notes/a.txt", "give each split files of its own"),
    (f"run {_TEXT} precision=bfloat16", "did you mean 'bf16'?"),
    (f"run {_TEXT} device=gpu", "did you mean 'cuda'?"),
    (f"run {_TEXT} optimizer=AdamW", "did you mean 'adamw'?"),
]

OPERATOR = [
    (f"run {_FIELDS}", "data.train="),
    (f"run {_FIELDS} data.train=trian.pt", "give a file, a folder or a glob"),
    ("run experiment=operator data=train.pt", "data=pde_files data.train=train.pt"),
    (f"run {_FIELDS} data.train=named.pt", "name the arrays with data.x=NAME data.y=NAME"),
    (f"run {_FIELDS} data.train=train.pt data.x=a", "name the arrays with data.x=NAME data.y=NAME"),
    (f"run {_FIELDS} data.train=uneven.pt", "both need the same number of samples"),
    (f"run {_FIELDS} data.train=other_grid.pt", "save [samples, *grid] or [samples, channels, *grid]"),
    (f"run {_FIELDS} data.train=array.pt", "y: FILE}"),
    (f"run {_FIELDS} data.train=text.pt", "not a file of tensors saved with torch.save"),
    (f"run {_FIELDS} data.train=cut.pt", "not a file of tensors saved with torch.save"),
    (f"run {_FIELDS} data.train=empty.pt", "is empty; give files with content"),
    (f"run {_FIELDS} data.train=nan.pt", "is not finite in 12 samples, the first is sample 0"),
    (f"run {_FIELDS} data.train=one.pt", "lower it, or give validation files"),
    (f"run {_FIELDS} data.train=complex.pt", "save its real and imaginary parts as two channels"),
    (f"run {_FIELDS} data.train=flat.pt", "save [samples, *grid] or [samples, channels, *grid]"),
    (f"run {_FIELDS} data.train=strings.npz", "name another array"),
    (f"run {_SPLIT} data.channels=2", "is not one of first, last, none"),
    (f"run {_SPLIT} data.channels=last model.modes=40", "model.modes=16"),
    (f"run {_SPLIT} model.modes=0", "must be 1 or more"),
    (f"run {_SPLIT} model.modes=many", "is not a whole number"),
    (f"run {_FIELDS} data.train=train.mat", "convert it, for example with numpy.savez"),
    (f"run {_FIELDS} data.train=x.npy", "y: FILE}"),
    (f"run {_FIELDS} data.train={{x: x.npy, y: y.npy}}", "key=value"),
    (f"run {_FIELDS} 'data.train={{x: x.npy}}'", "must have the keys x and y, such as {x: x.npy, y: y.npy}"),
    (f"run {_FIELDS} 'data.train={{x: x.npy, y: gone.npy}}'", "give a file, a folder or a glob"),
    (f"run {_FIELDS} data.train=empty", "give a file, a folder or a glob"),
    (f"run {_SPLIT} data.limit=0", "must be 1 or more, or null for every sample"),
    (f"run {_FIELDS} data.train=train.pt data.validation=train.pt", "give each split files of its own"),
    (f"run {_SPLIT} task.loss=mse", "is not one of l2, h1"),
    (f"run {_SPLIT} lora=all_linear", "lora=none"),
]

LOG = [
    ("diagnose", "`plateau diagnose --help` lists the arguments"),
    ("diagnose gone.log", "is not a file, a folder, or a run in"),
    ("diagnose train.log gone.log", "is not a file, a folder, or a run in"),
    ("diagnose empty.txt", "the file is empty"),
    ("diagnose photo.png", "log, CSV, JSONL, trainer_state.json or TensorBoard event file"),
    ("diagnose empty", "log, CSV, JSONL, trainer_state.json or TensorBoard event file"),
    ("diagnose notes/", "log, CSV, JSONL, trainer_state.json or TensorBoard event file"),
    ("diagnose notes/a.txt", "expected e.g. 'step 100 | loss 3.21"),
    ("diagnose header.csv", "no column for steps, such as step, global_step or epoch"),
    ("diagnose prices.csv", "no column for steps, such as step, global_step or epoch"),
    ("diagnose cut/trainer_state.json", "copy the file again"),
    ("diagnose other/trainer_state.json", "no column for losses, such as loss, train_loss or val_loss"),
    ("diagnose list.json", "expected e.g. 'step 100 | loss 3.21"),
    ("diagnose cut.jsonl", "expected e.g. 'step 100 | loss 3.21"),
    ("diagnose log.gz", "is not a complete gzip file"),
    ("diagnose events.out.tfevents.1", "log, CSV, JSONL, trainer_state.json or TensorBoard event file"),
    ("diagnose train.pt", "log, CSV, JSONL, trainer_state.json or TensorBoard event file"),
    ("diagnose /dev/null", "give a regular file"),
    ("diagnose outputs", "log, CSV, JSONL, trainer_state.json or TensorBoard event file"),
    ("diagnose https://example.org/train.log", "is not a file, a folder, or a run in"),
    ("diagnose deadbeefdeadbeefdeadbeefdeadbeef", "name another with --uri"),
    ("diagnose log=train.log", "is not a file, a folder, or a run in"),
    ("diagnose train.log --metric loss", "`plateau diagnose --help` lists the arguments"),
    ("diagnose train.log --threshold spike=8", "must be one of confidence, min_points"),
    ("diagnose train.log --threshold spike_z=high", "must be a number"),
    ("diagnose train.log --threshold spike_z", "write it as in spike_z=6"),
    ("diagnose train.log --expect 'loss < 3'", "write 'step 1500: val/loss < 6.65'"),
    ("diagnose train.log --expect 'step ten: val/loss < 3'", "write 'step 1500: val/loss < 6.65'"),
    ("diagnos train.log", "did you mean 'diagnose'?"),
    ("prescribe train.log", "try diagnose for other logs"),
]

PLATFORM = [
    ("run -m sweep.n_trials=0", "must be at least 1"),
    ("run -m sweep.n_trials=ten", "is not a whole number"),
    ("run -m n_trials=10", "sweep.n_trials=10"),
    ("run -m sweep.n_jobs=-1", "must be at least 1"),
    ("run -m sweeps=optimiser", "did you mean 'optimizers'?"),
    ("run -m optimizer.lr=1e-4..1e-2", "'optimizer.lr=log(1e-4,1e-2)'"),
    ("run -m 'optimizer.lr=interval(1e-2,1e-4)'", "'optimizer.lr=interval(1e-4,1e-2)'"),
    ("run -m 'optimizer.lr=tag(log,interval(0,1e-2))'", "must start above 0"),
    ("run -m lora.ranks=2,4", "did you mean lora.rank?"),
    ("run -m lora.rank=0,4", "lora=none"),
    ("run seed=1,2", "add -m, or quote the value"),
    ("run -m sweep.storage=nosuch://host/db sweep.dry_run=true", "use one such as postgresql+psycopg://host/database"),
    ("run -m sweep.study=a/b", "must be at most 80 letters, digits"),
    ("run -m sweep.objectives=[accuracy]", "must be distinct names from best_val_loss, tokens"),
    ("run -m sweep.max_seconds=1h", "is not a number"),
    ("run -m sweep.enqueue=[1]", "such as {optimizer.lr: 0.01}"),
    ("run -m pruner=hyperbnd", "did you mean 'hyperband'?"),
    ("run -m hydra/launcher=slurm", "did you mean 'submitit_slurm'?"),
    ("run start=resume", "start.run="),
    ("run start=resume start.run=gone", "is not a file, a folder, or a run in"),
    ("run start=resume start.run=mine/best", "is not a file, a folder, or a run in"),
    ("repair gone", "name a sweep's folder, such as outputs/sweeps/default"),
    ("repair notes", "name a sweep's folder, such as outputs/sweeps/default"),
    ("sync gone", "is not a file, a folder, or a run in"),
    ("ui --port 99999", "port must be 0-65535"),
    ("run tracking.uri=http//localhost:5000", "use sqlite:///FILE or http://HOST:PORT"),
    ("run output_dir=notes/a.txt", "choose another folder with output_dir="),
    ("run name=my/run", "must be 1 to 80 characters: letters, digits"),
    ("preflight --only gradient", "must be one of batches, loss_form"),
    ("run --config-name=mine", "use --config-dir FOLDER experiment=NAME"),
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
