"""Compose a configuration and run it: `python run.py optimizer=adamw schedule=cosine`; the same as `plateau run`."""

import sys

from harness.commands.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
