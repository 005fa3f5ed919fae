"""MM-BD: for the attacker's label a model can be made surer than for any other."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from bdbench import ModelDetector, Tools, Verdict, param

# Fewer other labels have no law that could be fitted.
_FEWEST = 3
# Fewer starts, and then fewer steps, leave margins that say more of where they started than of the model.
_FEWEST_IMAGES, _FEWEST_STEPS = 5, 100


@dataclass(frozen=True, kw_only=True)
class MmBd(ModelDetector):
    """Seeks for each label the largest margin of its logit over all others; one far above those of the rest is suspect.

    Sec. IV of the paper, without any data: gradient ascent from noise within 0..1 gives each label's maximum margin
    r, and a gamma law is fitted to all but the largest. The p-value is 1 - F(largest)^K for K labels; below
    ``significance``, the largest is flagged. The score is -log10 p. Learning rate, steps, images and the free location
    of the law are the authors' code's; its momentum, of an optimizer that is new in each step, has no effect there.

    The law is that of a sample whose largest is missing, so that p is too small: of models with ten labels whose
    margins are drawn from one gamma law, it is below .05 in 15 to 30 % (tests/plugins/test_mm_bd.py). With fewer than
    three other labels, or margins that are all the same, nothing is flagged and the score is 0.
    """

    name = "mm-bd"
    paper = (
        "Wang, Xiang, Miller and Kesidis, MM-BD: Post-Training Detection of Backdoor Attacks with Arbitrary Backdoor "
        "Pattern Types Using a Maximum Margin Statistic, S&P 2024"
    )
    assumption = (
        "The backdoor makes the model far surer of the target label than it can be of any other, whatever the trigger "
        "looks like."
    )
    images: int = param(30, help="images of noise from which each label's margin is sought", low=1)
    steps: int = param(300, help="most steps of gradient ascent for each label", low=1)
    lr: float = param(0.01, help="their size / the gradient", low=0, exclusive=True)
    significance: float = param(0.05, help="the p-value below which a label is flagged", low=0, high=1)

    def inspect(self, tools: Tools) -> Verdict:
        """The verdict on the victim; each label's image of the largest margin is kept as a piece."""
        from bdbench_inspection.margin import largest_margin

        settings: dict[str, Any] = {"images": self.images, "steps": self.steps, "lr": self.lr}
        labels = range(tools.num_classes)
        model = tools.victim.module().eval().requires_grad_(False)
        seeds = [tools.shared_streams.integer(f"mm-bd:{label}") for label in labels]
        make = functools.partial(largest_margin, model, tools.shape, seeds, tools.device, **settings)
        advance = tools.track(tools.num_classes, "seek margins")
        margins = []
        for found in tools.saved_each([{"mm-bd": "margin", "label": label, **settings} for label in labels], make):
            margins.append(float(found["margin"]))
            advance(1)
        largest = int(np.argmax(margins))
        log_p = log_p_value(np.array(margins))
        if log_p is None:
            return Verdict(0.0, False)
        flagged = bool(log_p < np.log(self.significance)) if self.significance else False
        return Verdict(-log_p / np.log(10), flagged, (largest,) if flagged else (), p_value=float(np.exp(log_p)))

    def pace(self, tools: Tools) -> tuple[Callable[[int], object], float]:
        """Steps for one label."""
        from bdbench_inspection.margin import largest_margin

        model = tools.victim.module().eval().requires_grad_(False)
        work = functools.partial(
            largest_margin, model, tools.shape, [0], tools.device, 0, images=self.images, lr=self.lr
        )
        return lambda steps: work(steps=steps), self.steps * tools.num_classes

    def within(self, share: float, tools: Tools) -> Self | None:
        """With fewer images, and then fewer steps."""
        images = min(self.images, max(_FEWEST_IMAGES, int(share * self.images)))
        steps = min(self.steps, int(share * self.steps * self.images / images))
        return replace(self, images=images, steps=steps) if steps >= _FEWEST_STEPS else None


def log_p_value(margins: np.ndarray) -> float | None:
    """log(1 - F(largest)^K) of margins (K,), F the gamma law of the others; None where they have none."""
    from scipy.stats import FitError, gamma

    *others, largest = np.sort(margins)
    if len(others) < _FEWEST or np.ptp(others) <= 1e-9 * np.abs(others).max():
        return None
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", RuntimeWarning)
            beyond = float(gamma.logsf(largest, *gamma.fit(others)))
    except FitError:
        return None
    # 1 - (1 - s)^K, which is K s where s is too small for it.
    count = len(margins)
    log_p = np.log(-np.expm1(count * np.log1p(-np.exp(beyond)))) if -30 < beyond < 0 else np.log(count) + beyond
    return float(np.clip(log_p, -1e6, 0)) if np.isfinite(log_p) or log_p == -np.inf else None
