"""Confirm that candidates are better than a baseline, on fresh seeds."""
