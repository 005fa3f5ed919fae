"""Ridge regression on the margins of a class, each example judged by the others alone.

One decomposition serves every regression on the same margins, of which ``separation`` and ``sharpest`` make thousands.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Of the mean eigenvalue; which one, its own error says.
_PENALTIES = 10.0 ** np.arange(-3, 1.01, 0.5)
# Of the largest singular value; below it is rounding of float32.
_LEAST = 1e-5


@dataclass(frozen=True)
class Spectrum:
    """What ridge regression needs of predictors of n examples, centred over these.

    basis: float64 (n, r), the left singular vectors; eigenvalues: float64 (r,), the squared singular values. Directions
    that are rounding alone are left out; r is 0 where all examples are alike.
    """

    basis: np.ndarray
    eigenvalues: np.ndarray

    @classmethod
    def of(cls, predictors: np.ndarray) -> Spectrum:
        """Of predictors (m, n): m networks, n examples."""
        centred = (predictors - predictors.mean(1, keepdims=True)).T
        basis, singular, _ = np.linalg.svd(centred, full_matrices=False)
        kept = singular > _LEAST * max(singular[0], np.finfo(float).tiny)
        return cls(basis[:, kept].astype(np.float64), singular[kept].astype(np.float64) ** 2)

    def penalty(self, share: float) -> float:
        """The penalty that is ``share`` of the mean of n eigenvalues."""
        return float(share * self.eigenvalues.sum() / len(self.basis))

    def without_own(self, targets: np.ndarray, penalty: float) -> np.ndarray:
        """What is fitted to each of targets (n,) or (n, S) without its own, of the same shape.

        With H the matrix that makes fits of targets, leaving i out gives (fit_i - H_ii y_i) / (1 - H_ii) (Allen 1974).
        """
        kept = self.eigenvalues / (self.eigenvalues + penalty)
        leverage = self.basis**2 @ kept + 1 / len(targets)
        if targets.ndim == 2:
            kept, leverage = kept[:, None], leverage[:, None]
        means = targets.mean(0)
        fits = means + self.basis @ (kept * (self.basis.T @ (targets - means)))
        return (fits - leverage * targets) / (1 - leverage)

    def left_one_out(self, targets: np.ndarray) -> tuple[np.ndarray, float]:
        """``without_own`` of targets (n,) with the penalty of least error, and the mean squared error of that."""
        best: tuple[np.ndarray, float] | None = None
        for share in _PENALTIES:
            fits = self.without_own(targets, self.penalty(share))
            error = float(((targets - fits) ** 2).mean())
            if best is None or error < best[1]:
                best = fits, error
        assert best is not None
        return best
