"""Means and metrics that all tasks compute alike."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from harness.core.task import ExampleSums, Mean, Metric


def mean_of_values(values: Tensor, unit: str, counts: np.ndarray | None = None) -> Mean:
    """Return the mean of one value per scored element, summed in float64.

    `counts` are the numbers of elements of each example, which lie one after the other in `values`.
    """
    values = values.detach().cpu().double()  # on the CPU, because mps has no float64
    examples: tuple[ExampleSums, ...] = ()
    if counts is not None:
        owners = np.repeat(np.arange(len(counts)), counts)
        examples = (ExampleSums(np.bincount(owners, values.numpy(), len(counts)), np.asarray(counts)),)
    return Mean(values.sum().item(), len(values), unit, values.square().sum().item(), examples)


def to_metrics(means: Mapping[str, Mean]) -> dict[str, Metric]:
    """Return each mean as a metric with its standard error."""
    return {name: Metric(mean.value, mean.unit, mean.standard_error) for name, mean in means.items()}
