"""Reports on studies and runs: every number has a source, from which it can be computed again."""
