"""Score a run or a transformers model on BLiMP: how often it finds the grammatical sentence of a pair more likely.

plateau blimp RUN --data PATH
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn
from rich.table import Table

from harness.commands.arguments import CommandParser, add_run
from harness.config.user_paths import make_path_absolute
from harness.core.distributed import select_device
from harness.core.errors import ConfigError, DamageError
from harness.core.files import find_intact_folder
from harness.core.task import Mean
from harness.data.blimp import GroupAccuracy, MinimalPair, compute_accuracies, read_minimal_pairs
from harness.data.blimp_published import BABYLM_BASELINES, PUBLISHED_ACCURACY, PUBLISHED_MODELS
from harness.data.cache import compute_digest
from harness.data.tokenizers import PretrainedTokenizer
from harness.models import is_causal, pretrained
from harness.models.likelihood import SentenceLikelihood
from harness.record import results_file
from harness.record.run_lookup import RunNotFoundError, find_run
from harness.run.load import load_recorded_run
from harness.tasks.minimal_pairs import build_likelihood, compare_pairs
from harness.tracking.mlflow_client import UploadError
from harness.tracking.run_uploader import upload_run
from harness.training.checkpoint import read_counters

TABLE_COLUMNS = ("kind", "name", "accuracy", "standard_error", "pairs", *PUBLISHED_MODELS)


@dataclass(frozen=True)
class ScoredModel:
    """A model to score."""

    likelihood: SentenceLikelihood
    encode: Callable[[list[str]], list[list[int]]]
    folder: Path | None  # of its run; None for a transformers model

    @property
    def scoring_method(self) -> str:
        return "log-likelihood" if self.likelihood.mask_id is None else "pseudo-log-likelihood"


def main(arguments: Sequence[str]) -> int:
    parser = CommandParser(prog="plateau blimp", description=__doc__)
    add_run(parser, "; or a folder or Hub name of a transformers language model")
    parser.add_argument("--data", required=True, metavar="PATH", help="a JSONL file or folder, or nyu-mll/blimp")
    parser.add_argument("--per-paradigm", type=int, metavar="N", help="use the first N pairs of each (default: all)")
    parser.add_argument("--batch-tokens", type=int, default=4096, metavar="N", help="per forward pass (default: 4096)")
    args = parser.parse_args(arguments)
    pairs = _explain_errors("--data", partial(read_minimal_pairs, args.data, args.per_paradigm))
    scored = _explain_errors("RUN", partial(_load_model, args.run, args.output_dir, args.batch_tokens))
    accuracies = compute_accuracies(pairs, _explain_errors("--data", partial(_score_pairs, scored, pairs)))
    _print_table(args.run, scored, accuracies)
    if scored.folder is None:
        return 0
    digest = compute_digest("minimal pairs", [[pair.good, pair.bad, pair.paradigm] for pair in pairs])
    about = {
        "data": make_path_absolute(args.data),
        "digest": digest,
        "per_paradigm": args.per_paradigm,
        "method": scored.scoring_method,
    }
    return _record_results(scored.folder, accuracies, about)


def _explain_errors(key: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except ConfigError:
        raise
    except (ValueError, OSError) as error:
        raise ConfigError(f"{key}: {error}") from error


def _load_model(run: str, output_dir: Path, batch_tokens: int) -> ScoredModel:
    """Load the run of that name, the transformers model, or the run whose name begins so."""
    try:
        folder = find_run(run, output_dir, "RUN", takes_prefixes=False)
    except RunNotFoundError:
        try:
            return _load_hf_model(run, batch_tokens)
        except ValueError as error:
            try:
                folder = find_run(run, output_dir, "RUN")
            except RunNotFoundError as no_run:
                raise ConfigError(f"{no_run}; and as a transformers model: {error}") from error
    is_hf_folder = (folder / "config.json").is_file() and not (folder / "config.yaml").is_file()
    return _load_hf_model(str(folder), batch_tokens) if is_hf_folder else _load_run_model(folder, batch_tokens)


def _load_run_model(folder: Path, batch_tokens: int) -> ScoredModel:
    run = load_recorded_run(str(folder))
    model, tokenizer = run.model.to(select_device("auto")), run.tokenizer
    is_masked = tokenizer.mask_id is not None and not is_causal(model)
    likelihood = build_likelihood(model, tokenizer, is_masked=is_masked, batch_tokens=batch_tokens)
    return ScoredModel(likelihood, tokenizer.encode, run.folder)


def _load_hf_model(name: str, batch_tokens: int) -> ScoredModel:
    """Load a transformers model.

    A masked model reads `[CLS] sentence [SEP]`, a causal one the sentence after its bos_token, or after its eos_token
    if it has no bos_token.
    """
    is_masked = pretrained.is_masked_lm(name)
    tokenizer = PretrainedTokenizer(name).load_hf_tokenizer()
    load = pretrained.load_masked_lm if is_masked else pretrained.load_causal_lm
    model = load(name=name, vocab_size=len(tokenizer)).eval().to(select_device("auto"))
    if is_masked:
        before, mask_id = tokenizer.cls_token_id, tokenizer.mask_token_id
        after: tuple[int, ...] = (tokenizer.sep_token_id,)
        if None in (before, *after, mask_id):
            raise ValueError(f"{name}: its tokenizer has no [CLS], [SEP] or [MASK] token")
    else:
        begin = tokenizer.bos_token_id
        before, after, mask_id = tokenizer.eos_token_id if begin is None else begin, (), None
    likelihood = SentenceLikelihood(model, (before,), after, mask_id, batch_tokens)
    return ScoredModel(likelihood, lambda texts: tokenizer(texts, add_special_tokens=False)["input_ids"], None)


def _score_pairs(scored: ScoredModel, pairs: Sequence[MinimalPair]) -> list[bool]:
    good, bad = scored.encode([pair.good for pair in pairs]), scored.encode([pair.bad for pair in pairs])
    terminal = Console(stderr=True)
    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        task = progress.add_task(f"{len(pairs):,} pairs", total=sum(map(len, [*good, *bad])))
        return compare_pairs(scored.likelihood, good, bad, partial(progress.advance, task))


def _print_table(name: str, scored: ScoredModel, accuracies: Sequence[GroupAccuracy]) -> None:
    """Print all groups but the paradigms, beside published accuracies."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for column in ("accuracy, %", "pairs", *PUBLISHED_MODELS):
        table.add_column(column, justify="right")
    for group in accuracies:
        if group.kind != "paradigm":
            published = [f"{100 * share:.1f}" for share in PUBLISHED_ACCURACY.get(group.name, ())]
            cells = (group.name, _format_percent(group.accuracy), f"{group.accuracy.count:,.0f}", *published)
            table.add_row(*cells, end_section=group.kind == "all")
    sizes = [int(group.accuracy.count) for group in accuracies if group.kind == "paradigm"]
    pairs_per_paradigm = " to ".join(f"{size:,}" for size in sorted({min(sizes), max(sizes)}))
    print(f"BLiMP: {name}, by {scored.scoring_method}\n")
    Console(highlight=False).print(table)
    print(
        f"\n± one standard error; ties count as wrong; accuracy is the mean over all pairs, "
        f"{pairs_per_paradigm} per paradigm.\n"
        "Published: Warstadt et al. 2020, all 67,000 pairs. LTG-BERT of BabyLM 2024: "
        f"{100 * BABYLM_BASELINES['10M']:.1f} after 10M words, {100 * BABYLM_BASELINES['100M']:.1f} after 100M."
    )


def _format_percent(mean: Mean) -> str:
    error = mean.standard_error
    return f"{100 * mean.value:.1f}" + (f" ± {100 * error:.1f}" if error is not None else "")


def _record_results(folder: Path, accuracies: Sequence[GroupAccuracy], about: dict[str, Any]) -> int:
    """Write the results to the run's folder, and to MLflow if the run was uploaded. Return the exit status."""
    metrics, units, rows = {}, {}, []
    for group in accuracies:
        name, mean = f"blimp/{group.name}", group.accuracy
        metrics[name], units[name] = mean.value, mean.unit
        if mean.standard_error is not None:
            metrics[f"{name}_se"] = mean.standard_error
        published = PUBLISHED_ACCURACY.get(group.name, (None,) * len(PUBLISHED_MODELS))
        rows.append((group.kind, group.name, mean.value, mean.standard_error, int(mean.count), *published))
    step = read_counters(find_intact_folder(folder / "checkpoints" / "best"))["step"]
    results_file.write_result(
        folder, "blimp.json", step=step, metrics=metrics, units=units, columns=TABLE_COLUMNS, rows=rows, about=about
    )
    print(f"results of all paradigms: {folder / 'blimp.json'}")
    if not (folder / "mlflow.json").is_file():
        return 0
    try:
        print(f"uploaded to {upload_run(folder).uri}")
    except (UploadError, DamageError, ConfigError) as error:
        print(f"{error}; upload later with: plateau sync {folder}", file=sys.stderr)
        return 1
    return 0
