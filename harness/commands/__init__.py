"""What `python -m harness` does, one command a file: `main(arguments)` returns the exit status."""
