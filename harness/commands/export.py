"""Export a run's best model to a folder that transformers loads, or its adapters for peft.

plateau export RUN
"""

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from harness.commands.arguments import CommandParser, add_run
from harness.config.validation import check_writable
from harness.core.digests import MANIFEST, write_manifest
from harness.core.errors import ConfigError, RunFailedError
from harness.core.files import write_folder_atomically
from harness.data.tokenizer_export import make_tokenizer_portable
from harness.data.tokenizers import METADATA_FILE
from harness.models import is_causal, max_positions
from harness.models.hf_export import to_transformers_model, to_transformers_name
from harness.run.load import LoadedRun, load_recorded_run
from harness.tracking.mlflow_client import UploadError
from harness.tracking.model_upload import check_uploaded, upload_folder
from harness.training.checkpoint import WEIGHTS_FILE
from harness.training.lora import remove_adapters, save_adapters
from harness.training.optimizers import output_head


def main(arguments: Sequence[str]) -> int:
    parser = CommandParser(prog="plateau export", description=__doc__)
    add_run(parser)
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="default: RUN/exported or RUN/adapters")
    parser.add_argument("--adapters", action="store_true", help="export the adapters only, unmerged, in peft's format")
    parser.add_argument("--mlflow", action="store_true", help="also upload it to the run in MLflow, as an artifact")
    args = parser.parse_args(arguments)
    run = load_recorded_run(args.run, args.output_dir)
    if args.mlflow:
        check_uploaded(run.folder)
    output = args.output or run.folder / ("adapters" if args.adapters else "exported")
    note = describe_merging(run) if args.adapters else ""
    print(f"{output.absolute()}: {export_model(run, output.absolute(), args.adapters)}")
    if note:
        print(f"note: {note}")
    if args.mlflow:
        try:
            print(f"uploaded to {upload_folder(run.folder, output, 'adapters' if args.adapters else 'model')}")
        except UploadError as error:
            raise RunFailedError(f"exported, but not uploaded: {error}") from error
    return 0


def export_model(run: LoadedRun, output: Path, adapters: bool) -> str:
    """Write the model to `output` and return the call that loads it. `run.model` is modified.

    Raises:
        ConfigError: If `output` exists, if transformers has no class for the model, or if `adapters` is set for a run
            without adapters.
    """
    if output.exists():
        raise ConfigError(f"--output: {output} exists; name another folder")
    if adapters and not run.cfg.get("lora"):
        raise ConfigError(f"--adapters: {run.folder} has none: it trained all weights; leave out --adapters")
    base = _find_public_base(run) or str(output / "base")
    write = partial(_write_adapters, run, base) if adapters else partial(_write_model, run)
    try:
        write_folder_atomically(check_writable("--output", output), write)
    except ValueError as error:
        raise ConfigError(f"RUN: {run.folder}: {error}; use {WEIGHTS_FILE} of its checkpoints/best") from error
    loader = "AutoModelForCausalLM" if is_causal(run.model) else "AutoModelForMaskedLM"
    call = f"peft.PeftModel.from_pretrained(base, '{output}'), base from {base}"
    return call if adapters else f"{loader}.from_pretrained('{output}')"


def describe_merging(run: LoadedRun) -> str:
    """Return that peft would merge the adapters into another model than the run's, or an empty string.

    It adds the adapter of the head to the one weight that a tied base has for head and embedding. In the run, as in
    peft before merging, the embedding does not change. A base that is exported with the adapters is not tied.
    """
    model: Any = run.model
    base_head: Any = getattr(output_head(model), "base_layer", None)
    embedding = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    if base_head is None or embedding is None or not _find_public_base(run):
        return ""
    if not torch.equal(base_head.weight, embedding.weight):
        return ""
    return (
        "head and embedding of the base share one weight, to which merge_and_unload() of peft would add the head's "
        "adapter: the merged model would be another one; use the adapters unmerged, or export without --adapters"
    )


def _write_model(run: LoadedRun, folder: Path, *, merged: bool = True) -> None:
    model: Any = to_transformers_model(remove_adapters(run.model, merged=merged), run.tokenizer.eos_id)
    model.save_pretrained(folder)
    _copy_tokenizer(run, folder)
    write_manifest(folder)


def _write_adapters(run: LoadedRun, base: str, folder: Path) -> None:
    """Write the adapters, and their base model too unless it can be loaded from where the run did."""
    task_type = "CAUSAL_LM" if is_causal(run.model) else None  # peft has no type for masked models
    save_adapters(
        run.model, folder, base=base, task_type=task_type, rename=partial(to_transformers_name, model=run.model)
    )
    _copy_tokenizer(run, folder)
    if not _find_public_base(run):
        _write_model(run, folder / "base", merged=False)
    write_manifest(folder)


def _find_public_base(run: LoadedRun) -> str | None:
    """Return the Hub name or folder of the model that the run adapted, None if it was trained here."""
    name = run.cfg.model.get("name") if run.cfg.start.kind == "scratch" else None
    return str(Path(name).absolute()) if name and Path(name).is_dir() else name


def _copy_tokenizer(run: LoadedRun, folder: Path) -> None:
    shutil.copytree(run.tokenizer.folder, folder, dirs_exist_ok=True, ignore=_list_foreign_files)
    make_tokenizer_portable(folder, max_positions(run.model))


def _list_foreign_files(folder: str, names: list[str]) -> list[str]:
    """Return the names in a tokenizer's folder that are not tokenizer files: Python code and symlinks."""
    ours = (METADATA_FILE, MANIFEST)
    return [name for name in names if name in ours or name.endswith(".py") or Path(folder, name).is_symlink()]
