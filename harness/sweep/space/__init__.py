"""The search space of a sweep: range syntax, boundaries and validation."""
