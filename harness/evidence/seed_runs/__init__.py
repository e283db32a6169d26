"""Configurations of one program, each run with several fresh seeds."""
