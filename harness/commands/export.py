"""python -m harness export RUN: the run's best model in a folder that transformers loads, or its adapters for peft."""

import argparse
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from harness.config.errors import ConfigError
from harness.config.schema import writable
from harness.data.cache import write_whole
from harness.data.tokenizers import FACTS
from harness.models import is_causal
from harness.models.hf_export import as_transformers, transformers_name
from harness.run.load import Recorded, read_back
from harness.training.checkpoint import WEIGHTS
from harness.training.lora import save_adapters, without_adapters


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m harness export", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="a run's folder or name, or its MLflow run id")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="by default exported or adapters, in the run's")
    parser.add_argument("--adapters", action="store_true", help="the adapters alone, not merged, in peft's format")
    args = parser.parse_args(arguments)
    run = read_back(args.run)
    output = args.output or run.folder / ("adapters" if args.adapters else "exported")
    print(f"{output.absolute()}: {export(run, output.absolute(), args.adapters)}")
    return 0


def export(run: Recorded, output: Path, adapters: bool) -> str:
    """Write `output` whole or not at all and say how to load it; ConfigError where it exists, where transformers has no
    class for the model, and for `adapters` of a run that has none. `run.model` is used up."""
    if output.exists():
        raise ConfigError(f"--output: {output} exists; name another folder")
    if adapters and not run.cfg.get("lora"):
        raise ConfigError(f"--adapters: {run.folder} has none, for it trained every weight; leave --adapters out")
    base = _public_base(run) or str(output / "base")
    write = partial(_adapters, run, base) if adapters else partial(_model, run)
    try:
        write_whole(writable("--output", output), write)
    except ValueError as error:
        raise ConfigError(f"RUN: {run.folder}: {error}; take {WEIGHTS} from its checkpoints/best") from error
    loader = "AutoModelForCausalLM" if is_causal(run.model) else "AutoModelForMaskedLM"
    call = f"peft.PeftModel.from_pretrained(base, '{output}'), base from {base}"
    return call if adapters else f"{loader}.from_pretrained('{output}')"


def _model(run: Recorded, folder: Path, *, merged: bool = True) -> None:
    model = as_transformers(without_adapters(run.model, merged=merged), run.tokenizer.eos_id)
    model.save_pretrained(folder)
    _copy_tokenizer(run, folder)


def _adapters(run: Recorded, base: str, folder: Path) -> None:
    """With the base beside them, unless it can be had where the run had it."""
    task_type = "CAUSAL_LM" if is_causal(run.model) else None  # peft has none for masked models
    save_adapters(run.model, folder, base=base, task_type=task_type, rename=partial(transformers_name, model=run.model))
    _copy_tokenizer(run, folder)
    if not _public_base(run):
        _model(run, folder / "base", merged=False)


def _public_base(run: Recorded) -> str | None:
    """The hub name or the folder that a run adapted as it stood."""
    name = run.cfg.model.get("name") if run.cfg.start.kind == "scratch" else None
    return str(Path(name).absolute()) if name and Path(name).is_dir() else name


def _copy_tokenizer(run: Recorded, folder: Path) -> None:
    shutil.copytree(run.tokenizer.folder, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(FACTS))
