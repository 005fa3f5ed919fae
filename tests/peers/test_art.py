"""Spectral scores against the Adversarial Robustness Toolbox, on the same features."""

from __future__ import annotations

import numpy as np
import pytest

from bdbench_baselines.spectral import spectral_scores

pytestmark = pytest.mark.peers


@pytest.mark.parametrize("seed", range(5))
def test_on_centred_features_the_toolbox_gives_the_absolute_projection(seed: int) -> None:
    art = pytest.importorskip("art.defences.detector.poison")
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(200, 20)) * rng.uniform(0.5, 2, 20)
    features[:15] += 3
    centred = features - features.mean(0)
    theirs = np.asarray(art.SpectralSignatureDefense.spectral_signature_scores(centred)).ravel()
    ours = spectral_scores(features)
    assert np.allclose(theirs**2, ours, rtol=1e-5)
    assert np.array_equal(np.argsort(-theirs), np.argsort(-ours))
