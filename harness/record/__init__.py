"""Formats of the files that a run leaves in its folder."""
