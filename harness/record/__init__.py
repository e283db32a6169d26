"""File formats of what a run leaves on disk."""
