"""A Gaussian process for the few hundred points of a sweep, in numpy and scipy only.

Matérn-5/2 kernel with a length scale for each column, and noise; their values are the most probable ones under
log-normal priors (Rasmussen and Williams, Gaussian Processes for Machine Learning, chapters 2, 4 and 5).
"""

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize
from scipy.special import log_ndtr, ndtr

LENGTH_PRIOR = (-0.7, 0.8)  # mean and standard deviation of the logarithm; columns are scaled to 0..1
VARIANCE_PRIOR = (0.0, 1.0)  # values are standardized
NOISE_PRIOR = (-4.0, 1.5)
JITTER = 1e-6  # added to the diagonal, so that equal points do not make it singular
MAX_ITERATIONS = 30


class GaussianProcess:
    """Gaussian process fitted to standardized `values` [n] at `points` [n, d] in the unit cube."""

    def __init__(self, points: np.ndarray, values: np.ndarray) -> None:
        n_columns = points.shape[1]
        means, deviations = np.transpose([LENGTH_PRIOR] * n_columns + [VARIANCE_PRIOR, NOISE_PRIOR])
        squares = np.moveaxis((points[:, None] - points[None]) ** 2, 2, 0).reshape(n_columns, -1)

        def compute_loss(logs: np.ndarray) -> tuple[float, np.ndarray]:
            """Return the negative log posterior of the logarithms of the parameters, and its gradient."""
            loss, gradient = _compute_likelihood(squares, values, logs)
            distances = (logs - means) / deviations
            return loss + 0.5 * float(distances @ distances), gradient + distances / deviations

        bounds = list(zip(means - 4 * deviations, means + 4 * deviations, strict=True))
        found = minimize(
            compute_loss, means, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": MAX_ITERATIONS}
        )
        self._scales = np.exp(-found.x[:n_columns])
        self._variance, self._noise = np.exp(found.x[n_columns:])
        self._condition(points, values)

    def _condition(self, points: np.ndarray, values: np.ndarray) -> None:
        self._points, self._values = points, values
        covariance = self._covariance(points, points)
        covariance[np.diag_indices(len(points))] += self._noise + JITTER
        self._factor = cho_factor(covariance, lower=True)
        self._weights = cho_solve(self._factor, values)

    def add_points(self, points: np.ndarray) -> None:
        """Take the predicted values at more points, whose results are awaited, for measured ones."""
        values = self.predict(points)[0]
        self._condition(np.concatenate([self._points, points]), np.concatenate([self._values, values]))

    def predict(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the means and standard deviations, without noise, at points [m, d]."""
        covariance = self._covariance(self._points, points)
        explained = solve_triangular(self._factor[0], covariance, lower=True)
        variance = self._variance - (explained * explained).sum(0)
        return covariance.T @ self._weights, np.sqrt(np.maximum(variance, 1e-9))

    def _covariance(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        left, right = left * self._scales, right * self._scales
        squared = (left * left).sum(1)[:, None] + (right * right).sum(1) - 2 * left @ right.T
        root, decay = _matern_parts(np.maximum(squared, 0))
        return self._variance * (1 + root + root * root / 3) * decay


def log_expected_improvement(means: np.ndarray, deviations: np.ndarray, threshold: float) -> np.ndarray:
    """Return the logarithm of the expected improvement below a threshold, where values are minimized."""
    z = (threshold - means) / deviations
    density = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    near = np.log(np.maximum(z * ndtr(z) + density, 1e-300))
    far = log_ndtr(np.minimum(z, -1)) - np.log(np.maximum(-z, 1))  # what it tends to far above the threshold
    return np.where(z > -5, near, far) + np.log(deviations)


def _matern_parts(squared_distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    root = np.sqrt(5 * squared_distances + 1e-12)
    return root, np.exp(-root)


def _compute_likelihood(squares: np.ndarray, values: np.ndarray, logs: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the negative log likelihood and its gradient.

    `squares` [d, n * n] are squared differences by column, `logs` the logarithms of the length scales, the variance
    and the noise.
    """
    n_columns, n_points = len(squares), len(values)
    inverse_squares = np.exp(-2 * logs[:n_columns])
    variance, noise = np.exp(logs[n_columns:])
    root, decay = _matern_parts((inverse_squares @ squares).reshape(n_points, n_points))
    kernel = variance * (1 + root + root * root / 3) * decay
    covariance = kernel + (noise + JITTER) * np.eye(n_points)
    factor = cho_factor(covariance, lower=True, check_finite=False)
    inverse = cho_solve(factor, np.eye(n_points), check_finite=False)
    weights = inverse @ values
    loss = 0.5 * values @ weights + np.log(np.diag(factor[0])).sum()
    slopes = inverse - np.outer(weights, weights)  # of twice the loss by the covariance
    by_squares = squares @ (slopes * variance * (5 / 3) * (1 + root) * decay).ravel()
    gradient = [*(by_squares * inverse_squares), (slopes * kernel).sum(), noise * np.trace(slopes)]
    return float(loss), 0.5 * np.array(gradient)
