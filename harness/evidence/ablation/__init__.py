"""Take the gain of a sweep apart: the effect of each change between the baseline and the winner."""
