"""Check the training batches as the loader returns them: that they differ, and what is scored in them."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.data.tokens import IGNORE_INDEX
from harness.preflight.batch_rows import are_equal, find_target, iterate_parts
from harness.preflight.report import Finding, failed, passed, passed_if, skipped, warned
from harness.preflight.targets import find_loss_targets, read_part
from harness.preflight.text_format import LabeledTokens, find_mask_token, hides_tokens
from harness.preflight.training_setup import TrainingSetup

CHANCE = 1e-9  # probability below which a coincidence is excluded
MANY_UNSCORED_ROWS, MOST_UNSCORED_ROWS = 0.05, 0.5
MIN_SCORED, MAX_SCORED = 0.03, 0.6  # share of the tokens that a masked model predicts; 15% to 40% are usual
MAX_SHOWN = 0.5  # share of the targets that a masked model sees; about 10% in BERT
VARIED_SHARES = 3  # variance of the masked share over rows, relative to a binomial one
MIN_ROWS = 8  # for a statement about all rows
MIN_VOCAB = 16  # for a statement about the last id
CLIPPED_RATIO, MIN_CLIPPED = 20, 20  # last id: times the median of the ids before it, and occurrences
NEIGHBOR_IDS = 8
SMALL_SCALE = 0.01  # standard deviation of inputs that were probably scaled twice


def check(setup: TrainingSetup) -> Iterator[Finding]:
    yield _check_values(setup)
    yield _check_repeated_batches(setup)
    if setup.text is not None:
        tokens = [setup.text.read_tokens(batch) for batch in setup.batches]
        yield from _check_scored_rows(setup, tokens)
        yield _check_padding_labels(tokens)
        if setup.is_causal:
            yield from _check_causal_labels(setup, setup.text.label_shift, tokens)
        else:
            yield from _check_masking(setup, tokens)
        yield from _check_last_id(setup, tokens)
    yield from _check_classes(setup)


def _check_values(setup: TrainingSetup) -> Finding:
    """Check that inputs are finite, and that they were not scaled away."""
    title, broken, scales = "values", [], {}
    named = find_target(setup.batches[0])
    targets = [named[0]] if named else find_loss_targets(setup)
    for index, batch in enumerate(setup.batches):
        for name, part in iterate_parts(batch):
            values = torch.as_tensor(part)
            if not values.is_floating_point() or not values.numel():
                continue
            if not torch.isfinite(values).all():
                broken.append(f"{name or 'batch'} of batch {index}")
            elif not index and values.ndim > 1 and name not in targets:
                scales[name] = (values.float().std().item(), values.float().abs().max().item())
    if broken:
        hint = "Look for missing values, a division by a standard deviation of 0, a logarithm of 0"
        return failed(title, f"not finite: {', '.join(broken[:3])}", "finite numbers", hint)
    small = [
        name for name, (spread, largest) in scales.items() if 0 < spread < SMALL_SCALE and largest < 10 * SMALL_SCALE
    ]
    if small and len(small) == len(scales) and setup.zero_output_loss is None:
        observed = f"inputs have a standard deviation of {scales[small[0]][0]:.2g}"
        hint = "Look for a scaling that is applied twice, such as a division by 255 in the data set and in a transform"
        return warned(title, observed, "inputs of about unit scale", hint)
    return passed(title, "finite")


def _check_repeated_batches(setup: TrainingSetup) -> Finding:
    title, hint = "batches", "Look for a generator that is seeded in the loader, or workers that all read the same data"
    distinct = list({id(batch): batch for batch in setup.batches}.values())
    if len(distinct) < 2:
        return skipped(title, "needs several batches")
    originals = [_restore_text(setup, batch) for batch in distinct]
    copies = sum(any(are_equal(batch, other) for other in originals[:index]) for index, batch in enumerate(originals))
    if not copies or _count_information(originals[0]) < -math.log(CHANCE):
        return passed(title, f"{len(distinct)} batches, all different")
    observed = f"{copies} of {len(distinct)} batches hold the same examples as an earlier one: identical batches"
    train: Any = setup.data.train
    n_examples = len(train) if hasattr(train, "__len__") else None
    rows = max((len(part) for _, part in iterate_parts(distinct[0]) if part.ndim), default=0)
    if n_examples is not None and n_examples <= rows:
        return passed(title, f"each batch is the whole training set of {n_examples} examples")
    result = failed if setup.text is not None or n_examples is not None else warned
    return result(title, observed, "other examples in each batch", hint)


def _restore_text(setup: TrainingSetup, batch: Any) -> Any:
    """Return the text of a batch without its masks, or the batch itself."""
    if setup.text is None:
        return batch
    tokens = setup.text.read_tokens(batch)
    return tokens.labels.where((tokens.labels != IGNORE_INDEX) & (not setup.is_causal), tokens.inputs)


def _count_information(batch: Any) -> float:
    """Return the information of a batch in nats, with elements as independent draws."""
    total = 0.0
    for _, part in iterate_parts(batch):
        counts = torch.as_tensor(part).flatten().unique(return_counts=True)[1].double()
        total -= (counts * (counts / counts.sum()).log()).sum().item() if len(counts) else 0.0
    return total


def _check_scored_rows(setup: TrainingSetup, tokens: Sequence[LabeledTokens]) -> Iterator[Finding]:
    scored_per_row = torch.cat([(each.labels != IGNORE_INDEX).sum(1) for each in tokens])
    rows, unscored = len(scored_per_row), int((scored_per_row == 0).sum())
    real = sum(int(each.is_real.sum()) for each in tokens)
    observed = f"{unscored} of {rows} rows have none; {int(scored_per_row.sum())} labels for {real} tokens"
    hint = "Look at what masks the labels: a response template that is not found, answers cut off by the maximum length"
    if unscored == rows:
        hint += ", a share of masked tokens of 0"
        yield failed("labels", f"nothing is scored in all {rows} rows", "labels in each row", hint)
    elif setup.is_causal or unscored > MOST_UNSCORED_ROWS * rows:
        result = failed if unscored > MOST_UNSCORED_ROWS * rows else warned
        yield (result if unscored > MANY_UNSCORED_ROWS * rows else passed)(
            "labels", observed, "labels in each row", hint
        )


def _check_padding_labels(tokens: Sequence[LabeledTokens]) -> Finding:
    """Check that padding is not scored, other than a first token that ends the text."""
    title, expected = "labels on padding", f"{IGNORE_INDEX} for all padding"
    padding = sum(int((~each.is_real).sum()) for each in tokens)
    if not padding:
        return skipped(title, "needs a batch with padding")
    scored = [(~each.is_real & (each.labels != IGNORE_INDEX)).sum(1) for each in tokens]
    count, most = sum(int(each.sum()) for each in scored), max(int(each.max()) for each in scored)
    observed = f"{count} of {padding} tokens of padding are scored"
    if count and most == 1:
        return passed(title, f"{observed}, one in a row, which ends the text")
    hint = f"Set the labels of padding to {IGNORE_INDEX}; labels = input_ids.clone() alone does not"
    return passed_if(not count, title, observed, expected, hint)


def _check_causal_labels(setup: TrainingSetup, label_shift: int, tokens: Sequence[LabeledTokens]) -> Iterator[Finding]:
    rows = sum(len(each.inputs) for each in tokens)
    if label_shift == 1 and rows >= MIN_ROWS:
        first = torch.cat([each.inputs[:, 0] for each in tokens])
        is_wrapped = all(torch.equal(each.labels[:, -1], each.inputs[:, 0]) for each in tokens)
        if is_wrapped and tokens[0].inputs.shape[1] > 2 and _count_information(first) > -math.log(CHANCE) / 2:
            observed = f"the last label is the first token of its own row in all {rows} rows"
            hint = f"Labels made by torch.roll wrap around; set the last one to {IGNORE_INDEX}"
            yield failed("last label", observed, "the token after the row, or none", hint)
    doubled = [
        each.inputs[:, 0] == each.inputs[:, 1]
        for each in tokens
        if each.inputs.shape[1] > 2 and each.is_real[:, :2].all()
    ]
    is_doubled = torch.cat(doubled) if doubled else torch.zeros(0)
    if len(is_doubled) >= MIN_ROWS and is_doubled.float().mean() > 0.9 and _is_rare_pair(tokens):
        observed = f"it stands twice at the start of {int(is_doubled.sum())} of {len(is_doubled)} rows"
        hint = "The chat template and the tokenizer both add BOS; set add_special_tokens=False"
        yield warned("first token", observed, "one BOS", hint)
    if label_shift == 0:
        yield from _check_last_token(tokens)


def _is_rare_pair(tokens: Sequence[LabeledTokens]) -> bool:
    """Return whether the rows' first token seldom follows itself elsewhere."""
    pairs = total = 0
    for each in tokens:
        is_first = each.inputs[:, 1:-1] == each.inputs[:, :1]
        pairs += int((is_first & (each.inputs[:, 2:] == each.inputs[:, :1])).sum())
        total += int(is_first[:, 1:].sum())
    return pairs <= 0.1 * total


def _check_last_token(tokens: Sequence[LabeledTokens]) -> Iterator[Finding]:
    """Warn if rows of different lengths end in one token that is never scored, while what precedes it is."""
    ends, unscored = [], 0
    for each in tokens:
        for inputs, labels, is_real in zip(each.inputs, each.labels, each.is_real, strict=True):
            last = int(is_real.nonzero()[-1]) if is_real.any() else 0
            if is_real.all() or last == 0 or labels[last - 1] == IGNORE_INDEX:
                continue
            ends.append(int(inputs[last]))
            unscored += int(labels[last] == IGNORE_INDEX)
    if len(ends) >= MIN_ROWS // 2 and unscored == len(ends) and len(set(ends)) == 1:
        observed = f"token {ends[0]} ends {len(ends)} texts and is scored in none: nothing teaches the model to stop"
        hint = "Look for labels hidden where they equal the padding token, which is also the end of text"
        yield warned("last token", observed, "a label for the end of text", hint)


def _check_masking(setup: TrainingSetup, tokens: Sequence[LabeledTokens]) -> Iterator[Finding]:
    """Check how much a masked model predicts, and how much of it the inputs show."""
    scored = sum(int((each.labels != IGNORE_INDEX).sum()) for each in tokens)
    shown = sum(int(((each.labels != IGNORE_INDEX) & (each.labels == each.inputs)).sum()) for each in tokens)
    real = sum(int(each.is_real.sum()) for each in tokens)
    if not scored:
        return
    title = "masked tokens"
    observed = (
        f"{scored / real:.0%} of the tokens are to be predicted, and the inputs show {shown / scored:.0%} of these"
    )
    if not hides_tokens(setup.model, tokens):
        yield passed(title, f"{observed}; no token masks them, as for tags, or noise that is to be removed")
        return
    hint = "Look for an inverted comparison (rand > 0.15 for rand < 0.15), and labels of tokens that are not masked"
    error = 3 * math.sqrt(MIN_SCORED / real)
    is_usual = MIN_SCORED - error <= scored / real <= MAX_SCORED or _is_drawn_by_row(tokens)
    is_hidden = shown <= MAX_SHOWN * scored
    expected = "about 15%, of which about 10% are visible, for a masked model"
    yield passed_if(is_usual and is_hidden, title, observed, expected, hint)


def _is_drawn_by_row(tokens: Sequence[LabeledTokens]) -> bool:
    """Return whether rows differ more in the share of masked tokens than one share for all would explain."""
    counts = torch.cat([(each.labels != IGNORE_INDEX).sum(1) for each in tokens]).double()
    lengths = torch.cat([each.is_real.sum(1) for each in tokens]).double().clamp(min=1)
    share = (counts.sum() / lengths.sum()).clamp(1e-6, 1 - 1e-6)
    excess = ((counts - share * lengths) ** 2 / (lengths * share * (1 - share))).sum().item()
    return len(counts) >= MIN_ROWS and excess > VARIED_SHARES * len(counts)


def _check_last_id(setup: TrainingSetup, tokens: Sequence[LabeledTokens]) -> Iterator[Finding]:
    """Warn if the highest id is far more frequent than those before it, and is not a special token, such as EOS."""
    stream = setup.data.token_stream
    ids = (
        np.concatenate([each.inputs.flatten().cpu().numpy() for each in tokens])
        if stream is None
        else np.asarray(stream)
    )
    last = int(ids.max())
    if last < MIN_VOCAB:
        return
    counts = np.bincount(ids[:10_000_000], minlength=last + 1)
    usual = max(1.0, float(np.median(counts[last - NEIGHBOR_IDS : last])))
    if counts[last] < max(MIN_CLIPPED, CLIPPED_RATIO * usual) or last in _list_special_ids(setup, tokens):
        return
    share = counts[last] / counts.sum()
    adjacent = int(((ids[1:] == last) & (ids[:-1] == last)).sum())
    if adjacent < 0.1 * share * counts[last]:
        return  # a separator never follows itself
    observed = (
        f"the highest id, {last}, makes up {share:.1%} of the tokens; a typical id below it, {usual / counts.sum():.2%}"
    )
    hint = "Look for ids that are clipped to the vocabulary (clamp, minimum): use the tokenizer's own vocabulary size"
    yield warned("highest id", observed, "about as frequent as the ids below it", hint)


def _list_special_ids(setup: TrainingSetup, tokens: Sequence[LabeledTokens]) -> set[int]:
    config = getattr(setup.model, "config", None)
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id", "sep_token_id")
    values = [getattr(config, name, None) for name in names] + [setup.data.unknown_token_id]
    if not setup.is_causal:
        values.append(find_mask_token(setup.model, tokens))
    return {value for value in values if isinstance(value, int)}


def _check_classes(setup: TrainingSetup) -> Iterator[Finding]:
    """Check that classes are spread over the batches, which they are not if the data is sorted by class."""
    found = find_target(setup.batches[0])
    labels = _read_classes(setup, found[0] if found else find_class_label(setup))
    if not labels:
        return
    pooled = torch.cat(labels)
    kinds, counts = pooled.unique(return_counts=True)
    per_batch = np.mean([len(each.unique()) for each in labels])
    observed = f"{per_batch:.1f} classes in a batch, {len(kinds)} in {len(labels)} batches"
    hint = "Shuffle the training data (shuffle=True); it may be sorted by class"
    is_pure = per_batch < 1.5 or (per_batch <= 2 and len(kinds) >= 2 * per_batch and not _is_sampled(labels))
    if len(kinds) == 1:
        if len(pooled) >= 32:
            yield warned("classes", f"all {len(pooled)} labels are {int(kinds[0])}", "several classes", hint)
    elif not (is_pure and _is_sorted(labels, counts)):
        yield passed("classes", observed)
    elif not found or find_class_label(setup) == found[0]:
        yield failed("classes", f"{observed}: the data is not shuffled", "a mixture in each batch", hint)


def find_class_label(setup: TrainingSetup) -> str | None:
    """Return the only part of a batch with integers that changes the loss and not the output, or None.

    With several, as with CTC's targets and their lengths, none of them is known to be a class.
    """
    parts = {name: read_part(setup.batches[0], name) for name in find_loss_targets(setup)}
    names = [name for name, part in parts.items() if not part.is_floating_point()]
    return names[0] if len(names) == 1 else None


def _read_classes(setup: TrainingSetup, name: str | None) -> list[Tensor]:
    """Return the integer labels of all batches, one for each example, or an empty list."""
    labels = [read_part(batch, name) for batch in setup.batches] if name else []
    usable = [each for each in labels if isinstance(each, Tensor) and each.ndim == 1 and not each.is_floating_point()]
    if len(usable) < 2 or len(usable) < len(setup.batches) or min(map(len, usable)) < 4:
        return []
    return usable


def _is_sorted(labels: Sequence[Tensor], counts: Tensor) -> bool:
    """Return whether shuffled labels would never be as pure in each batch, by their log-likelihood ratio."""
    shares = counts.double() / counts.sum()
    pooled = -(counts * shares.log()).sum().item()
    within = sum(_count_information(each) for each in labels)
    excess, freedom = 2 * (pooled - within), (len(labels) - 1) * (len(counts) - 1)
    return excess > freedom + 6 * math.sqrt(2 * freedom)  # six standard deviations of a chi-square


def _is_sampled(labels: Sequence[Tensor]) -> bool:
    """Return whether each batch holds equally many examples of each of its several classes, as for metric learning."""
    counts = [each.unique(return_counts=True)[1] for each in labels]
    return all(len(count) > 1 and len(set(count.tolist())) == 1 for count in counts)
