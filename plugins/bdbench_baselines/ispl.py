"""Incompatibility clustering: models trained on a part of the set that is not poisoned do not learn the poisons."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from bdbench import Detector, State, Tools, TrainingView, param

# Together the subsets of one pass are this share of the set, and a pass ends when less than that is left.
_COVERED, _LEFT = 0.96, 0.04
# Self-paced rounds to a piece of the work.
_PIECE = 5


@dataclass(frozen=True, kw_only=True)
class IncompatibilityClustering(Detector):
    """Splits the set into subsets that generalise to themselves, and lets a model of each vote on every label.

    Inverse self-paced learning (ISPL) finds one subset of .96 / ``subsets`` of the examples, takes it out, and looks
    for the next in the rest; ``passes`` times over. Poisons, which a model of other examples does not predict, end up
    in few of the subsets, and their models are outvoted (boosting): examples whose label is the vote of most, and of
    more than one, are taken for clean. Of these a last model is trained in ``rounds`` (self-paced learning), each on
    what the rounds before, averaged, predicted right. What they do not in the end is flagged. With ``rounds=0`` what is
    not elected is. The method has a decision and no score; here it is the share of votes for other labels, and among
    those with as many, 1 - the probability of the label, averaged over the rounds: from the few poisons that were
    elected the rounds may learn a whole backdoor again, of which they then are surest.

    Details are those of the authors' code (``learners``), whose weak learners are trained for a fifth of the epochs of
    their victims, 40. Here it is all of the recipe's, which has fewer and smaller sets; the shares of the other
    trainings stay. Each training has the recipe's schedule and starts a new optimizer. In all it takes about as many
    steps as seven victims.
    """

    name = "ispl"
    paper = "Jin, Sun and Rinard, Incompatibility Clustering as a Defense Against Backdoor Poisoning Attacks, ICLR 2023"
    assumption = (
        "Poisons and clean examples are incompatible: training on the ones does not make a model better at the others; "
        "and the poisons are the fewer."
    )
    subsets: int = param(8, help="subsets of one pass", low=1)
    passes: int = param(3, help="how often the set is split into subsets", low=1)
    expansion: int = param(4, help="a subset is found from one in so many of its examples", low=1)
    rounds: int = param(20, help="self-paced rounds of the last model (0: the votes decide)", low=0)

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        """The share of votes for other labels, float64 (n,), the rounds breaking ties; concludes with what these, or
        without them the votes, took for wrong.
        """
        from bdbench_baselines.learners import vote

        predicted = self._predicted(view, tools)
        elected = vote(predicted, view.labels, tools.shared_streams("votes"))
        others = np.asarray((predicted != view.labels).mean(0))
        if not self.rounds:
            tools.conclude(flagged=~elected)
            return others
        said = self._paced(view, elected, tools)
        tools.conclude(flagged=said["right"] <= 0.5)
        # Less than a vote weighs.
        return others + (1 - said["sure"]) / (len(predicted) + 1)

    def _predicted(self, view: TrainingView, tools: Tools) -> np.ndarray:
        """What each weak learner predicts for each example, int64 (m, n)."""
        from bdbench_baselines.learners import expand

        size, predicted = len(view.labels), []
        advance = tools.track(self.passes * self.subsets, "weak learners")
        for again in range(self.passes):
            active = np.ones(size, bool)
            for subset in range(self.subsets):
                if active.sum() > max(1, _LEFT * size):
                    share = min(1.0, _COVERED / self.subsets * size / active.sum())
                    name = f"pass {again} subset {subset}"
                    make = functools.partial(expand, view, active, share, self.expansion, name, tools)
                    found = tools.saved({**self._known, "learner": name}, make)
                    predicted.append(found["predicted"])
                    active = active & ~found["core"]
                advance(1)
        return np.stack(predicted)

    def _paced(self, view: TrainingView, kept: np.ndarray, tools: Tools) -> State:
        from bdbench_baselines.learners import pace

        half = np.full(len(kept), 0.5)
        said: State = {"kept": kept, "right": half, "sure": half}
        for start in range(0, self.rounds, _PIECE):
            rounds = range(start, min(start + _PIECE, self.rounds))
            make = functools.partial(pace, view, said, rounds, tools)
            said = tools.saved({**self._known, "rounds": rounds.stop, "passes": self.passes}, make)
        return said

    @property
    def _known(self) -> dict[str, Any]:
        return {"ispl": {"subsets": self.subsets, "expansion": self.expansion}}
