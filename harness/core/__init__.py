"""Contracts that every other package imports: tasks, events, training state, seeding and process groups."""
