"""Tasks: one file per kind, with a builder that turns a model and its data into a `Task`."""
