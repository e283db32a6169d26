"""Evidence that one training is better than another: comparisons, confirmations and reports."""
