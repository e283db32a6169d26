"""python -m harness export RUN: the run's best model in a folder that transformers loads, or its adapters for peft."""

import argparse
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from harness.config.errors import ConfigError
from harness.config.schema import check_writable
from harness.core.files import write_folder_atomically
from harness.data.tokenizers import METADATA_FILE
from harness.models import is_causal
from harness.models.hf_export import to_transformers_model, to_transformers_name
from harness.run.load import LoadedRun, load_recorded_run
from harness.training.checkpoint import WEIGHTS_FILE
from harness.training.lora import remove_adapters, save_adapters


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m harness export", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="a run's folder or name, or its MLflow run id")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="by default exported or adapters, in the run's")
    parser.add_argument("--adapters", action="store_true", help="the adapters alone, not merged, in peft's format")
    args = parser.parse_args(arguments)
    run = load_recorded_run(args.run)
    output = args.output or run.folder / ("adapters" if args.adapters else "exported")
    print(f"{output.absolute()}: {export_model(run, output.absolute(), args.adapters)}")
    return 0


def export_model(run: LoadedRun, output: Path, adapters: bool) -> str:
    """Write `output` whole or not at all and say how to load it; ConfigError where it exists, where transformers has no
    class for the model, and for `adapters` of a run that has none. `run.model` is used up."""
    if output.exists():
        raise ConfigError(f"--output: {output} exists; name another folder")
    if adapters and not run.cfg.get("lora"):
        raise ConfigError(f"--adapters: {run.folder} has none, for it trained every weight; leave --adapters out")
    base = _find_public_base(run) or str(output / "base")
    write = partial(_write_adapters, run, base) if adapters else partial(_write_model, run)
    try:
        write_folder_atomically(check_writable("--output", output), write)
    except ValueError as error:
        raise ConfigError(f"RUN: {run.folder}: {error}; take {WEIGHTS_FILE} from its checkpoints/best") from error
    loader = "AutoModelForCausalLM" if is_causal(run.model) else "AutoModelForMaskedLM"
    call = f"peft.PeftModel.from_pretrained(base, '{output}'), base from {base}"
    return call if adapters else f"{loader}.from_pretrained('{output}')"


def _write_model(run: LoadedRun, folder: Path, *, merged: bool = True) -> None:
    model = to_transformers_model(remove_adapters(run.model, merged=merged), run.tokenizer.eos_id)
    model.save_pretrained(folder)
    _copy_tokenizer(run, folder)


def _write_adapters(run: LoadedRun, base: str, folder: Path) -> None:
    """With the base beside them, unless it can be had where the run had it."""
    task_type = "CAUSAL_LM" if is_causal(run.model) else None  # peft has none for masked models
    save_adapters(
        run.model, folder, base=base, task_type=task_type, rename=partial(to_transformers_name, model=run.model)
    )
    _copy_tokenizer(run, folder)
    if not _find_public_base(run):
        _write_model(run, folder / "base", merged=False)


def _find_public_base(run: LoadedRun) -> str | None:
    """The hub name or the folder that a run adapted as it stood."""
    name = run.cfg.model.get("name") if run.cfg.start.kind == "scratch" else None
    return str(Path(name).absolute()) if name and Path(name).is_dir() else name


def _copy_tokenizer(run: LoadedRun, folder: Path) -> None:
    shutil.copytree(run.tokenizer.folder, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(METADATA_FILE))
