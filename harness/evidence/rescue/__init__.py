"""The whole loop in one command: preflight, diagnosis, prescription, sweep, confirmation, report."""
