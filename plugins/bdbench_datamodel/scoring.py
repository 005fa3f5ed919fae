"""From the subsets that the search found to one score per example."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from bdbench_datamodel.search import Cuts


def selection_frequency(cuts: Iterable[Cuts], examples: int) -> np.ndarray:
    """sum over sizes k of (share of starts that selected the example) / k, float64 (n,).

    The paper's score (Khaddaj et al. 2023, sec. 5), with the share in place of the number of times, so that
    it does not grow with the number of starts.
    """
    total = np.zeros(examples)
    for cut in cuts:
        total += cut.frequency(examples) / cut.size
    return total
