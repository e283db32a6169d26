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
