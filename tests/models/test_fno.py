"""The Fourier neural operator and its normalization."""

import pytest
import torch

from harness.models.fno import NormalizedOperator, build_fno

SIZES = {"modes": 4, "width": 6, "layers": 1}


def make_fields(samples: int = 8, channels: int = 1, points: int = 8) -> torch.Tensor:
    return 3 + 5 * torch.randn(samples, channels, points, points, generator=torch.Generator().manual_seed(channels))


def test_parameter_count_of_original_system() -> None:
    model = build_fno(x=make_fields(points=16), y=make_fields(points=16), modes=16, width=24, layers=4)
    assert sum(p.numel() * (2 if p.is_complex() else 1) for p in model.parameters()) == 671_113


def test_inputs_and_outputs_are_normalized() -> None:
    x, y = make_fields(channels=1), make_fields(channels=2)
    seen: list[torch.Tensor] = []

    class Watching(torch.nn.Module):
        def forward(self, given: torch.Tensor) -> torch.Tensor:
            seen.append(given)
            return (y - y.mean((0, 2, 3), keepdim=True)) / y.std((0, 2, 3), keepdim=True)

    model = NormalizedOperator(Watching(), x, y)
    torch.testing.assert_close(model(x), y)
    torch.testing.assert_close(seen[0].mean(), torch.tensor(0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(seen[0].std(), torch.tensor(1.0))
    torch.testing.assert_close(model.normalize_targets(y).std((0, 2, 3)), torch.ones(2))


def test_constant_channel_stays_finite() -> None:
    model = NormalizedOperator(torch.nn.Identity(), torch.ones(2, 1, 4, 4), torch.ones(2, 1, 4, 4))
    assert model(torch.ones(1, 1, 4, 4)).isfinite().all()


def test_state_dict_holds_only_tensors_and_statistics() -> None:
    model, other = (build_fno(x=shift + make_fields(), y=make_fields(), **SIZES) for shift in (0, 7))
    state = model.state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    other.load_state_dict(state)
    torch.testing.assert_close(other(make_fields()), model(make_fields()), rtol=0, atol=0)


def test_other_resolutions() -> None:
    model = build_fno(x=make_fields(), y=make_fields(channels=2), **SIZES)
    assert model(make_fields(samples=2, points=24)).shape == (2, 2, 24, 24)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"modes": 9}, "modes=9 is more than the 8 points of the training grid.*use model.modes=8 or fewer"),
        ({"modes": 0}, "modes=0 must be 1 or more"),
        ({"width": 0}, "width=0 must be 1 or more"),
        ({"layers": 0}, "layers=0 must be 1 or more"),
    ],
)
def test_invalid_sizes(sizes, message) -> None:
    with pytest.raises(ValueError, match=message):
        build_fno(x=make_fields(), y=make_fields(), **{**SIZES, **sizes})
