from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import integrate, stats
from torch import nn

from bdbench import BdbenchError
from bdbench_mitigations.bnp import BatchNormalizationPruning, divergence
from bdbench_mitigations.distributions import given
from tests.plugins.mitigations.repairs import BAD, clean_images, gone, handed, planted, rates, victim_of


def test_the_divergence_is_the_integral() -> None:
    m1, v1, m2, v2 = (np.array([x]) for x in (0.3, 0.5, -0.4, 2.0))
    p, q = stats.norm(0.3, 0.5**0.5), stats.norm(-0.4, 2.0**0.5)
    wanted = integrate.quad(lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), -8, 8)[0]
    assert divergence(m1, v1, m2, v2, 1e-5)[0] == pytest.approx(wanted, abs=1e-6)
    nothing = np.zeros(3)
    assert divergence(nothing, nothing, nothing, nothing, 1e-5) == pytest.approx(nothing)


def test_what_normalisations_are_given_is_what_the_convolution_makes() -> None:
    victim, images = planted(), np.asarray(clean_images(1500).images)
    values = given(victim, images, lambda x: x.flatten(1))["norm"]
    kernel = victim.network.convolution.weight.detach().numpy()  # type: ignore[union-attr, operator]
    assert values == pytest.approx(np.tensordot(images[..., 0] / 255, kernel[:, 0], ([1, 2], [1, 2])), abs=1e-5)


def test_the_channel_that_poisons_moved_is_pruned(tmp_path: Path) -> None:
    bnp = BatchNormalizationPruning()
    tools = handed(bnp, planted(), tmp_path)
    repaired = bnp.repair(tools)
    assert gone(repaired) == [BAD] and repaired.network.norm.bias[BAD] == -2  # type: ignore[union-attr, index]
    assert rates(repaired)[0] == 1 and rates(repaired)[1] < 0.1


def test_a_model_without_batch_normalisation_is_refused(tmp_path: Path) -> None:
    bnp = BatchNormalizationPruning()
    victim = victim_of(nn.Sequential(nn.Conv2d(1, 2, 4), nn.Flatten()))
    with pytest.raises(BdbenchError, match="no batch normalisation"):
        bnp.repair(handed(bnp, victim, tmp_path))
