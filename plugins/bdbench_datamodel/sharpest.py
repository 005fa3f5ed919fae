"""The group of a class that a discriminant tells most sharply from the rest, looked for from many places.

``separation`` makes one first guess better and ends at what lies near it. Where half of a class is poisoned and each
poison moves the others little, that may be a natural group, while the poisons make a sharper one that nothing led to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bdbench_datamodel.separation import FEWEST, Separation, between
from bdbench_datamodel.spectrum import Spectrum

_STARTS = 300
# Of the class: a start, and the least and the largest group. Half of it may be clean-label poisons.
_NEIGHBOURS = (0.1,)
_SHARES = (0.04, 0.6)
# The same for a handful, which among larger groups would be a part of one; they are at most so many, or so large.
_FEW_NEIGHBOURS = (0.01, 0.025, 0.05)
_FEW = 6
_FEW_SHARE = 0.05
# Of the mean eigenvalue; one for all, so that groups compare.
_PENALTY = 1.0
_ROUNDS = 30


@dataclass(frozen=True)
class Starts:
    """Where the groups of one class are looked for. nearest: int64 (n_c, S), for each of S examples of the class all of
    it, those first whose margins correlate with its own most, itself before all.
    """

    nearest: np.ndarray

    @classmethod
    def of(cls, residuals: np.ndarray, rng: np.random.Generator) -> Starts:
        """residuals: float (m, n_c), the class's margins freed of their own inclusion. Up to 300 examples are drawn."""
        examples = residuals.shape[1]
        places = rng.choice(examples, min(_STARTS, examples), replace=False)
        centred = residuals - residuals.mean(1, keepdims=True)
        centred = centred - centred.mean(0)
        lengths = np.linalg.norm(centred, axis=0)
        centred /= np.where(lengths > 0, lengths, 1)
        correlations = centred.T @ centred[:, places]
        correlations[places, np.arange(len(places))] = np.inf
        return cls(np.argsort(-correlations, axis=0, kind="stable"))

    def neighbourhoods(self, share: float) -> np.ndarray:
        """bool (n_c, S): the share of the class that is nearest to each of the examples, four at least."""
        members = np.zeros(self.nearest.shape, bool)
        np.put_along_axis(members, self.nearest[: max(FEWEST, int(share * len(members)))], True, axis=0)
        return members


def sharpest(spectrum: Spectrum, starts: Starts, few: bool = False, guess: np.ndarray | None = None) -> Separation:
    """The group of a class whose membership the margins explain best, each example judged by the others alone.

    spectrum: of the class's residuals. A start is an example with the tenth of its class-mates that co-vary with it
    most, over the networks, and ``guess``, bool (n_c,), is one more. As in ``separation.separate`` the membership is
    regressed on the residuals and the group made anew of the fits, here by the split of least squared error into two
    parts of 4 to 60 % of the class (Otsu 1979), until it is what it was one or two rounds before, at most 30 times; of
    all groups on the way the sharpest is kept. With ``few`` the groups are handfuls, and so are the starts. Nothing is
    found (sharpness 0) in a class of fewer than 8, or whose examples are all alike, or where no group is told better
    than by its mean.
    """
    examples = len(starts.nearest)
    nothing = Separation(np.zeros(examples), np.zeros(examples, bool), 0.0)
    if examples < 2 * FEWEST or not len(spectrum.eigenvalues):
        return nothing
    members = np.hstack([starts.neighbourhoods(share) for share in (_FEW_NEIGHBOURS if few else _NEIGHBOURS)])
    if guess is not None and FEWEST <= guess.sum() <= examples - FEWEST:
        members = np.column_stack([members, guess])
    bounds = (0.0, max(_FEW_SHARE, _FEW / examples)) if few else _SHARES
    penalty = spectrum.penalty(_PENALTY)
    best, earlier = nothing, np.zeros_like(members)
    for _ in range(_ROUNDS):
        fits = spectrum.without_own(members.astype(float), penalty)
        sharpness = 1 - ((members - fits) ** 2).mean(0) / members.var(0)
        place = int(sharpness.argmax())
        if sharpness[place] > best.sharpness:
            best = Separation(fits[:, place].copy(), members[:, place].copy(), float(sharpness[place]))
        following = _split(fits, bounds)
        moving = (following != members).any(0) & (following != earlier).any(0)
        if not moving.any():
            break
        members, earlier = following[:, moving], members[:, moving]
    return best


def explained(residuals: np.ndarray, members: np.ndarray) -> float:
    """How much of what a group does over the networks its class-mates' margins tell: a share of variance, at most 1.

    residuals: float (m, n_c); members: bool (n_c,). What it does is the difference between the members' mean margin and
    the others', float (m,); it is regressed on the margins of the others by ridge, each network fitted by the other
    networks alone. A trigger's group does what nothing else in the class does; natural groups are parts of a whole.
    """
    others = residuals[:, ~members].astype(np.float64)
    signal = residuals[:, members].mean(1, dtype=np.float64) - others.mean(1)
    deviations = others.std(0)
    if signal.std() == 0 or not deviations.any():
        return 0.0
    _, error = Spectrum.of((others[:, deviations > 0] / deviations[deviations > 0]).T).left_one_out(signal)
    return 1 - error / float(signal.var())


def _split(fits: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    """bool (n_c, S): the upper of two parts of each column, with the least squared error about their means."""
    examples = len(fits)
    least, most = (int(share * examples) for share in bounds)
    least, most = max(least, FEWEST), min(most, examples - FEWEST)
    ranked = np.sort(fits.T, axis=1)[:, ::-1]
    last = between(ranked)[:, least - 1 : most].argmax(1) + least - 1
    return fits >= ranked[np.arange(len(ranked)), last]
