"""Results of a study: summary, parameter importances, tables and figures."""
