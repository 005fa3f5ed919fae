"""The components; what needs the other libraries is imported when they run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from bdbench.components.defenses import Detector
from bdbench.components.params import param
from bdbench.components.workshop import Tools
from bdbench.images.data import TrainingView


@dataclass(frozen=True, kw_only=True)
class ArtDetector(Detector):
    """A poison detector of the Adversarial Robustness Toolbox, as that library has it: pip install 'bdbench[art]'.

    ``spectral`` ranks by its outlier scores, ``activation`` says only which examples it suspects: 1, the others 0.
    """

    name = "art"
    paper = "Nicolae et al., Adversarial Robustness Toolbox, arXiv:1807.01069"
    assumption = "That of activation-clustering, or of spectral."
    detector: Literal["activation", "spectral"] = param(
        "activation", help="its ActivationDefence or its SpectralSignatureDefense"
    )

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        """Its scores or suspicions, float64 (n,)."""
        from bdbench.interop import art

        scorers = {"activation": art.activation_scores, "spectral": art.spectral_scores}
        return scorers[self.detector](tools.victim, view, tools.streams.integer("art"))
