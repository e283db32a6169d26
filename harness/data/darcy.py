"""Darcy flow through a random medium, solved here: -div(a grad u) = 1 on the unit square, u = 0 on its boundary.

As in Li et al. (2021), `a` is 12 where a Gaussian random field of covariance (9 - Laplacian)^-2 is positive and 3
elsewhere. Fields are sampled at i/n for i = 0 ... n - 1: coarse grids are subsets of finer ones, and u continues
periodically (it is 0 at 0 and at 1).
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.fft import dstn

from harness.data.cache import compute_digest, ensure_cached
from harness.data.operator_data import FieldData, build_field_data, read_field_pairs
from harness.data.splits import count_test

GRID_INTERVALS = 64  # of the grid on which every equation is solved
HIGH_COEFFICIENT, LOW_COEFFICIENT = 12.0, 3.0
N_HARMONICS = 32  # of the random field, in each direction
FIELD_SEED = 0  # independent of a run's seed
SOLVE_BATCH_SIZE = 50  # solved together: fits the CPU cache
MAX_ITERATIONS = 1000  # about 20 are enough for coefficients from 3 to 12
TOLERANCE = 1e-7  # of the residual, relative; fields are stored in float32


def build_darcy_data(
    *,
    train: int,
    held_out: int,
    resolution: int,
    finer: int,
    test_share: float | None = None,
    eval_batch_size: int,
    shuffle: bool,
    seed: int,
    cache_dir: Path,
) -> FieldData:
    """Solve `train` equations sampled at `resolution`, and `held_out` others sampled at `resolution` and at `finer`.

    The last `test_share` of the training samples, which are those right before the held-out ones, are held apart and
    sampled like these. Solutions are cached in `cache_dir`.

    Raises:
        ValueError: If the sizes are not possible.
    """
    for name, points in (("resolution", resolution), ("finer", finer)):
        if points < 2 or GRID_INTERVALS % points:
            raise ValueError(f"{name}={points} must be 2 or more and divide {GRID_INTERVALS}")
    if finer <= resolution:
        raise ValueError(f"finer={finer} must be more than resolution={resolution}")
    for name, count in (("train", train), ("held_out", held_out), ("eval_batch_size", eval_batch_size)):
        if count < 1:
            raise ValueError(f"{name}={count} must be 1 or more")
    if test_share is not None and not 0 < test_share < 1:
        raise ValueError(f"test_share={test_share} must lie between 0 and 1, for example 0.1; null for no test split")
    n_test = count_test(train, 0, test_share, "samples")
    settings = (GRID_INTERVALS, HIGH_COEFFICIENT, LOW_COEFFICIENT, N_HARMONICS, FIELD_SEED)
    shared = ["Darcy flow", train, resolution, finer, *settings]
    digests = {"train": compute_digest(*shared, n_test), "validation": compute_digest(*shared, "validation", held_out)}
    if n_test:
        digests["test"] = compute_digest(*shared, "test", n_test)
    key = compute_digest(*shared, held_out, n_test)
    write = partial(_write_solutions, sizes=(train - n_test, n_test, held_out), grids=(resolution, finer))
    task = f"solving {train + held_out} equations of Darcy flow"
    folder = ensure_cached(Path(cache_dir) / "data" / key, write, task)
    fields = {path.stem: read_field_pairs(path) for path in folder.glob("*.pt")}
    validation, test = (
        [fields[f"{name}_{points}"] for points in (resolution, finer) if name in digests]
        for name in ("validation", "test")
    )
    grid = f"{GRID_INTERVALS} x {GRID_INTERVALS}"
    source = f"darcy: {train} and {held_out} solutions on {grid}, at {resolution} and {finer}"
    data = build_field_data(fields["train"], validation, key, "Darcy", source, eval_batch_size, shuffle, seed, test)
    return replace(data, split_digests=digests)


def sample_coefficients(samples: int, seed: int) -> np.ndarray:
    """Draw random coefficients at the nodes, [samples, GRID_INTERVALS + 1, GRID_INTERVALS + 1].

    The first samples do not depend on how many are drawn.
    """
    k = np.arange(N_HARMONICS)
    nodes = np.arange(GRID_INTERVALS + 1) / GRID_INTERVALS
    waves = np.cos(np.pi * np.outer(nodes, k)) * np.where(k, np.sqrt(2), 1)
    deviations = 1 / (np.pi**2 * (k[:, None] ** 2 + k**2) + 9)
    deviations[0, 0] = 0  # zero mean: on average half of the square has each coefficient
    drawn = np.random.default_rng(seed).standard_normal((samples, N_HARMONICS, N_HARMONICS))
    return np.where(waves @ (drawn * deviations) @ waves.T > 0, HIGH_COEFFICIENT, LOW_COEFFICIENT)


def solve_darcy(a: np.ndarray, f: np.ndarray | float = 1.0) -> np.ndarray:
    """Return u at the nodes for coefficients `a` at the nodes, both [samples, n + 1, n + 1].

    Second-order finite volumes; the conductivity of a face is the harmonic mean over its two nodes. Solved by conjugate
    gradients, preconditioned by the Laplacian, which a sine transform inverts: for `a` between 3 and 12 the error falls
    at least threefold per iteration on any grid.

    Raises:
        ValueError: If it does not converge.
    """
    n = a.shape[-1] - 1
    conductivity = _compute_face_conductivity(a, 1), _compute_face_conductivity(a, 2)
    residual = np.broadcast_to(np.asarray(f, float), a.shape)[:, 1:-1, 1:-1] / n**2
    u, direction = np.zeros_like(residual), np.zeros_like(residual)
    target_norm = TOLERANCE * _batched_dot(residual, residual) ** 0.5
    energy = np.ones((len(a), 1, 1))
    for _ in range(MAX_ITERATIONS):
        preconditioned = _invert_laplacian(residual)
        energy, previous = _batched_dot(residual, preconditioned), energy
        direction = preconditioned + energy / previous * direction
        outflow = _compute_outflow(direction, *conductivity)
        length = energy / _batched_dot(direction, outflow)
        u = u + length * direction
        residual = residual - length * outflow
        if (_batched_dot(residual, residual) ** 0.5 <= target_norm).all():
            return np.pad(u, ((0, 0), (1, 1), (1, 1)))
    raise ValueError(
        f"no solution in {MAX_ITERATIONS} iterations: a must be positive and finite, f finite and not 0 everywhere"
    )


def _write_solutions(folder: Path, *, sizes: tuple[int, int, int], grids: tuple[int, int]) -> None:
    """Write the training samples on the first grid, and the test and validation samples on both."""
    train, test, _ = sizes
    a = sample_coefficients(sum(sizes), FIELD_SEED)
    u = np.concatenate([solve_darcy(a[i : i + SOLVE_BATCH_SIZE]) for i in range(0, len(a), SOLVE_BATCH_SIZE)])
    splits = {"train": (slice(train), grids[0])}
    splits |= {f"validation_{n}": (slice(train + test, None), n) for n in grids}
    splits |= {f"test_{n}": (slice(train, train + test), n) for n in grids if test}
    for name, (samples, points) in splits.items():
        nodes = slice(0, GRID_INTERVALS, GRID_INTERVALS // points)
        x, y = (torch.from_numpy(fields[samples, nodes, nodes].astype(np.float32)) for fields in (a, u))
        torch.save({"x": x, "y": y}, folder / f"{name}.pt")


def _compute_face_conductivity(a: np.ndarray, axis: int) -> np.ndarray:
    """Return the conductivity between neighbours along `axis`, without the boundary nodes of the other axis."""
    inner = a[:, :, 1:-1] if axis == 1 else a[:, 1:-1, :]
    first, second = np.delete(inner, -1, axis), np.delete(inner, 0, axis)
    return 2 / (1 / first + 1 / second)


def _compute_outflow(u: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Return the net flow out of the cell of each inner node, for u = 0 on the boundary."""
    vertical = down * np.diff(u, axis=1, prepend=0, append=0)
    horizontal = across * np.diff(u, axis=2, prepend=0, append=0)
    return -np.diff(vertical, axis=1) - np.diff(horizontal, axis=2)


def _invert_laplacian(f: np.ndarray) -> np.ndarray:
    """Solve -Laplace(u) = f for u = 0 on the boundary, on a grid of spacing 1."""
    n = f.shape[-1] + 1
    eigenvalues = 2 - 2 * np.cos(np.pi * np.arange(1, n) / n)
    return dstn(dstn(f, 1, axes=(1, 2)) / (eigenvalues[:, None] + eigenvalues), 1, axes=(1, 2)) / (4 * n**2)


def _batched_dot(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the dot product of each sample, [samples, 1, 1]."""
    return np.einsum("sij,sij->s", left, right)[:, None, None]
