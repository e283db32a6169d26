"""Hide the credentials of addresses, such as `http://user:password@host`, in everything that is stored or printed."""

import re
from collections.abc import Iterator
from urllib.parse import unquote, unquote_plus

# User and password, up to the last "@": SQLAlchemy takes "/" in a password, and HTTP clients take "@".
USER_INFO = re.compile(r"(?<=://)[^:/?#]*(?::.*)?@", re.DOTALL)
# A user or password that is an interpolation, such as ${oc.env:PASSWORD}, names a secret without holding it.
INTERPOLATION = re.compile(r"(?:[^:@]*:)?\$\{[^{}]*\}@")
SECRET_NAME = (
    r"pass(?!file)|pwd|token|secret|credential|(?<!ssl)(?<!ssl_)key|auth(?:orization)?(?==)|signature|"
    r"(?<![a-z])sig(?==)|odbc_connect"
)
# A parameter of the query or the fragment. Its value ends at "&", without the quotes and brackets around the address.
SECRET_PARAMETER = re.compile(
    rf"(?P<separator>[?&;#])[^=&?#;]*(?:{SECRET_NAME})[^=&?#;]*=(?P<value>[^&]*?)(?=[\"'\])}}]*(?:&|$))",
    re.IGNORECASE | re.DOTALL,
)
MIN_PART_LENGTH = 3
MIN_TOKEN_LENGTH = 16
"""Length from which a user without a password is taken for an access token. A user's name is no secret."""


def hide_credentials(value: str) -> str:
    """Return one value, such as an address or an override, without users, passwords and secret query parameters.

    It may lose more than the secret where a password is not percent-encoded, never less.
    """
    if "://" not in value:
        return value
    value = USER_INFO.sub(lambda match: match[0] if INTERPOLATION.fullmatch(match[0]) else "", value)
    value, count = SECRET_PARAMETER.subn(r"\g<separator>", value)
    return re.sub(r"[?&;#]+(?=[\"'\])}]*$)", "", re.sub(r"([?&;#])[&;]+", r"\1", value)) if count else value


def hide_credentials_in_text(text: str, *addresses: str) -> str:
    """Return a text, such as an error message, without the credentials of addresses in it or of those given.

    A driver may quote a part of its address, so the secrets of `addresses` are replaced wherever they occur.
    """
    for secret in sorted({secret for address in addresses for secret in list_secrets(address)}, key=len, reverse=True):
        text = text.replace(secret, "***")
    return re.sub(r"\S+", lambda word: hide_credentials(word[0]), text)


def list_secrets(address: str) -> Iterator[str]:
    """Yield the password of an address, or a token in its place, and its secret query parameters.

    Each is given as written, decoded, and in the parts that a driver takes for a host or a path if it is not encoded.
    """
    if "://" not in address:
        return
    found = []
    for match in USER_INFO.finditer(address):
        user, _, password = match[0][:-1].partition(":")
        if password or len(user) >= MIN_TOKEN_LENGTH:
            found.append(password or user)
        address = address.replace(match[0], "")
    found += [match["value"] for match in SECRET_PARAMETER.finditer(address)]
    for secret in filter(None, found):
        yield from {secret, unquote(secret), unquote_plus(secret)}
        yield from (part for part in re.split(r"[/?#@:]", secret) if len(part) >= MIN_PART_LENGTH)


def describe_malformed(address: str) -> str:
    """Return what is certainly not secret of an address that may be malformed, in quotes."""
    return repr(hide_credentials(address).rpartition("@")[2].partition("?")[0])
