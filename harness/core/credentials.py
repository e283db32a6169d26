"""Hide credentials in everything that is stored or printed: those of addresses, and of settings such as `api_key`."""

import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, unquote_plus

# What begins an address in a text, after a space, quote or bracket: a password may hold "://" too.
ADDRESS = re.compile(r"(?<![^\s\"'(\[{<,;=])(?=[A-Za-z][\w+.\-]*://)")
USER = re.compile(r"[^:/?#]*")
TOKEN = re.compile(r"[^:/?#\s\"']*")  # a user without a password
PORT = re.compile(r":\d{1,5}(?![^/?#\s\"'()\[\]{}<>])")
# Their clients end the host at "/". SQLAlchemy takes "/" in a password, so 1/2 may be the password of a database.
SCHEME_WITH_PORT = re.compile(r"(?:https?|ssh|ftp)\Z")
# A user or password that is an interpolation, such as ${oc.env:PASSWORD}, names a secret without holding it.
INTERPOLATION = re.compile(r"(?:[^:@]*:)?\$\{[^{}]*\}@")
PARAMETER = re.compile(r"[?&;#](?P<name>[^=&?#;\s]{1,80})=")
SECRET_NAME = re.compile(
    r"(?:.*[^a-z])?(?:(?<!ssl_)key|sig|pass|auth|authorization|odbc_connect)"
    r"|.*(?:password|passwd|passphrase|pwd|token|secret|signature|credentials?|(?:api|access|account|private|secret)key"
    r"|accesskeyid)",
    re.IGNORECASE,
)
"""Names of query parameters, by how they end: `access_token`, but not `tokenizer`."""
VALUE_END, WORD_END = re.compile("&"), re.compile(r"[&\s]")
CLOSING = "\"'])}"  # may follow an address
MASK = "***"
MIN_PART_LENGTH = 3
NUMBER = re.compile(r"[-+.\de]+")
MIN_SECRET_LENGTH = 8
"""Length from which the text of a setting such as `api_key` is taken for a secret; `eos_token` is often `</s>`."""
MIN_TOKEN_LENGTH = 16
"""Length from which a user without a password is taken for an access token. A user name is not a secret."""

SETTING = re.compile(r"(?<![\w.\-])(?P<name>-{0,2}[\w.\-]+)(?P<mark>[\"']?\s*[=:]\s*|\s+)")
"""The beginning of a setting in a word, such as `key=value`, `{key: value}` or, in a line of a shell, `--key value`."""
SETTING_VALUE = re.compile(r"\"[^\"]*\"?|'[^']*'?|[^\s,;&\"'\])}]+")
VARIABLE = re.compile(r"\$\{[\w.:]+\}|\$\w+")  # names a secret without holding it

Span = tuple[int, int]


def hide_credentials(value: str) -> str:
    """Return one value, such as an address or an override, without users and passwords, and *** for secret parameters.

    It may lose more than the secret where a password is not percent-encoded, never less.
    """
    return _replace_secrets(value, "", _find_parameters(value, VALUE_END))


def hide_credentials_in_text(text: str, *addresses: str) -> str:
    """Return a text, such as an error message, with *** for the credentials of addresses in it or of those given.

    A driver may quote a part of its address, so the secrets of `addresses` are replaced wherever they occur.
    A line is hidden from the user to the last "@" before the next address, since a password may hold spaces.
    """
    for secret in sorted({secret for address in addresses for secret in list_secrets(address)}, key=len, reverse=True):
        text = text.replace(secret, MASK)
    if "://" not in text:
        return text
    parts = (part for line in text.splitlines(keepends=True) for part in ADDRESS.split(line))
    return "".join(_replace_secrets(part, f"{MASK}@", _find_parameters(part, WORD_END)) for part in parts)


def hide_secret_settings(settings: Mapping[str, object]) -> dict[str, str]:
    """Return settings of any program as texts, without credentials in values, and *** for those named like a secret."""
    texts = {key: hide_credentials_in_text(str(value)) for key, value in settings.items()}
    return {key: MASK if _is_secret_setting(key, text) else text for key, text in texts.items()}


def hide_secret_words(words: Iterable[str]) -> list[str]:
    """Return the words of a command, or overrides, without credentials of addresses and with *** for secret settings.

    A setting is `key=value` or `--key value`, also within a word, such as `+db={password: value}` or a line of a shell.
    """
    shown: list[str] = []
    option = ""
    for word in words:
        hidden = hide_credentials(word)
        is_value = option and not word.startswith("-")
        shown.append(MASK if is_value and _is_secret_setting(option, hidden) else _hide_settings(hidden))
        option = word.lstrip("-") if word.startswith("-") and "=" not in word else ""
    return shown


def hide_nested_secrets(data: Any) -> Any:
    """Return plain data, such as JSON, with its texts as `hide_secret_settings` and `hide_secret_words` show them."""
    if isinstance(data, Mapping):
        texts = {key: text for key, text in data.items() if isinstance(text, str)}
        others = {key: hide_nested_secrets(value) for key, value in data.items() if key not in texts}
        return {**dict.fromkeys(data), **hide_secret_settings(texts), **others}
    if isinstance(data, list | tuple):
        is_text = bool(data) and all(isinstance(item, str) for item in data)
        return hide_secret_words(data) if is_text else [hide_nested_secrets(item) for item in data]
    return hide_credentials_in_text(data) if isinstance(data, str) else data


def hide_credentials_in_tracebacks(*addresses: str) -> None:
    """Let an exception that ends this process print its traceback without credentials, also those of `addresses`."""

    def print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        text = "".join(traceback.format_exception(kind, error, trace))
        print(hide_credentials_in_text(text, *addresses), end="", file=sys.stderr)

    sys.excepthook = print_traceback


def write_traceback(path: Path, error: BaseException) -> None:
    """Write the traceback of an error for the user, without credentials."""
    with suppress(OSError):  # the error may be one of the disk
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(hide_credentials_in_text("".join(traceback.format_exception(error))))


def list_secrets(address: str) -> Iterator[str]:
    """Yield the password of an address, or a token in its place, and its secret query parameters.

    Each is given as written, decoded, and in the parts that a driver takes for a host or a path if it is not encoded.
    """
    found = []
    for start, end in _find_user_infos(address):
        user, _, password = address[start : end - 1].partition(":")
        if password or len(user) >= MIN_TOKEN_LENGTH:
            found.append(password or user)
    found += [address[start:end] for start, end in _find_parameters(address, VALUE_END)]
    for secret in filter(None, found):
        yield from {secret, unquote(secret), unquote_plus(secret)}
        yield from (part for part in re.split(r"[/?#@:]", secret) if len(part) >= MIN_PART_LENGTH)


def describe_malformed(address: str) -> str:
    """Return what is certainly not secret of an address that may be malformed, in quotes."""
    return repr(hide_credentials(address).rpartition("@")[2].partition("?")[0])


def _replace_secrets(text: str, user_info: str, parameters: Iterator[Span]) -> str:
    """Return `text` with `user_info` in place of users and passwords, and *** in place of `parameters`."""
    spans = [(start, end, user_info) for start, end in _find_user_infos(text)]
    spans += [(start, end, MASK) for start, end in parameters]
    shown, position = [], 0
    for start, end, replacement in sorted(spans):
        if start >= position:  # else it is within another
            shown += [text[position:start], replacement]
            position = end
    return "".join([*shown, text[position:]])


def _is_secret_setting(key: str, value: str) -> bool:
    name = key.rpartition(".")[2]
    is_shown = len(value) < MIN_SECRET_LENGTH or NUMBER.fullmatch(value) or VARIABLE.fullmatch(value)
    return not is_shown and bool(SECRET_NAME.fullmatch(name))


def _hide_settings(word: str) -> str:
    """Return a word with *** for the secret settings in it; for one that it begins with, all that follows is hidden."""
    shown, position, beginning = [], 0, len(word) - len(word.lstrip("+~"))
    for match in SETTING.finditer(word):
        name, start = match["name"], match.end()
        is_setting = name.startswith("-") if match["mark"].isspace() else True
        if start <= position or not is_setting or not SECRET_NAME.fullmatch(name.lstrip("-").rpartition(".")[2]):
            continue
        end = len(word) if match.start() == beginning else _match_end(SETTING_VALUE, word, start)
        if _is_secret_setting(name.lstrip("-"), word[start:end].strip("\"'")):
            shown += [word[position:start], MASK]
            position = end
    return "".join([*shown, word[position:]])


def _find_user_infos(text: str) -> Iterator[Span]:
    """Yield where users and passwords stand, with their "@". Takes time in proportion to the text."""
    last_at, position = text.rfind("@"), 0
    while (mark := text.find("://", position)) >= 0 and mark < last_at:
        start = position = mark + 3
        user_end = _match_end(USER, text, start)
        has_password = text.startswith(":", user_end) and not (
            PORT.match(text, user_end) and SCHEME_WITH_PORT.search(text, max(0, mark - 5), mark)
        )
        end = (last_at if has_password else text.rfind("@", start, _match_end(TOKEN, text, start))) + 1
        if end > start and not INTERPOLATION.fullmatch(text, start, end):
            yield start, end
            position = end


def _match_end(pattern: re.Pattern[str], text: str, start: int) -> int:
    match = pattern.match(text, start)
    return match.end() if match else start


def _find_parameters(text: str, value_end: re.Pattern[str]) -> Iterator[Span]:
    """Yield where values of secret query parameters of addresses stand. Takes time in proportion to the text."""
    position = 0 if "://" in text else len(text)
    for match in PARAMETER.finditer(text):
        if match.start() < position or not SECRET_NAME.fullmatch(unquote(match["name"])):
            continue
        stop = value_end.search(text, match.end())
        position = stop.start() if stop else len(text)
        value = text[match.end() : position].rstrip(CLOSING)
        if value:
            yield match.end(), match.end() + len(value)
