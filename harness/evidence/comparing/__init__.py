"""Comparisons of two or more runs from their records or logs: plateau compare."""
