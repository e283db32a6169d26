"""python -m harness blimp RUN --data PATH: how often a model finds the grammatical sentence of a pair the likelier
one."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn
from rich.table import Table

from harness.config.errors import ConfigError
from harness.config.schema import ROOT
from harness.core.distributed import select_device
from harness.data.blimp import GroupAccuracy, MinimalPair, compute_accuracies, read_minimal_pairs
from harness.data.blimp_published import BABYLM_BASELINES, PUBLISHED_ACCURACY, PUBLISHED_MODELS
from harness.data.cache import compute_digest
from harness.data.tokenizers import PretrainedTokenizer
from harness.models import is_causal, pretrained
from harness.models.likelihood import SentenceLikelihood
from harness.record import results_file
from harness.run.initial_weights import find_run
from harness.run.load import load_recorded_run
from harness.tasks.minimal_pairs import build_likelihood, compare_pairs
from harness.tracking.mlflow_client import UploadError
from harness.tracking.run_uploader import upload_run
from harness.training.checkpoint import read_counters

TABLE_COLUMNS = ("kind", "name", "accuracy", "standard_error", "pairs", *PUBLISHED_MODELS)


@dataclass(frozen=True)
class ScoredModel:
    """A model to be judged: how it finds sentences likely, its tokenizer, and the folder of the run it comes from."""

    likelihood: SentenceLikelihood
    encode: Callable[[list[str]], list[list[int]]]
    folder: Path | None

    @property
    def scoring_method(self) -> str:
        return "log-likelihood" if self.likelihood.mask_id is None else "pseudo-log-likelihood"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m harness blimp", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="a run, or a folder or hub name of a language model of transformers")
    parser.add_argument("--data", required=True, metavar="PATH", help="a file or folder of JSONL, or nyu-mll/blimp")
    parser.add_argument("--per-paradigm", type=int, metavar="N", help="the first N pairs of each (default: all)")
    parser.add_argument("--batch-tokens", type=int, default=4096, metavar="N", help="of a forward pass (default: 4096)")
    args = parser.parse_args(arguments)
    pairs = _explain_errors("--data", partial(read_minimal_pairs, args.data, args.per_paradigm))
    subject = _explain_errors("RUN", partial(_load_model, args.run, args.batch_tokens))
    found = compute_accuracies(pairs, _explain_errors("--data", partial(_score_pairs, subject, pairs)))
    _print_table(args.run, subject, found)
    if subject.folder is None:
        return 0
    about = {"data": args.data, "digest": _digest(pairs), "per_paradigm": args.per_paradigm, "method": subject.scoring_method}
    return _record_results(subject.folder, found, about)


def _explain_errors(key: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except ConfigError:
        raise
    except (ValueError, OSError) as error:
        raise ConfigError(f"{key}: {error}") from error


def _load_model(run: str, batch_tokens: int) -> ScoredModel:
    """The run, or where there is none of that name the model of transformers."""
    try:
        folder = find_run(run, ROOT / "outputs", "RUN")
    except ConfigError as no_run:
        try:
            return _load_hf_model(run, batch_tokens)
        except ValueError as error:
            raise ConfigError(f"{no_run}; and as a model of transformers: {error}") from error
    is_of_transformers = (folder / "config.json").is_file() and not (folder / "config.yaml").is_file()
    return _load_hf_model(str(folder), batch_tokens) if is_of_transformers else _load_run_model(folder, batch_tokens)


def _load_run_model(folder: Path, batch_tokens: int) -> ScoredModel:
    run = load_recorded_run(str(folder))
    model, tokenizer = run.model.to(select_device("auto")), run.tokenizer
    is_masked = tokenizer.mask_id is not None and not is_causal(model)
    likelihood = build_likelihood(model, tokenizer, is_masked=is_masked, batch_tokens=batch_tokens)
    return ScoredModel(likelihood, tokenizer.encode, run.folder)


def _load_hf_model(name: str, batch_tokens: int) -> ScoredModel:
    """A masked model reads a sentence between its classifying and separating tokens, a causal one after that which
    begins a text, or where there is none after that which ends one."""
    is_masked = pretrained.is_masked_lm(name)
    tokenizer = PretrainedTokenizer(name).load_hf_tokenizer()
    load = pretrained.load_masked_lm if is_masked else pretrained.load_causal_lm
    model = load(name=name, vocab_size=len(tokenizer)).eval().to(select_device("auto"))
    if is_masked:
        before, after, mask_id = tokenizer.cls_token_id, (tokenizer.sep_token_id,), tokenizer.mask_token_id
        if None in (before, *after, mask_id):
            raise ValueError(f"{name}: its tokenizer lacks one of the tokens [CLS], [SEP] and [MASK]")
    else:
        begin = tokenizer.bos_token_id
        before, after, mask_id = tokenizer.eos_token_id if begin is None else begin, (), None
    likelihood = SentenceLikelihood(model, (before,), after, mask_id, batch_tokens)
    return ScoredModel(likelihood, lambda texts: tokenizer(texts, add_special_tokens=False)["input_ids"], None)


def _score_pairs(subject: ScoredModel, pairs: Sequence[MinimalPair]) -> list[bool]:
    good, bad = subject.encode([pair.good for pair in pairs]), subject.encode([pair.bad for pair in pairs])
    terminal = Console(stderr=True)
    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        task = progress.add_task(f"{len(pairs):,} pairs", total=sum(map(len, [*good, *bad])))
        return compare_pairs(subject.likelihood, good, bad, partial(progress.advance, task))


def _print_table(name: str, subject: ScoredModel, found: Sequence[GroupAccuracy]) -> None:
    """A table of all but the paradigms, beside the published figures."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for column in ("accuracy, %", "pairs", *PUBLISHED_MODELS):
        table.add_column(column, justify="right")
    for one in found:
        if one.kind != "paradigm":
            published = [f"{100 * share:.1f}" for share in PUBLISHED_ACCURACY.get(one.name, ())]
            table.add_row(
                one.name, _format_percent(one), f"{one.accuracy.count:,.0f}", *published, end_section=one.kind == "all"
            )
    print(f"BLiMP: {name}, by {subject.scoring_method}\n")
    Console(highlight=False).print(table)
    print(
        f"\n± one standard error; a tie is no hit; accuracy is the mean over all pairs, of which a paradigm has "
        f"{_format_pair_counts(found)}.\nPublished: Warstadt et al. 2020, all 67,000 pairs. LTG-BERT of BabyLM 2024: "
        f"{100 * BABYLM_BASELINES['10M']:.1f} after 10M words, {100 * BABYLM_BASELINES['100M']:.1f} after 100M."
    )


def _format_percent(one: GroupAccuracy) -> str:
    error = one.accuracy.standard_error
    return f"{100 * one.accuracy.value:.1f}" + (f" ± {100 * error:.1f}" if error is not None else "")


def _format_pair_counts(found: Sequence[GroupAccuracy]) -> str:
    sizes = [int(one.accuracy.count) for one in found if one.kind == "paradigm"]
    return f"{min(sizes):,}" if min(sizes) == max(sizes) else f"{min(sizes):,} to {max(sizes):,}"


def _record_results(folder: Path, found: Sequence[GroupAccuracy], about: dict[str, Any]) -> int:
    """Into the run's folder, and to MLflow where the run is there."""
    metrics, units, rows = {}, {}, []
    for one in found:
        metrics[f"blimp/{one.name}"], units[f"blimp/{one.name}"] = one.accuracy.value, one.accuracy.unit
        if one.accuracy.standard_error is not None:
            metrics[f"blimp/{one.name}_se"] = one.accuracy.standard_error
        published = PUBLISHED_ACCURACY.get(one.name, (None,) * len(PUBLISHED_MODELS))
        rows.append(
            (one.kind, one.name, one.accuracy.value, one.accuracy.standard_error, int(one.accuracy.count), *published)
        )
    step = read_counters(folder / "checkpoints" / "best")["step"]
    results_file.write_result(
        folder, "blimp.json", step=step, metrics=metrics, units=units, columns=TABLE_COLUMNS, rows=rows, about=about
    )
    print(f"{folder / 'blimp.json'} has every paradigm too")
    if not (folder / "mlflow.json").is_file():
        return 0
    try:
        print(f"and so has {upload_run(folder).uri}")
    except UploadError as error:
        print(f"{error}; later, python -m harness sync {folder}", file=sys.stderr)
        return 1
    return 0


def _digest(pairs: Sequence[MinimalPair]) -> str:
    return compute_digest("minimal pairs", [[pair.good, pair.bad, pair.paradigm] for pair in pairs])
