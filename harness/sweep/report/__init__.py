"""What is shown of a sweep: summary, importance, table and figures."""
