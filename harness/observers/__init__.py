"""Receivers of the events of a run, which print, record or upload them. One observer per file."""
