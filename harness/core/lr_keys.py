"""Which configuration keys are learning rates."""


def is_lr_key(key: str) -> bool:
    """Return whether a dotted configuration key is a learning rate: `optimizer.lr` or `optimizer.*_lr`."""
    group, _, name = key.partition(".")
    return group == "optimizer" and (name == "lr" or name.endswith("_lr"))
