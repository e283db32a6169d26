"""A sweep harness for people whose training has plateaued."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.integrations.watch import watch as watch


def __getattr__(name: str) -> Any:
    """Load `harness.watch` when it is first used, so that importing the package loads nothing."""
    if name == "watch":
        from harness.integrations.watch import watch

        return watch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
