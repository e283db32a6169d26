"""Builders, one a file: a model and its data in, a `Task` out."""
