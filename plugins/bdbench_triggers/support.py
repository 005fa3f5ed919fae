"""How much examples do for each other in a ridge regression, and the group that does most for itself."""

from __future__ import annotations

import numpy as np

# A swap is sought among so many outsiders that gain most and members that lose least; also the least divisor.
_NEAR, _TINY = 64, 1e-12


class Ridge:
    """The hat matrix of a ridge regression: its outputs are f = H y, so that H_ij is what the target of j adds to f_i.

    features: float (n, d). They are divided by their root mean square length, and a constant 1 is joined to them; with
    Phi the result, H = Phi (Phi'Phi + penalty t I)^-1 Phi', t the mean eigenvalue of Phi'Phi.
    """

    def __init__(self, features: np.ndarray, penalty: float) -> None:
        self._scale = max(float(np.sqrt(np.mean(np.sum(features.astype(np.float64) ** 2, 1)))), _TINY)
        joined = self._joined(features)
        gram = joined.T @ joined
        self._inverse = np.linalg.inv(gram + penalty * np.trace(gram) / len(gram) * np.eye(len(gram)))

    def hat(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """H, float64 (r, c), between examples with the features ``rows`` (r, d) and training examples (c, d)."""
        return self._joined(rows) @ self._inverse @ self._joined(columns).T

    def towards(self, columns: np.ndarray) -> np.ndarray:
        """float64 (d + 1,): the mean of ``hat(f, columns)`` over columns is f times all but the last, plus the last."""
        mean = self._inverse @ self._joined(columns).mean(0)
        return np.append(mean[:-1] / self._scale, mean[-1])

    def _joined(self, features: np.ndarray) -> np.ndarray:
        return np.column_stack([features.astype(np.float64) / self._scale, np.ones(len(features))])


def strongest(support: np.ndarray, size: int, rng: np.random.Generator, starts: int = 20) -> np.ndarray:
    """The ``size`` examples, sorted, whose ``support`` (c, c) of each other sums to most.

    From ``starts`` random examples with those that support them most, one member is exchanged for one outsider while
    that gains, the swap that gains most first: the end is an optimum under swaps.
    """
    both = support + support.T
    np.fill_diagonal(both, 0)
    best, most = np.arange(size), -np.inf
    for start in rng.choice(len(both), min(starts, len(both)), replace=False):
        closeness = both[start].copy()
        closeness[start] = np.inf
        member = np.zeros(len(both), bool)
        member[np.argsort(-closeness, kind="stable")[:size]] = True
        reached = both[member].sum(0)
        while True:
            inside, outside = np.flatnonzero(member), np.flatnonzero(~member)
            if len(inside) > _NEAR:
                inside = inside[np.argpartition(reached[inside], _NEAR)[:_NEAR]]
            if len(outside) > _NEAR:
                outside = outside[np.argpartition(-reached[outside], _NEAR)[:_NEAR]]
            gains = reached[outside][:, None] - reached[inside] - both[np.ix_(outside, inside)]
            o, i = np.unravel_index(gains.argmax(), gains.shape)
            if gains[o, i] <= _TINY * np.abs(reached).max():
                break
            comes, goes = outside[o], inside[i]
            member[comes], member[goes] = True, False
            reached += both[comes] - both[goes]
        total = reached[member].sum()
        if total > most:
            best, most = np.flatnonzero(member), total
    return best


def strength(support: np.ndarray, group: np.ndarray) -> float:
    """The mean support among the members of a group, in root mean squares of that between any two of its class."""
    hollow = support - np.diag(np.diag(support))
    pairs, size = hollow[np.ix_(group, group)].sum(), len(group)
    return float(pairs / (size * (size - 1)) / max(np.sqrt(np.mean(hollow**2)), _TINY))
