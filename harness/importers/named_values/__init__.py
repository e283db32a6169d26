"""Numbers by the names that a program gives them, whatever they measure, from any output or file.

The rest of the importers reads the curves of losses of a whole log. This package keeps every named number, and reads a
growing output piece by piece.
"""
