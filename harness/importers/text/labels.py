"""Labels: what the text before a number in a line of a log says of it."""

import re
from functools import lru_cache
from typing import NamedTuple

from harness.importers.metric_aliases import (
    POSITIONS,
    REJECTED_WORDS,
    TRAIN_WORDS,
    VAL_WORDS,
    canonical_name,
    name_meaning,
    normalize_name,
    split_words,
)

MAX_LABEL_CHARS = 120
MAX_LABEL_WORDS = 6
SEPARATORS = " \t:=#~@([{<>\"'|*`→"
WRAPPER = re.compile(r"[\w.]*(?:[tT]ensor|[aA]rray|float\d*|int\d*|Variable|Decimal|scalar|Value)\(\[*\s*$")
CLAUSE_END = re.compile(r"[,;|\t{}<>\"()\[\]]|(?<!\w)'|'(?!s\b)|:|=| - | {2,}|→")
GROUP = re.compile(r"\s*[(\[]([^()\[\]]{0,40})[)\]]\s*$")
"""A group in brackets at the end of a label, as in `Loss (train)` and `elapsed time per iteration (ms)`."""
TRAILING_WORDS = split_words("is was of now value values equals about approximately reached currently")
NEUTRAL_WORDS = split_words(
    "a an the with and at on in for after of is has had was got now current currently info debug warning root main "
    "result results metric metrics summary finished completed complete done end final running mean average avg avr "
    "total batch step iter iteration epoch set train training val valid validation eval evaluation test dev model net "
    "network loop log logger output print console its our new last latest next-token overall raw n"
)
"""Words before a known name that do not change what it means."""
POSITION_BREAKERS = split_words(
    "per time each every second seconds sec secs ms s best max min num number total warmup decay log logging save "
    "saving interval accumulation accum grad gradient skipped nan remaining left until start from to size examples "
    "samples tokens images resume resumed resuming loaded loading next last only within than over skip first"
)
"""A step or an epoch after one of these is not where the line belongs."""
CONTEXT_WORD = re.compile(
    r"(?<![\w./-])("
    + "|".join(sorted((TRAIN_WORDS | VAL_WORDS) - {"tr", "trn"}, key=len, reverse=True))
    + r"|validat(?:e|ing)"
    r"|evaluat(?:e|ing)|held-out|saving dict)(?![\w/-]|[.:]\w|\.py)",
    re.IGNORECASE,
)
SHORT_STEP = re.compile(r"[\W_]*s\s*[:=]\s*")  # that of llm.c
NO_PARTS = ("scale", "scaler", "weight", "ratio", "coef", "mult", "improvement", "std")  # of a loss
OPTION = re.compile(r"(?<![\w-])--?[A-Za-z][\w-]*[ =]*$|--[\w-]+[ =]\s*$")
NO_MEASUREMENT = re.compile(r"\b(?:" + "|".join(REJECTED_WORDS) + r")\b", re.IGNORECASE)


class Label(NamedTuple):
    """Meaning of the text before a number."""

    metric: str | None = None  # ours, or one of POSITIONS
    name: str = ""  # normalized, for metrics with the split if it is named
    names_split: bool = False
    is_part: bool = False  # one of several losses, such as aux_loss
    order: int = 0  # of names for positions
    words: int = 0  # in front of the number, known or not


NO_LABEL = Label()


@lru_cache(8192)
def read_label(text: str) -> Label:
    """Return the label that `text` ends with."""
    ending = text.rstrip(SEPARATORS)
    text = text[max(0, len(ending) - MAX_LABEL_CHARS) : len(ending) + MAX_LABEL_CHARS]
    if SHORT_STEP.fullmatch(text):
        return Label("step", "s", order=40, words=1)
    if OPTION.search(text):
        return NO_LABEL
    text = WRAPPER.sub("", text).rstrip(SEPARATORS)
    if text.endswith(("',", '",')):  # a pair: ('loss', 2.3)
        text = text[:-2]
    group = GROUP.search(text)
    if group:
        base, inner = text[: group.start()], group[1]
        whole = _read_clause(f"{base} {inner}") if re.fullmatch(r"[A-Za-z_ ]+", inner) else NO_LABEL
        if whole.metric and not (whole.metric in POSITIONS and name_meaning(base).metric is None):
            return whole
        inner_label = _read_clause(inner)
        return _read_clause(base) if not inner_label.metric else inner_label
    return _read_clause(text.rstrip("-"))


def find_context(text: str) -> str | None:
    """Return "train", "val" or "test" if a word in `text` says where its numbers were measured, the last one."""
    found = [match[1].lower() for match in CONTEXT_WORD.finditer(text)]
    if not found:
        return None
    return "train" if found[-1] in TRAIN_WORDS else "test" if found[-1].startswith("test") else "val"


def says_extreme(text: str) -> bool:
    """Return whether the numbers after `text` are the best ones, or targets, rather than those of this moment."""
    return NO_MEASUREMENT.search(text) is not None


def _read_clause(text: str) -> Label:
    """Return the label at the end of a text without brackets and separators behind it."""
    start, opener = 0, ""
    for match in CLAUSE_END.finditer(text):
        start, opener = match.end(), match[0]
    words = text[start:].split()
    n_words = len(words)
    words = words[-MAX_LABEL_WORDS:]
    while len(words) > 1 and words[-1].lower() in TRAILING_WORDS:
        words.pop()
    for first in range(len(words)):
        candidate = " ".join(words[first:])
        if not canonical_name(candidate):
            continue
        before = words[first - 1].strip(".,!").lower() if first else ""
        return _make_label(candidate, before, n_words, first == 1 and opener in (":", "="))
    if words and normalize_name(words[-1]).endswith(("loss", "losses")):
        name = normalize_name(" ".join(words[-2:]))
        is_part = not says_extreme(name.replace("_", " "))
        return Label(name=name, is_part=is_part, words=n_words)
    name = normalize_name(" ".join(words))
    is_part = len(words) == 1 and name.startswith("loss_") and not name.endswith(NO_PARTS)
    return Label(name=name, is_part=is_part, words=n_words)


def _make_label(candidate: str, before: str, n_words: int, follows_value: bool) -> Label:
    meaning = name_meaning(candidate)
    metric = canonical_name(candidate)
    name = normalize_name(candidate)
    if metric is None or says_extreme(before):
        return Label(name=f"{before}_{name}", words=n_words)
    if metric in POSITIONS:
        breaks = before in POSITION_BREAKERS
        return Label(words=n_words) if breaks else Label(metric, name, order=meaning.tier, words=n_words)
    if before and before not in NEUTRAL_WORDS and not follows_value and not before.isupper():
        return Label(name=f"{before}_{name}", is_part=metric.endswith("/loss"), words=n_words)
    split = [word for word in name.split("_") if word in TRAIN_WORDS | VAL_WORDS]
    return Label(metric, name, bool(split), order=meaning.tier, words=n_words)
