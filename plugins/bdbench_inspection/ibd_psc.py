"""IBD-PSC: the model stays sure of a triggered image when the parameters of its last layers are scaled up."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bdbench import BdbenchError, InputDetector, State, Tools, param

if TYPE_CHECKING:
    from torch import nn

    from bdbench import Victim


@dataclass(frozen=True, kw_only=True)
class IbdPsc(InputDetector):
    """The mean probability that models with scaled batch normalisation give to the label of an image.

    Parameter-oriented scaling consistency (sec. 4 of the paper): scale and shift of the last k BatchNorm layers, in
    the order in which the network has them, are multiplied by ``scale``. k starts where the scaled model errs on more
    than ``error`` of the clean examples, and grows by one from each of the ``models`` to the next. Where there are
    not as many layers from there on, there are fewer models; where no k makes that error, which the paper leaves
    open, the models end with all layers. backdoor-toolbox starts one layer later. The paper's own threshold is .9.
    """

    name = "ibd-psc"
    paper = "Hou et al., IBD-PSC: Input-level Backdoor Detection via Parameter-oriented Scaling Consistency, ICML 2024"
    assumption = (
        "Scaling up batch normalisation in the last layers takes clean images to other labels, but no triggered ones."
    )
    oracles = ("clean_set",)
    scale: float = param(1.5, help="what scales and shifts of a layer are multiplied by", low=1)
    models: int = param(5, help="scaled models whose probabilities are averaged, if there are as many layers", low=1)
    error: float = param(0.6, help="error on clean examples at which the first of them is", low=0, high=1)
    clean: int | None = param(None, help="clean examples to use (none: all that are set apart)", low=1)

    def fit(self, tools: Tools) -> State:
        """The numbers of layers that are scaled, int64. Raises BdbenchError for a model without BatchNorm layers."""
        layers = len(_normalisations(tools.victim.network))
        if not layers:
            raise BdbenchError(
                f"defense {self.name!r} scales BatchNorm layers, of which model {tools.architecture.name!r} has none: "
                "expected a model that has some"
            )
        clean = tools.clean_examples(self.clean)
        for first in range(1, layers + 1):
            predicted = scaled(tools.victim, first, self.scale).predict(np.asarray(clean.images))
            if np.mean(predicted != clean.labels) > self.error:
                break
        else:
            first = max(1, layers + 1 - self.models)
        return {"layers": np.arange(first, min(first + self.models, layers + 1))}

    def score(self, images: np.ndarray, state: State, tools: Tools) -> np.ndarray:
        """PSC, float64 (m,)."""
        from scipy.special import softmax

        labels, each = tools.victim.predict(images), np.arange(len(images))
        advance = tools.track(len(state["layers"]), "scale")
        found = []
        for count in state["layers"]:
            logits = scaled(tools.victim, int(count), self.scale).logits(images)
            found.append(softmax(logits.astype(np.float64), axis=1)[each, labels])
            advance(1)
        return np.mean(found, axis=0)


def scaled(victim: Victim, count: int, scale: float) -> Victim:
    """A copy of a model in which scale and shift of the last ``count`` BatchNorm layers are multiplied."""
    network = copy.deepcopy(victim.network)
    for layer in _normalisations(network)[-count:]:
        layer.weight.data *= scale
        layer.bias.data *= scale
    return victim.replace(network)


def _normalisations(network: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    from torch.nn.modules.batchnorm import _BatchNorm

    return [layer for layer in network.modules() if isinstance(layer, _BatchNorm) and layer.affine]
