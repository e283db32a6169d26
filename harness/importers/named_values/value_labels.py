"""The name of a number in a line of text: the words before it, or behind it."""

import re

from harness.importers.metric_aliases import SPLIT_WORDS, split_words
from harness.importers.named_values.settings import METRIC_WORDS
from harness.importers.named_values.value_names import ValueName
from harness.importers.text.labels import (
    CLAUSE_END,
    GROUP,
    MAX_LABEL_CHARS,
    MAX_LABEL_WORDS,
    NEUTRAL_WORDS,
    OPTION,
    SEPARATORS,
    TRAILING_WORDS,
    WRAPPER,
    says_extreme,
)

UNIT_WORDS = split_words("ms s sec secs second seconds min mins minute minutes h hours mb gb kb mib gib db % px k m it")
UNIT = re.compile(r"\w*/\w+")
BEHIND = re.compile(r"\s+([A-Za-z][\w@/ -]{0,30}?)\s*(?:[,;|]|$)")
AWAITING = re.compile(r"(.*\S)\s+(?:after|at|in|for|of|on|over|from)\s+(?:the\s+|all\s+)?(?:\w+\s*)?\W*$")
"""A name before another number, as in `Accuracy of the network on the 10000 test images: 91 %`."""
VALUE_AFTER = re.compile(r"[\s)\]]*[A-Za-z ]{0,40}(?::|=|\bis\b|\bwas\b|->|→)\s*")
COMPOUND = re.compile(r"\w[_/.]\w")
ASCII_WORD = re.compile(r"[A-Za-z]{2}")
OTHER_LETTERS = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]+")
PAIR_START = re.compile(r"^(\s*[A-Za-z][\w/. -]{0,40}),\s*$")  # a line such as `val_loss,0.31`
QUALIFIERS = (
    r"(?:ema|swa|polyak|averaged|teacher|shadow|smooth(?:ed)?|moving[ -]average)(?:[ _-](?:model|weights|params))?"
)
SPLIT_NAME = r"(?:train(?:ing)?|val(?:id(?:ation|ating)?)?|eval(?:uation|uating)?|dev|test(?:ing)?)"
QUALIFIER = re.compile(
    rf"\b({QUALIFIERS}|last|best)(?=[ _/-]*\b{SPLIT_NAME}\b)|(?:^\W*|[|;(\[]\s*)({QUALIFIERS})\s*[:|)\]/]",
    re.IGNORECASE,
)
"""A word before the split, or at the start of a part of a line, that says of which model the numbers are."""
OTHER_MODEL = re.compile(rf"\W*([A-Za-z]\w*)[ -]{SPLIT_NAME}\s*[:|]", re.IGNORECASE)  # `Critic valid: loss 0.3`
PATH_END = re.compile(
    r"(?:^|[\s'\"=:(\[])(?:(?:~|\.{1,2}|[A-Za-z]:)?[/\\][\w.~+=-]|[\w.~-]+[/\\][\w.~+=-]+[/\\])[^\s,;|:]*$"
)
FILE_NAME = re.compile(
    r"[\d.]+\.(?:pt|pth|ckpt|bin|np[yz]|pkl|json|ya?ml|safetensors|onnx|h5|log|txt|csv|png|py|tar|gz)", re.IGNORECASE
)
SAVING_WORDS = split_words("saving saved save writing wrote written loading loaded load checkpoint checkpoints ckpt")
JOINING_WORDS = split_words(
    "with to and or of in on at by for from the a an as than was is are were using has have into up be will"
)
HAS_LETTER = re.compile(r"[^\W\d_]")
PREPOSITION = re.compile(r"\s+(?:of|on|for|over|in|at|from)\s+(?:the|a|all)\b.*")


def read_name(gap: str, context: str | None, is_first: bool) -> ValueName | None:
    """Return the name that the text before a number gives it, None if it gives none."""
    ending = gap.rstrip(SEPARATORS)
    text = gap[max(0, len(ending) - MAX_LABEL_CHARS) :]
    if OPTION.search(text):
        return None
    text = PAIR_START.sub(r"\1", text) if is_first else text
    text = WRAPPER.sub("", text).rstrip(SEPARATORS)
    text = text[:-2] if text.endswith(("',", '",')) else text
    group = GROUP.search(text)
    if group and _has_letter(text[: group.start()]):
        base = _read_words(text[: group.start()].rstrip(SEPARATORS), is_first)
        inner = " ".join(re.findall(r"\w+", group[1]))
        return make_name(" ".join(filter(None, (base, inner))), context, (base,)) if base else None
    words = _read_words(text.rstrip("-"), is_first)
    if not words:
        return None
    last = words.split()[-1]
    is_compound = COMPOUND.search(last) is not None and not says_extreme(words.replace("_", " "))
    return make_name(words, context, (last,) if is_compound else ())


def read_name_behind(gap: str, context: str | None, is_last: bool) -> ValueName | None:
    """Return the name that the text behind a number gives it, as in `0.91 accuracy, 0.3 loss`."""
    match = BEHIND.match(gap)
    if match and match.end() == len(gap) and gap[-1:] not in ",;|" and not is_last:
        return None
    name = match[1].strip() if match else ""
    if not name or len(name.split()) > 3 or name.split()[0].lower() in UNIT_WORDS:
        return None
    return make_name(name, context, ())


def read_awaiting(gap: str) -> str:
    """Return the name of a value that follows the next number, as in `Accuracy on 10000 images: 91 %`; else ""."""
    match = AWAITING.fullmatch(gap)
    if match is None:
        return ""
    words = PREPOSITION.sub("", match[1])
    return _read_words(words.rstrip(SEPARATORS), True)


def follows_awaiting(gap: str) -> bool:
    """Return whether the text between a number and a value is such that the name of the value stands before both."""
    return VALUE_AFTER.fullmatch(gap) is not None


def make_name(label: str, context: str | None, parts: tuple[str, ...]) -> ValueName:
    """Return the name of these words; those that say a split need no context."""
    words = re.split(r"[\W_]+", label.lower())
    if "'s " in label:  # LightGBM: valid_0's auc
        parts += (label.rpartition("'s ")[2],)
    own_split = any(word in SPLIT_WORDS for word in words)
    if " " in label and own_split and not says_extreme(label):
        parts += (" ".join(word for word in label.split() if word.lower().strip(".:") not in SPLIT_WORDS),)
    return ValueName(label, None if own_split else context, tuple(part for part in parts if part and part != label))


def _read_words(text: str, is_first: bool) -> str:
    """Return the words at the end of a text, without those that only lead to the number."""
    start = 0
    for match in CLAUSE_END.finditer(text):
        start = match.end()
    words = [word for word in text[start:].split() if any(map(str.isalnum, word))][-MAX_LABEL_WORDS:]
    while len(words) > 1 and words[-1].lower() in TRAILING_WORDS:
        words.pop()
    while words and not start and not is_first and (words[0].lower() in UNIT_WORDS or UNIT.fullmatch(words[0])):
        words = words[1:]
    if any(map(ASCII_WORD.search, words)):  # a name within a sentence of another language
        words = [word for word in (OTHER_LETTERS.sub("", word) for word in words) if any(map(str.isalnum, word))]
    label = " ".join(word.strip(".,!?*#\"'`()[]") for word in words).strip()
    return label if _has_letter(label) and not _names_nothing(label) else ""


def _has_letter(text: str) -> bool:
    return HAS_LETTER.search(text) is not None


def find_qualifier(gap: str) -> str:
    """Return the word for the model that the numbers after `gap` were measured on, as in `EMA valid: loss`; else ""."""
    found = [match[1] or match[2] for match in QUALIFIER.finditer(gap)]
    if found:
        return found[-1]
    other = OTHER_MODEL.match(gap)
    return other[1] if other and other[1].lower() not in NEUTRAL_WORDS | {"student"} else ""


def is_in_path(gap: str, token: str) -> bool:
    """Return whether a number is part of the name of a file or a folder."""
    return PATH_END.search(gap[-MAX_LABEL_CHARS:]) is not None or FILE_NAME.fullmatch(token) is not None


def _names_nothing(label: str) -> bool:
    """Return whether words only join or say that something is saved or loaded, as in `saving checkpoint to `."""
    words = [word.lower() for word in re.split(r"[\W_]+", label) if word]
    is_saved = bool(SAVING_WORDS & set(words)) and words[-1] not in METRIC_WORDS
    return is_saved or all(word in JOINING_WORDS for word in words)
