"""Observers receive the events of a run and print, record or upload them. One observer per file."""
