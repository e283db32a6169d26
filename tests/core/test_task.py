"""Means that add up over batches."""

import math

import pytest
import torch

from harness.core.task import Mean


def test_means_add_up_with_standard_error() -> None:
    total = Mean(3.0, 2, "nats", 5.0) + Mean(4.0, 1, "nats", 16.0)
    assert (total.value, total.count) == (7 / 3, 3)
    assert total.standard_error == pytest.approx(torch.tensor([1.0, 2.0, 4.0]).std().item() / math.sqrt(3))
    assert (total + Mean(1.0, 1, "nats")).standard_error is None
    with pytest.raises(ValueError, match="cannot add a mean in bits to one in nats"):
        total + Mean(1.0, 1, "bits")
