"""Labels: what the text before a number in a line of a log says of it."""

import re
from functools import lru_cache
from typing import NamedTuple

from harness.diagnosis.history import LOSS_METRICS
from harness.importers.metric_aliases import (
    POSITIONS,
    REJECTED_WORDS,
    SMOOTH_WORDS,
    SPLIT_WORDS,
    TRAIN_WORDS,
    VAL_WORDS,
    canonical_name,
    name_meaning,
    normalize_name,
    split_words,
)

MAX_LABEL_CHARS = 120
MAX_LABEL_WORDS = 6
SEPARATORS = " \t:=#~@([{<>\"'|*`→▸►»•·⇒│┃"
WRAPPER = re.compile(r"[\w.]*(?:[tT]ensor|[aA]rray|float\d*|int\d*|Variable|Decimal|scalar|Value)\(\[*\s*$")
CLAUSE_END = re.compile(r"[,;|\t{}<>\"()\[\]▸►»•·⇒│┃]|(?<!\w)'|'(?!s\b)|:|=| - | {2,}|→")
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
    + "|".join(sorted(SPLIT_WORDS - {"tr", "trn", "va", "vl"}, key=len, reverse=True))
    + r"|validat(?:e|ing)"
    r"|evaluat(?:e|ing)|held-out|saving dict)(?![\w/-]|[.:]\w|\.py)",
    re.IGNORECASE,
)
SPLIT = r"(?:train(?:ing)?|trn|tr|val(?:id(?:ation)?)?|va|eval(?:uation)?|dev|test)"
SPLIT_PAIR = re.compile(
    rf"(?<![A-Za-z0-9])({SPLIT}(?:[ _-]?loss)?(?:\s*[/|,&;+]\s*|\s+and\s+){SPLIT}(?:(?:\s*[/|,&;+]\s*){SPLIT})?)"
    r"(?![A-Za-z0-9])([\s_-]*[A-Za-z][\w -]*?)?[\s:=(){}\[\]]*$",
    re.IGNORECASE,
)
"""Names of several splits before as many numbers, as in `train/val loss: 2.10/2.20`."""
AFTER_POSITION = re.compile(
    r"(.*\S)\s+(?:after|at|in|for|of|on)\s+(?:the\s+)?(?:(?:end of )?(?:step|epoch|iter|it|batch)\w*\s*)?\W*$",
    re.IGNORECASE,
)
"""A name before the position of its value, as in `Cost after iteration 100: 0.58`."""
LISTENER_SCORE = re.compile(r"\bscore$", re.IGNORECASE)  # the loss of DL4J
LAST_RESORTS = split_words("err error l j cost_j")
"""Names that say a loss where a log has no other: `error=2.3`, `L=2.3`."""
NO_SENTENCE_ENDS = SPLIT_WORDS | SMOOTH_WORDS | {"train", "learn"}  # `Valid. loss`
UNIT = re.compile(r"\w*/s(?:ec(?:ond)?s?)?")
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


def read_split_pair(text: str) -> list[Label]:
    """Return the labels of the numbers behind names of several splits, as in `train/val loss: `; else none."""
    match = SPLIT_PAIR.search(text)
    if match is None:
        return []
    splits = re.findall(SPLIT, match[1], re.IGNORECASE)
    before = _read_clause(text[: match.start()].rstrip(SEPARATORS))
    base = (match[2] or "").strip(" _-") or ("loss" if "loss" in match[1].lower() else "")
    base = base or (before.name if before.metric in LOSS_METRICS else "")
    if not base and (before.words or not text.rstrip().endswith((":", "="))):
        return []  # `Accuracy train/val`
    labels = [_make_label(f"{split} {base}".strip(), "", 1, False) for split in splits]
    return labels if all(label.metric in LOSS_METRICS for label in labels) else []


def read_awaiting_name(text: str) -> Label:
    """Return the label of the name in a text such as `Cost after iteration `, whose value follows the position."""
    match = AFTER_POSITION.fullmatch(text)
    if match is None:
        return NO_LABEL
    label = read_label(match[1])
    if LISTENER_SCORE.search(match[1]):
        return Label("train/loss", "loss", words=1)
    return label if label.metric not in POSITIONS else NO_LABEL


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
    words = _cut_sentence(text[start:].split())
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
    is_part = is_part or (name in LAST_RESORTS and words[-1] not in ("l", "j"))
    return Label(name=name, is_part=is_part, words=n_words)


def _cut_sentence(words: list[str]) -> list[str]:
    """Return the words behind the end of a sentence, as in `1000 records/second. Loss is`, and behind a unit."""
    for at in range(len(words) - 2, -1, -1):
        bare = words[at].rstrip(".!").lower()
        is_end = words[at] != bare and words[at].endswith((".", "!")) and len(bare) > 4 and bare not in NO_SENTENCE_ENDS
        if is_end or UNIT.fullmatch(bare):
            return words[at + 1 :]
    return words


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
