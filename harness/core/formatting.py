"""Numbers, durations and keys as text."""

import math
import re
from collections.abc import Iterable

OWN_OBJECTIVE_LABELS = {
    "best_val_loss": "val loss",
    "test_loss": "test loss",
    "trainable_parameters": "trainable parameters",
}
SMALLEST_FIXED = 0.01  # smaller numbers get an exponent


def format_number(value: float) -> str:
    """Return four significant digits, with an exponent for small and large numbers."""
    return f"{value:#.4g}".rstrip(".") if abs(value) >= SMALLEST_FIXED or value == 0 else f"{value:.2e}"


def format_signed(value: float) -> str:
    """Return a number with its sign, such as "+0.1250"; "unknown" for NaN, and "+∞" or "-∞" if it is infinite."""
    if math.isnan(value):
        return "unknown"
    sign = "+" if value > 0 else "-" if value < 0 else ""
    return sign + ("∞" if math.isinf(value) else format_number(abs(value)))


def format_interval(low: float, high: float) -> str:
    """Return an interval, such as "[-0.2100, +∞]"; an end without a bound is infinite."""
    return f"[{format_signed(low)}, {format_signed(high)}]"


def format_confidence(confidence: float) -> str:
    """Return a level in percent, such as "95%"; two digits of what it lacks to 100%, so that "99.95%" is not "100%"."""
    missing = 100 * (1 - confidence)
    digits = max(1, 1 - math.floor(math.log10(missing))) if missing > 0 else 1
    return f"{100 - missing:.{digits}f}".rstrip("0").rstrip(".") + "%"


def format_lr(value: float) -> str:
    """Return two significant digits in the notation of learning rates, such as "3e-3" or "1.5e-4"."""
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"


def format_count(count: float) -> str:
    """Return a whole number up to 10,000, or three digits and a letter for thousands, such as "41.2M"."""
    if abs(count) < 10_000:
        return f"{count:.0f}"
    for unit in ("k", "M", "B"):
        count /= 1000
        if abs(count) < 999.5:
            return f"{count:.3g}{unit}"
    return f"{count / 1000:.3g}T"


def format_bytes(count: float) -> str:
    """Return a number of bytes with three digits and a decimal unit, such as "1.24 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def parse_bytes(text: str) -> int:
    """Return the number of bytes in a text such as "20GB", "1.5 GiB" or "1000000".

    Raises:
        ValueError: If it is no size, or not above 0.
    """
    found = re.fullmatch(r"\s*([\d.]+(?:e\d+)?)\s*(?:([kMGT])(i?))?B?\s*", text, re.IGNORECASE)
    try:
        number = float(found[1]) if found else 0.0
    except ValueError:
        number = 0.0
    if not found or not 1 <= number < math.inf:
        raise ValueError(f"{text} is no size; write a number of bytes, such as 20GB")
    exponent = " kmgt".index((found[2] or " ").lower())
    return round(number * (1024 if found[3] else 1000) ** exponent)


def format_duration(seconds: float) -> str:
    """Return the two largest units, such as "2 h 01 min"; below 10 seconds, one decimal."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours:02d} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def shorten_keys(keys: Iterable[str]) -> dict[str, str]:
    """Return for each dotted key its shortest suffix that is unique among `keys`."""
    parts = {key: key.split(".") for key in keys}

    def shortest(key: str) -> str:
        for size in range(1, len(parts[key])):
            if sum(other[-size:] == parts[key][-size:] for other in parts.values()) == 1:
                return ".".join(parts[key][-size:])
        return key

    return {key: shortest(key) for key in parts}


def objective_label(objective: str) -> str:
    """Return the name of an objective for people: "val loss" for best_val_loss; unknown ones are unchanged."""
    return OWN_OBJECTIVE_LABELS.get(objective, objective)
