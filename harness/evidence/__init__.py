"""Evidence that one training is better than another: comparisons of runs, of seeds, confirmations and reports."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.evidence.statistics.candidates import compare_candidates as compare_candidates
    from harness.evidence.statistics.seed_comparison import SeedComparison as SeedComparison
    from harness.evidence.statistics.seed_comparison import compare_losses as compare_losses
    from harness.evidence.statistics.seed_plan import SeedPlan as SeedPlan

__all__ = ["SeedComparison", "SeedPlan", "compare_candidates", "compare_losses"]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that importing the package does not load scipy."""
    if name in ("SeedComparison", "compare_losses"):
        from harness.evidence.statistics import seed_comparison

        return getattr(seed_comparison, name)
    if name == "compare_candidates":
        from harness.evidence.statistics.candidates import compare_candidates

        return compare_candidates
    if name == "SeedPlan":
        from harness.evidence.statistics.seed_plan import SeedPlan

        return SeedPlan
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
