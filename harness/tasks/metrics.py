"""Means and metrics that all tasks compute alike."""

from collections.abc import Mapping

from torch import Tensor

from harness.core.task import Mean, Metric


def mean_of_values(values: Tensor, unit: str) -> Mean:
    """Return the mean of one value per scored element, summed in float64."""
    values = values.detach().cpu().double()  # on the CPU, because mps has no float64
    return Mean(values.sum().item(), len(values), unit, values.square().sum().item())


def to_metrics(means: Mapping[str, Mean]) -> dict[str, Metric]:
    """Return each mean as a metric with its standard error."""
    return {name: Metric(mean.value, mean.unit, mean.standard_error) for name, mean in means.items()}
