"""Formats of one program each, and what is known of programs from their logs."""
