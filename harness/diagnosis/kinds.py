"""The kinds of diagnoses, for options that name some of them."""

KINDS = (
    "divergence",
    "never learnt",
    "vanishing gradients",
    "incomparable",
    "warm-up truncated",
    "warm-up too short",
    "spike",
    "learning rate too low",
    "learning rate too high",
    "overfitting",
    "scheduler misled",
    "scheduler idle",
    "rising loss",
    "plateau",
    "underfitting",
    "clipping binds",
    "dominating layer",
    "noisy evaluation",
    "throughput fell",
)
LENGTH_KINDS = ("never learnt", "warm-up too short", "scheduler idle", "rising loss", "plateau", "underfitting")
"""Depend on how much of the run is done, so that they are uncertain while a run of unknown length goes on."""
