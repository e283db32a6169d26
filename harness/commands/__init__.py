"""The commands of `plateau`, one per module: `main(arguments)` returns the exit status."""
