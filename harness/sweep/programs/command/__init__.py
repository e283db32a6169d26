"""Trials that run any command line."""
