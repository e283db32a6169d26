"""Darcy flow through a random medium, solved here: -div(a grad u) = 1 on the unit square, u = 0 around it.

As in Li et al., 2021: `a` is 12 where a Gaussian field of covariance (9 - Laplacian)^-2 is above 0 and 3 elsewhere. The
fields are sampled at i/n, i = 0 ... n - 1, so that grids of different n hold the same points, and that a field goes on
periodically, the zeros at 1 being those at 0."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.fft import dstn

from harness.data.cache import compute_digest, ensure_cached
from harness.data.operator_data import FieldData, build_field_data, read_field_pairs

GRID_INTERVALS = 64
"""Of the grid on which every equation is solved, whatever the grid it is sampled on."""
HIGH_COEFFICIENT, LOW_COEFFICIENT = 12.0, 3.0
N_HARMONICS = 32
"""Of the random field, in each direction."""
FIELD_SEED = 0
"""Of the fields; a run's own seed does not touch them."""
SOLVE_BATCH_SIZE = 50
"""Solved together: they fit a cache."""
MAX_ITERATIONS = 1000
"""Iterations; some twenty are enough for coefficients from LOW to HIGH."""
TOLERANCE = 1e-7
"""Of the residual, relative; fields are stored in float32."""


def build_darcy_data(
    *, train: int, held_out: int, resolution: int, finer: int, eval_batch_size: int, shuffle: bool, seed: int,
    cache_dir: Path,
) -> FieldData:  # fmt: skip
    """`train` solutions at `resolution`, and `held_out` others at it and at `finer`, solved once and kept in
    `cache_dir`; ValueError for sizes that cannot be had."""
    for name, points in (("resolution", resolution), ("finer", finer)):
        if points < 2 or GRID_INTERVALS % points:
            raise ValueError(f"{name}={points} must be 2 or more and divide {GRID_INTERVALS}")
    if finer <= resolution:
        raise ValueError(f"finer={finer} must be more than resolution={resolution}")
    for name, count in (("train", train), ("held_out", held_out), ("eval_batch_size", eval_batch_size)):
        if count < 1:
            raise ValueError(f"{name}={count} must be 1 or more")
    key = compute_digest(
        "darcy",
        train,
        held_out,
        resolution,
        finer,
        GRID_INTERVALS,
        HIGH_COEFFICIENT,
        LOW_COEFFICIENT,
        N_HARMONICS,
        FIELD_SEED,
    )
    folder = ensure_cached(
        Path(cache_dir) / "data" / key, partial(_write_solutions, sizes=(train, held_out), grids=(resolution, finer))
    )
    fields = [read_field_pairs(folder / f"{name}.pt") for name in ("train", f"test_{resolution}", f"test_{finer}")]
    source = (
        f"darcy: {train} and {held_out} solutions on {GRID_INTERVALS} x {GRID_INTERVALS}, at {resolution} and {finer}"
    )
    return build_field_data(fields[0], fields[1:], key, "Darcy", source, eval_batch_size, shuffle, seed)


def sample_coefficients(samples: int, seed: int) -> np.ndarray:
    """Random coefficients at the nodes, [samples, INTERVALS + 1, INTERVALS + 1]; more samples begin with the same."""
    k = np.arange(N_HARMONICS)
    waves = np.cos(np.pi * np.outer(np.arange(GRID_INTERVALS + 1) / GRID_INTERVALS, k)) * np.where(k, np.sqrt(2), 1)
    deviations = 1 / (np.pi**2 * (k[:, None] ** 2 + k**2) + 9)
    deviations[0, 0] = 0  # half of the square is of either kind, on average
    drawn = np.random.default_rng(seed).standard_normal((samples, N_HARMONICS, N_HARMONICS))
    return np.where(waves @ (drawn * deviations) @ waves.T > 0, HIGH_COEFFICIENT, LOW_COEFFICIENT)


def solve_darcy(a: np.ndarray, f: np.ndarray | float = 1.0) -> np.ndarray:
    """u at the nodes, 0 at the border, for the coefficients `a` at the nodes, [samples, n + 1, n + 1]: second-order
    finite volumes, the conductivity of a face the harmonic mean of that of its two nodes.

    Conjugate gradients, preconditioned by the Laplacian, which a sine transform inverts: as `a` lies between LOW and
    HIGH, the error falls at least threefold an iteration on any grid."""
    n = a.shape[-1] - 1
    conductivity = _compute_face_conductivity(a, 1), _compute_face_conductivity(a, 2)
    residual = np.broadcast_to(np.asarray(f, float), a.shape)[:, 1:-1, 1:-1] / n**2
    u, enough = np.zeros_like(residual), TOLERANCE * _batched_dot(residual, residual) ** 0.5
    direction, energy = 0.0, 1.0
    for _ in range(MAX_ITERATIONS):
        step = _invert_laplacian(residual)
        energy, before = _batched_dot(residual, step), energy
        direction = step + energy / before * direction
        flow = _compute_outflow(direction, *conductivity)
        length = energy / _batched_dot(direction, flow)
        u = u + length * direction
        residual = residual - length * flow
        if (_batched_dot(residual, residual) ** 0.5 <= enough).all():
            return np.pad(u, ((0, 0), (1, 1), (1, 1)))
    raise ValueError(
        f"no solution in {MAX_ITERATIONS} iterations: a must be positive and finite, f finite and not 0 everywhere"
    )


def _write_solutions(folder: Path, *, sizes: tuple[int, int], grids: tuple[int, int]) -> None:
    train, held_out = sizes
    a = sample_coefficients(train + held_out, FIELD_SEED)
    u = np.concatenate([solve_darcy(a[i : i + SOLVE_BATCH_SIZE]) for i in range(0, len(a), SOLVE_BATCH_SIZE)])
    splits = {"train": (slice(train), grids[0]), **{f"test_{n}": (slice(train, None), n) for n in grids}}
    for name, (samples, points) in splits.items():
        every = slice(0, GRID_INTERVALS, GRID_INTERVALS // points)
        x, y = (torch.from_numpy(fields[samples, every, every].astype(np.float32)) for fields in (a, u))
        torch.save({"x": x, "y": y}, folder / f"{name}.pt")


def _compute_face_conductivity(a: np.ndarray, axis: int) -> np.ndarray:
    """Between the nodes along `axis`; the border nodes of the other axis have no equation and are left out."""
    inner = a[:, :, 1:-1] if axis == 1 else a[:, 1:-1, :]
    resistance = 1 / inner
    first, second = (np.take(resistance, np.arange(side, inner.shape[axis] - 1 + side), axis) for side in (0, 1))
    return 2 / (first + second)


def _compute_outflow(u: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
    """What leaves the cell of each inner node, u being 0 at the border."""
    vertical = down * np.diff(u, axis=1, prepend=0, append=0)
    horizontal = across * np.diff(u, axis=2, prepend=0, append=0)
    return -np.diff(vertical, axis=1) - np.diff(horizontal, axis=2)


def _invert_laplacian(f: np.ndarray) -> np.ndarray:
    """For u = 0 at the border, on a grid of spacing 1."""
    n = f.shape[-1] + 1
    eigenvalues = 2 - 2 * np.cos(np.pi * np.arange(1, n) / n)
    return dstn(dstn(f, 1, axes=(1, 2)) / (eigenvalues[:, None] + eigenvalues), 1, axes=(1, 2)) / (4 * n**2)


def _batched_dot(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Of each sample, [samples, 1, 1]."""
    return np.einsum("sij,sij->s", left, right)[:, None, None]
