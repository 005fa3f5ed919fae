from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from bdbench_datamodel import spectrum
from bdbench_datamodel.spectrum import Spectrum


@pytest.mark.parametrize("shape", [(12, 5), (9, 30)])
def test_leaving_one_out_equals_fitting_without_it(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    predictors, targets = rng.normal(size=shape), rng.normal(size=shape[0])
    of = Spectrum.of(predictors.T)
    assert len(of.eigenvalues) == min(shape[0] - 1, shape[1])  # centring took a dimension
    errors = []
    for share in (0.01, 0.3, 3.0):
        monkeypatch.setattr(spectrum, "_PENALTIES", np.array([share]))
        fits, error = of.left_one_out(targets)
        errors.append(error)
        penalty = share * of.eigenvalues.sum() / shape[0]
        for i in range(shape[0]):
            others = np.arange(shape[0]) != i
            # Scaled rows and a free mean: the centre is that of all examples in the closed form, of the others here,
            # which a fitted intercept makes the same.
            alone = Ridge(alpha=penalty).fit(predictors[others], targets[others])
            assert fits[i] == pytest.approx(alone.predict(predictors[i : i + 1])[0], rel=0.02, abs=0.02)
        assert error == pytest.approx(((fits - targets) ** 2).mean())
    monkeypatch.setattr(spectrum, "_PENALTIES", np.array([0.01, 0.3, 3.0]))
    assert of.left_one_out(targets)[1] == pytest.approx(min(errors))


def test_many_targets_are_fitted_as_each_alone() -> None:
    rng = np.random.default_rng(0)
    of, targets = Spectrum.of(rng.normal(size=(5, 12))), rng.normal(size=(12, 3))
    together = of.without_own(targets, of.penalty(0.5))
    for column in range(3):
        assert together[:, column] == pytest.approx(of.without_own(targets[:, column], of.penalty(0.5)))


def test_examples_that_are_all_alike_have_no_direction() -> None:
    of = Spectrum.of(np.repeat(np.arange(5.0)[:, None], 6, axis=1))
    assert of.basis.shape == (6, 0)
    fits, _ = of.left_one_out(np.array([1.0, 0, 0, 0, 0, 0]))
    assert fits == pytest.approx([0, 0.2, 0.2, 0.2, 0.2, 0.2])  # the mean of the other five
