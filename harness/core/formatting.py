"""Numbers and durations as text."""

SMALLEST_FIXED = 0.01  # smaller numbers get an exponent


def format_number(value: float) -> str:
    """Return four significant digits, with an exponent for small and large numbers."""
    return f"{value:#.4g}".rstrip(".") if abs(value) >= SMALLEST_FIXED or value == 0 else f"{value:.2e}"


def format_lr(value: float) -> str:
    """Return two significant digits in the notation of learning rates, such as "3e-3" or "1.5e-4"."""
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"


def format_bytes(count: float) -> str:
    """Return a number of bytes with three digits and a decimal unit, such as "1.24 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


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
