"""Statistics of losses over seeds: comparisons, intervals, several candidates, seeds in steps."""
