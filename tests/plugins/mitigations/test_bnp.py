from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn

from bdbench import BdbenchError
from bdbench_mitigations import bnp
from bdbench_mitigations.bnp import BatchNormalizationPruning, divergence
from bdbench_mitigations.distributions import given
from tests.plugins.mitigations.repairs import BAD, CHANNELS, clean_images, gone, handed, planted, rates, victim_of


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


def test_the_divergence_is_of_the_clean_law_from_that_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(bnp, "divergence", lambda *laws: (told.extend(laws), np.zeros(CHANNELS))[1])
    victim = planted()
    norm: Any = victim.network.norm
    defense = BatchNormalizationPruning()
    tools = handed(defense, victim, tmp_path)
    defense.repair(tools)
    values = given(victim, np.asarray(tools.clean_examples(None).images), lambda x: x.flatten(1))["norm"]
    assert told[0] == pytest.approx(values.mean(0)) and told[1] == pytest.approx(values.var(0))
    assert told[2] == pytest.approx(norm.running_mean.numpy()) and told[3] == pytest.approx(norm.running_var.numpy())
    assert bnp._moments(torch.tensor([[[[1.0, 3.0]]]])).tolist() == [[[2.0, 5.0]]]


def test_how_far_out_is_asked_for(tmp_path: Path) -> None:
    # Of 12 channels none is more than 11 / sqrt(12) = 3.18 deviations out.
    far = BatchNormalizationPruning(u=3.5)
    assert gone(far.repair(handed(far, planted(), tmp_path))) == []
