"""What must not be seen is not, what must be is: padding, the future, and what stands around a token."""

from collections.abc import Iterator

import torch
from torch import Tensor

from harness.preflight.probe import NEEDS_TEXT, affordable_tokens, eval_mode, extract_text_rows, measure_resolution
from harness.preflight.report import Finding
from harness.preflight.training_setup import IGNORED, LabeledTokens, TextFormat, TrainingSetup

PAD_TOKENS = 4
"""Tokens that are appended."""
TOLERANCE = 1e-4
"""Of the logits' spread, and of the loss: what the order of float32 additions may change."""


def check(subject: TrainingSetup) -> Iterator[Finding]:
    text = subject.text
    if text is None:
        yield Finding("not checked", "attention", "", NEEDS_TEXT)
        return
    true = extract_text_rows(subject, text, affordable_tokens(subject.model))
    subject.perturb_weights()  # for a head or branches that begin at 0 show nothing of what they see
    with torch.no_grad(), eval_mode(subject.model):
        spread = text.logits(subject.model, _make_text_batch(text, true)).float().std(-1).mean().item()
        if spread == 0:
            yield Finding("not checked", "attention", "", "needs logits that differ; all of these are equal")
            return
        same = max(TOLERANCE, 4 * measure_resolution(subject, _make_text_batch(text, true)))
        yield from _check_padding(subject, text, true, same)
        yield from _check_attention_direction(subject, text, true, same)


def _check_padding(subject: TrainingSetup, text: TextFormat, true: Tensor, same: float) -> Iterator[Finding]:
    """Rows of text, and the same ones padded."""
    pad = _find_pad_id(subject, text)
    if pad is None:
        yield Finding("not checked", "padding", "", "needs a batch that has some; these have none")
        return
    widest = max(text.read(batch).inputs.shape[1] for batch in subject.batches)
    true = true[:, : max(PAD_TOKENS, widest - PAD_TOKENS)]  # padded, as wide as what the model surely takes
    plain, padded = _make_text_batch(text, true), _make_text_batch(text, true, pad)
    logits, beside = (
        text.logits(subject.model, plain),
        text.logits(subject.model, padded)[:, : _input_width(true, text)],
    )
    change = _relative_change(logits, beside).max().item()
    yield Finding(
        "pass" if change <= same else "fail",
        "padding and the logits of real tokens",
        f"{PAD_TOKENS} tokens of padding move them by {change:.1e} of their spread",
        f"at most {same:.0e}",
        "the attention mask: 1 for a real token, 0 for padding, given to the model; positions that count padding",
    )
    loss, beside_loss = subject.compute_loss(plain).item(), subject.compute_loss(padded).item()
    share = PAD_TOKENS / (_input_width(true, text) + PAD_TOKENS)
    yield Finding(
        "pass" if abs(beside_loss - loss) <= same * abs(loss) else "fail",
        "padding and the mean loss",
        f"loss {loss:.4f} without padding, {beside_loss:.4f} where {share:.0%} is padding",
        "the same loss",
        f"the labels of padding, {IGNORED}: no loss may score it; what the sum is divided by: scored tokens alone",
    )


def _check_attention_direction(
    subject: TrainingSetup, text: TextFormat, true: Tensor, same: float
) -> Iterator[Finding]:
    """One token is exchanged for another, and the logits before and after it are looked at."""
    width = _input_width(true, text)
    logits = text.logits(subject.model, _make_text_batch(text, true))
    before = after = 0.0
    for place in sorted({width // 4, width // 2, 3 * width // 4}):
        other = true.clone()
        other[:, place] = true.roll(1, 1)[:, place].where(true.roll(1, 1)[:, place] != true[:, place], true[:, 0])
        change = _relative_change(logits, text.logits(subject.model, _make_text_batch(text, other)))
        before = max(before, change[:, :place].max().item())
        after = max(after, change[:, place + 1 :].max().item())
    seen = "another token moves the logits {} it by {:.1e} of their spread"
    look = "the attention mask: it may be inverted, or hide every other token"
    yield Finding(
        "pass" if after > same else "fail",
        "what stands before a token",
        seen.format("after", after),
        f"more than {same:.0e}: it is seen",
        look,
    )
    if subject.is_causal:
        look = (
            "the causal mask: with is_causal=True attention, or a mask added to the scores, no token sees a later one"
        )
        yield Finding(
            "pass" if before <= same else "fail",
            "what follows a token",
            seen.format("before", before),
            f"at most {same:.0e}: it is not seen",
            look,
        )
        return
    yield Finding(
        "pass" if before > same else "fail",
        "what follows a token",
        seen.format("before", before),
        f"more than {same:.0e}: a masked model sees both sides",
        look,
    )
    yield _check_masked_targets(subject, text)


def _check_masked_targets(subject: TrainingSetup, text: TextFormat) -> Finding:
    """A model that sees both sides is asked for what is hidden from it."""
    tokens = text.read(subject.batches[0])
    scored = tokens.labels != IGNORED
    shown = (tokens.labels == tokens.inputs)[scored].float().mean().item()
    ahead = (tokens.labels[:, :-1] == tokens.inputs[:, 1:])[scored[:, :-1]].float().mean().item()
    seen = f"of what is to be predicted, {max(shown, ahead):.0%} stands in the inputs"
    expected = "a tenth or so for a masked model, whose labels are hidden from it"
    look = "the causal mask, if this is to predict what follows; else the masking of the inputs"
    return Finding("fail" if max(shown, ahead) > 0.9 else "pass", "what is to be predicted", seen, expected, look)


def _find_pad_id(subject: TrainingSetup, text: TextFormat) -> int | None:
    """What stands for padding in these batches."""
    for tokens in map(text.read, subject.batches):
        if not tokens.is_real.all():
            return int(tokens.inputs[~tokens.is_real][0])
    return None


def _input_width(true: Tensor, text: TextFormat) -> int:
    return true.shape[1] - text.shift


def _make_text_batch(text: TextFormat, true: Tensor, pad: int | None = None) -> object:
    """The batch of these rows, all of it scored, and PADDING tokens of `pad` behind them where it is given."""
    inputs, labels = true[:, : _input_width(true, text)], true[:, text.shift :]
    is_real = torch.ones_like(inputs, dtype=torch.bool)
    if pad is not None:
        behind = (0, PAD_TOKENS)
        inputs = torch.nn.functional.pad(inputs, behind, value=pad)
        labels = torch.nn.functional.pad(labels, behind, value=IGNORED)
        is_real = torch.nn.functional.pad(is_real, behind, value=False)
    return text.write(LabeledTokens(inputs, labels, is_real))


def _relative_change(one: Tensor, other: Tensor) -> Tensor:
    """[rows, tokens], of the first's spread over the vocabulary."""
    return (one - other).abs().amax(-1).float() / one.float().std(-1).mean()
