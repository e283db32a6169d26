"""Fuzzed command lines: keys and types, options and misspellings, and every command on damaged folders.

Run lines without pytest, and count the failures by generator: python -m tests.fuzzing SEED FIRST LAST
"""
