"""One training run: build it from a config, run it, resume it, and load it again."""
