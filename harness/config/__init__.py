"""Configuration: schema, validation, trusted targets, experiment locks and error messages."""
