"""Write values as overrides."""

import re
from typing import Any

UNQUOTED_PATTERN, RESERVED_WORDS = r"[A-Za-z_][\w./-]*", ("null", "true", "false", "nan", "inf")


def format_value(value: Any) -> str:
    """Return `value` in Hydra's override grammar."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case dict():
            return "{" + ",".join(f"{name}:{format_value(inner)}" for name, inner in value.items()) + "}"
        case list():
            return f"[{','.join(map(format_value, value))}]"
        case str() if re.fullmatch(UNQUOTED_PATTERN, value) and value.lower() not in RESERVED_WORDS:
            return value
        case str():
            # backslashes are literal except before a quote and at the end
            escaped = re.sub(r"\\+(?='|\Z)", lambda match: 2 * match[0], value).replace("'", "\\'")
            return f"'{escaped}'"
    return str(value)
