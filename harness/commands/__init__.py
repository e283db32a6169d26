"""What `plateau` does, one command a file: `main(arguments)` returns the exit status."""
