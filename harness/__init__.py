"""A sweep harness for people whose training has plateaued."""
