"""A metric: precision among the R most suspicious, where R is the number of poisons."""

import numpy as np

from bdbench import Metric, Role, hookimpl


def r_precision(measured):
    """The share of poisons among the R highest scores; None without scores or without poisons."""
    poisons = measured.roles == Role.POISON
    count = int(poisons.sum())
    if measured.scores is None or not count:
        return None
    highest = np.argsort(-measured.scores, kind="stable")[:count]
    return float(poisons[highest].mean())


@hookimpl
def bdbench_register_metrics():
    text = "share of poisons among as many of the highest scores as there are poisons, 0..1"
    return [Metric("r_precision", r_precision, help=text)]
