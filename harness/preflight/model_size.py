"""Check the model in numbers: parameters, what of them is trained, passes over the data, tokens per parameter."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from harness.preflight.batch_rows import count_examples
from harness.preflight.report import Finding, passed, passed_if, warned
from harness.preflight.training_setup import TrainingSetup

TOLERANCE = 0.05  # relative difference of the number of parameters, as embeddings are sometimes not counted
MAX_FROZEN = 0.5  # share of random weights that are frozen
MANY_PASSES = 40  # repetitions of text beyond which more of them are worthless (Muennighoff et al., 2023)


def check(setup: TrainingSetup) -> Iterator[Finding]:
    yield _check_parameters(setup)
    yield _check_frozen(setup)
    yield from _check_passes(setup)


def _check_parameters(setup: TrainingSetup) -> Finding:
    """Compare the number of parameters with the requested one, with and without embeddings."""
    title, requested = "parameters", setup.requested.parameters
    total = sum(weight.numel() for weight in setup.model.parameters())
    embeddings = {
        id(part.weight): part.weight.numel() for part in setup.model.modules() if isinstance(part, nn.Embedding)
    }
    others = total - sum(embeddings.values())
    observed = _format_count(total) + (f", {_format_count(others)} without embeddings" if embeddings else "")
    if requested is None:
        return passed(title, observed)
    is_close = any(abs(count / requested - 1) <= TOLERANCE for count in (total, others))
    observed += f", x{total / requested:.3g} of what was requested"
    hint = "Compare layers, width, vocabulary and MLP width with the model you mean; tied weights count once"
    return passed_if(is_close, title, observed, _format_count(requested), hint)


def _check_frozen(setup: TrainingSetup) -> Finding:
    title = "trained parameters"
    total = sum(weight.numel() for weight in setup.model.parameters())
    trained = sum(weight.numel() for weight in setup.trainable_parameters.values())
    observed = f"{_format_count(trained)} of {_format_count(total)}, {trained / max(1, total):.1%}"
    if setup.is_pretrained or trained >= (1 - MAX_FROZEN) * total:
        return passed(title, observed)
    hint = (
        "Random weights that are frozen stay random: look for a stage that is never thawed; set is_pretrained=True if "
    )
    hint += "these weights were loaded"
    return warned(title, f"{observed}; the others are frozen", "most of a model that starts from random weights", hint)


def _check_passes(setup: TrainingSetup) -> Iterator[Finding]:
    """Report how often the run sees its data, and how many tokens it sees per parameter."""
    requested, batch = setup.requested, setup.batches[0]
    rows = setup.batch_size or requested.batch_size or count_examples(batch)
    if requested.total_steps is None or rows is None:
        return
    steps = requested.total_steps
    if setup.text is not None:
        all_tokens = [setup.text.read_tokens(each) for each in setup.batches]
        per_row = sum(int(each.is_real.sum()) for each in all_tokens) / sum(len(each.inputs) for each in all_tokens)
        tokens = steps * rows * per_row
        parameters = sum(weight.numel() for weight in setup.model.parameters())
        text = (
            f"{_format_count(round(tokens))} tokens in {steps:,} steps, {tokens / max(1, parameters):.2g} per parameter"
        )
        if setup.data.token_stream is None:
            yield passed("tokens", text)
            return
        passes = tokens / max(1, len(setup.data.token_stream))
        text += f"; {passes:.3g} passes over {_format_count(len(setup.data.token_stream))} tokens"
        many = passes > MANY_PASSES and not setup.is_pretrained
        hint = f"Shorten the run or take more text: repetitions beyond {MANY_PASSES} add nothing"
        yield (warned if many else passed)("tokens", text, f"at most {MANY_PASSES} passes", hint)
    elif (examples := _count_train_examples(setup)) is not None:
        yield passed("examples", f"{steps * rows / max(1, examples):.3g} passes over {examples:,} in {steps:,} steps")


def _count_train_examples(setup: TrainingSetup) -> int | None:
    train: Any = setup.data.train
    return len(train) if hasattr(train, "__len__") else None


def _format_count(count: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)
