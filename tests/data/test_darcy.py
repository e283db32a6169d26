"""The Darcy solver: order of convergence, bounds and symmetries of the solution, and its cached data."""

import numpy as np
import pytest
import torch

from harness.data.darcy import (
    GRID_INTERVALS,
    HIGH_COEFFICIENT,
    LOW_COEFFICIENT,
    build_darcy_data,
    sample_coefficients,
    solve_darcy,
)

SIZES = {"train": 6, "held_out": 3, "resolution": 8, "finer": 16, "eval_batch_size": 2, "shuffle": True, "seed": 0}


def make_manufactured_solution(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return u = sin(pi x) sin(2 pi y), a smooth a and the matching f at the nodes of a grid of n intervals."""
    x, y = np.meshgrid(*[np.linspace(0, 1, n + 1)] * 2, indexing="ij")
    u, a, slope = np.sin(np.pi * x) * np.sin(2 * np.pi * y), 5 + 2 * np.sin(2 * x + y), 2 * np.cos(2 * x + y)
    u_x, u_y = np.pi * np.cos(np.pi * x) * np.sin(2 * np.pi * y), 2 * np.pi * np.sin(np.pi * x) * np.cos(2 * np.pi * y)
    return u, a, 5 * np.pi**2 * a * u - 2 * slope * u_x - slope * u_y


def test_solver_is_second_order() -> None:
    errors = []
    for n in (8, 16, 32, 64):
        u, a, f = make_manufactured_solution(n)
        errors.append(np.abs(solve_darcy(a[None], f[None])[0] - u).max())
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert orders == pytest.approx([2, 2, 2], abs=0.1)


def test_solution_scales_with_constant_coefficient() -> None:
    low, high = solve_darcy(np.stack([np.full((17, 17), value) for value in (LOW_COEFFICIENT, HIGH_COEFFICIENT)]))
    np.testing.assert_allclose(low * LOW_COEFFICIENT, high * HIGH_COEFFICIENT, rtol=1e-6)


@pytest.fixture(scope="module")
def solved() -> tuple[np.ndarray, np.ndarray]:
    a = sample_coefficients(4, seed=1)
    return a, solve_darcy(a)


def test_solution_is_positive_and_bounded_by_constant_media(solved) -> None:
    _, u = solved
    least, most = (
        solve_darcy(np.full((1, GRID_INTERVALS + 1, GRID_INTERVALS + 1), value))[0].max()
        for value in (HIGH_COEFFICIENT, LOW_COEFFICIENT)
    )
    assert (u[:, 1:-1, 1:-1] > 0).all()
    assert not u[:, [0, -1]].any()
    assert not u[:, :, [0, -1]].any()
    assert ((least < u.max((1, 2))) & (u.max((1, 2)) < most)).all()


def test_mirrored_coefficients_give_mirrored_solution(solved) -> None:
    a, u = solved
    np.testing.assert_allclose(solve_darcy(a[:, ::-1]), u[:, ::-1], atol=1e-6 * u.max())
    np.testing.assert_allclose(solve_darcy(a.transpose(0, 2, 1)), u.transpose(0, 2, 1), atol=1e-6 * u.max())


def test_each_coefficient_fills_half_of_the_square() -> None:
    assert set(np.unique(sample_coefficients(2, seed=0))) == {LOW_COEFFICIENT, HIGH_COEFFICIENT}
    assert (sample_coefficients(200, seed=0) == HIGH_COEFFICIENT).mean() == pytest.approx(0.5, abs=0.03)


def test_both_grids_sample_the_same_held_out_solutions(tmp_path) -> None:
    data = build_darcy_data(cache_dir=tmp_path, **SIZES)
    coarse, fine = data.held_out
    assert [len(fields) for fields in (data.train, coarse, fine)] == [6, 3, 3]
    assert (coarse.grid, fine.grid) == ("8", "16")
    torch.testing.assert_close(fine.y[:, :, ::2, ::2], coarse.y)
    torch.testing.assert_close(fine.x[:, :, ::2, ::2], coarse.x)
    assert not any((sample == other).all() for sample in data.train.y for other in coarse.y)


def test_test_share_takes_the_last_training_samples(tmp_path) -> None:
    without = build_darcy_data(cache_dir=tmp_path, **SIZES)
    data = build_darcy_data(cache_dir=tmp_path, **SIZES, test_share=1 / 3)
    assert [len(fields) for fields in (data.train, *data.test)] == [4, 2, 2]
    assert [fields.grid for fields in data.test] == ["8", "16"]
    assert torch.equal(torch.cat([data.train.y, data.test[0].y]), without.train.y)
    assert torch.equal(data.test[1].x[:, :, ::2, ::2], data.test[0].x)
    for mine, others in zip(data.held_out, without.held_out, strict=True):
        assert torch.equal(mine.y, others.y)
    assert data.split_digests["validation"] == without.split_digests["validation"]
    assert data.split_digests["train"] != without.split_digests["train"]
    assert (set(data.split_digests), set(without.split_digests)) == (
        {"train", "validation", "test"},
        {"train", "validation"},
    )
    assert data.digest != without.digest
    evaluated = data.with_test_evaluated()
    assert evaluated is not None
    assert (evaluated.held_out, without.with_test_evaluated()) == (data.test, None)


def test_data_is_cached_and_independent_of_run_seed(tmp_path) -> None:
    first = build_darcy_data(cache_dir=tmp_path, **SIZES)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pt")}
    second = build_darcy_data(cache_dir=tmp_path, **{**SIZES, "seed": 1})
    assert first.digest == second.digest
    assert torch.equal(first.train.y, second.train.y)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pt")} == written


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"resolution": 24}, "resolution=24 must be 2 or more and divide 64"),
        ({"finer": 1}, "finer=1 must be 2 or more and divide 64"),
        ({"finer": 8}, "finer=8 must be more than resolution=8"),
        ({"train": 0}, "train=0 must be 1 or more"),
        ({"held_out": 0}, "held_out=0 must be 1 or more"),
        ({"eval_batch_size": 0}, "eval_batch_size=0 must be 1 or more"),
        ({"test_share": 1.5}, "test_share=1.5 must lie between 0 and 1, for example 0.1"),
        ({"test_share": 0.95}, "test_share=0.95 leaves none of the 6 samples for training; lower it"),
    ],
)
def test_invalid_sizes_are_rejected(sizes, message, tmp_path) -> None:
    with pytest.raises(ValueError, match=message):
        build_darcy_data(cache_dir=tmp_path, **{**SIZES, **sizes})
