from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import bdbench
from bdbench import BdbenchError
from bdbench_datamodel import compat
from bdbench_datamodel.ensemble import SurrogateRecipe, draw_subsets, margins, train_margins
from bdbench_datamodel.estimators import difference_of_means, difference_over_all, response_covariance
from bdbench_datamodel.scoring import selection_frequency
from bdbench_datamodel.search import Cuts, Problem, search
from bdbench_datamodel.surrogates import BatchedMLP, BatchedNetwork, BatchedPatchNet

RNG = np.random.default_rng(0)

# --- the ensemble


def test_subsets_have_exactly_their_size_and_are_uniform() -> None:
    masks = draw_subsets(20, 4000, 0.3, np.random.default_rng(0))
    assert (masks.sum(1) == 6).all()
    # Each example's share has standard deviation sqrt(.3 * .7 / 4000) = .0072.
    assert np.abs(masks.mean(0) - 0.3).max() < 5 * 0.0072


def test_margins_by_hand() -> None:
    logits = torch.log(torch.tensor([[1.0, 2.0, 5.0]]))
    assert margins(logits, torch.tensor([2])).item() == pytest.approx(np.log(5 / 3))
    assert margins(logits, torch.tensor([0])).item() == pytest.approx(np.log(1 / 7))


def _one_by_one(
    network: BatchedNetwork, x: torch.Tensor, y: torch.Tensor, masks: np.ndarray, recipe: SurrogateRecipe, seed: int
) -> np.ndarray:
    """The plain loop: one ordinary model after another, with torch's own SGD and no batching of models."""
    out = []
    for mask in masks:
        generator = torch.Generator().manual_seed(seed)
        parameters = [p.requires_grad_() for p in network.initial(generator)]
        optimizer = torch.optim.SGD(
            parameters, lr=recipe.lr, momentum=recipe.momentum, nesterov=True, weight_decay=recipe.weight_decay
        )
        members = np.flatnonzero(mask)
        batches = -(-len(members) // recipe.batch_size)
        steps, step = recipe.epochs * batches, 0
        for _ in range(recipe.epochs):
            place = torch.randperm(len(y), generator=generator).numpy()
            for index in np.array_split(members[np.argsort(place[members])], batches):
                step += 1
                done = step / (steps + 1)
                for group in optimizer.param_groups:
                    group["lr"] = recipe.lr * min(done / recipe.warmup, (1 - done) / (1 - recipe.warmup))
                logits = network.logits([p.unsqueeze(0) for p in parameters], x[index].unsqueeze(0))[0]
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(logits, y[index]).backward()
                optimizer.step()
        with torch.no_grad():
            logits = network.logits([p.unsqueeze(0) for p in parameters], x.unsqueeze(0))[0]
            out.append(margins(logits, y).numpy())
    return np.stack(out)


def _setting(name: str) -> tuple[BatchedNetwork, torch.Tensor, torch.Tensor, np.ndarray]:
    rng = np.random.default_rng(1)
    shape = (8, 8, 1) if name == "mlp" else (17, 16, 3)
    network: BatchedNetwork = BatchedMLP(shape, 3, 8) if name == "mlp" else BatchedPatchNet(shape, 3, 4)
    images = rng.integers(0, 256, (40, *shape)).astype(np.uint8)
    labels = torch.from_numpy(rng.integers(0, 3, 40))
    return network, network.prepare(images), labels, draw_subsets(40, 6, 0.5, rng)


RECIPE = SurrogateRecipe(epochs=3, batch_size=7, lr=0.05)


@pytest.mark.parametrize("name", ["mlp", "patches"])
def test_the_batched_ensemble_equals_the_plain_loop(name: str) -> None:
    network, x, y, masks = _setting(name)
    together = train_margins(network, x, y, masks, RECIPE, seed=3)
    assert np.allclose(together, _one_by_one(network, x, y, masks, RECIPE, seed=3), atol=1e-3)
    assert together.std(0).min() > 0


@pytest.mark.parametrize("name", ["mlp", "patches"])
def test_a_models_margins_do_not_depend_on_the_chunk(name: str) -> None:
    network, x, y, masks = _setting(name)
    whole = train_margins(network, x, y, masks, RECIPE, seed=3)
    parts = [train_margins(network, x, y, masks[i : i + 2], RECIPE, seed=3) for i in (0, 2, 4)]
    assert np.allclose(whole, np.concatenate(parts), atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("name", ["mlp", "patches"])
def test_a_gpu_gives_the_cpus_margins(name: str) -> None:
    network, x, y, masks = _setting(name)
    here = train_margins(network, x, y, masks, RECIPE, seed=3)
    there = train_margins(network, x.to("cuda"), y.to("cuda"), masks, RECIPE, seed=3)
    assert np.allclose(here, there, atol=1e-2)
    assert np.corrcoef(here.ravel(), there.ravel())[0, 1] > 0.999


def test_bfloat16_is_near_float32() -> None:
    network, x, y, masks = _setting("patches")
    exact = train_margins(network, x, y, masks, RECIPE, seed=3)
    half = SurrogateRecipe(epochs=3, batch_size=7, lr=0.05, precision="bfloat16")
    rounded = train_margins(network, x, y, masks, half, seed=3)
    assert np.corrcoef(exact.ravel(), rounded.ravel())[0, 1] > 0.99


def test_every_pixel_lies_in_a_patch() -> None:
    for shape in ((32, 32, 3), (16, 17, 1), (28, 28, 1)):
        network = BatchedPatchNet(shape, 2, 4)
        images = np.random.default_rng(0).integers(0, 256, (3, *shape)).astype(np.uint8)
        changed = images.copy()
        for y, x in ((0, 0), (shape[0] - 1, shape[1] - 1), (0, shape[1] - 1)):
            changed[0, y, x] ^= 255
            assert not torch.equal(network.patches(images)[0], network.patches(changed)[0])
            changed[0, y, x] ^= 255
        assert network.patches(images).shape == (3, network.rows * network.columns, network.inputs)


def test_whitened_patches_are_uncorrelated() -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 16, 16, 1)).astype(np.uint8)
    images = np.sort(images, axis=1)  # neighbouring pixels alike
    x = BatchedPatchNet((16, 16, 1), 2, 4).prepare(images).flatten(0, 1)
    covariance = np.cov(x.T.numpy())
    off = covariance - np.diag(np.diag(covariance))
    assert np.abs(off).max() < 0.05
    assert np.diag(covariance).max() == pytest.approx(1, abs=0.1)


# --- the estimators


def _linear(models: int, n: int, own: float, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Subsets, and margins of a planted linear datamodel W with an extra effect of one's own inclusion."""
    rng = np.random.default_rng(2)
    planted = rng.normal(size=(n, n)) / 4
    np.fill_diagonal(planted, 0)
    masks = draw_subsets(n, models, 0.3, rng)
    outputs = masks @ planted.T + own * masks + noise * rng.normal(size=(models, n))
    return masks, outputs, planted


def test_difference_of_means_by_hand() -> None:
    masks = np.array([[1, 0, 1], [0, 1, 1], [1, 1, 0], [0, 0, 1]], bool)
    outputs = np.array([[1.0, 5.0, 0.0], [2.0, 6.0, 0.0], [4.0, 7.0, 0.0], [8.0, 9.0, 0.0]])
    everyone = difference_over_all(masks, outputs).dense()
    assert everyone[0, 1] == pytest.approx((2 + 4) / 2 - (1 + 8) / 2)
    outside = difference_of_means(masks, outputs)
    # Target 0 is outside models 1 and 3: of them, only model 1 holds example 1.
    assert outside[0, 1] == pytest.approx(2 - 8)
    # Both hold example 2: nothing to compare with.
    assert outside[0, 2] == 0
    assert np.all(np.diag(outside) == 0)


def test_an_example_that_all_models_hold_or_none_has_no_effect() -> None:
    masks = np.array([[1, 0, 1], [1, 0, 0], [1, 0, 0]], bool)
    outputs = np.arange(9.0).reshape(3, 3)
    for found in (difference_of_means(masks, outputs), difference_over_all(masks, outputs).dense()):
        assert (found[:, :2] == 0).all() and np.isfinite(found).all()


@pytest.mark.parametrize("own", [0.0, 5.0])
def test_difference_of_means_recovers_a_planted_matrix_at_the_expected_rate(own: float) -> None:
    n, noise = 30, 0.5
    off = ~np.eye(n, dtype=bool)
    for models in (1000, 16000):
        masks, outputs, planted = _linear(models, n, own, noise)
        # In a subset of fixed size j stands in for one of the n - 2 others.
        expected = planted - (planted.sum(1, keepdims=True) - planted) / (n - 2)
        error = (difference_of_means(masks, outputs) - expected)[off]
        # Over models without i, the variance of one margin is that of the noise and of the other columns;
        # .3 of them hold j.
        variance = noise**2 + 0.3 * 0.7 * n / 16
        theory = np.sqrt(variance / (models * 0.7 * 0.3 * 0.7))
        assert np.sqrt(np.mean(error**2)) == pytest.approx(theory, rel=0.15)


def test_blocks_of_rows_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    masks, outputs, _ = _linear(200, 30, 1.0, 0.5)
    whole = difference_of_means(masks, outputs)
    monkeypatch.setattr("bdbench_datamodel.estimators._ROWS", 7)
    assert np.allclose(difference_of_means(masks, outputs), whole, atol=1e-6)


def test_covariance_by_hand() -> None:
    masks = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], bool)
    # Margin 0 is 10 higher where 0 is held; what is left is +-1. Margin 1 likewise, with +-2.
    outputs = np.array([[11.0, 2.0], [9.0, -2.0], [1.0, 32.0], [-1.0, 28.0]])
    assert response_covariance(masks, outputs).dense().tolist() == [[0, 2], [2, 0]]


@pytest.mark.parametrize("own", [0.0, 5.0])
def test_covariance_approaches_the_product_of_the_planted_matrix(own: float) -> None:
    masks, outputs, planted = _linear(40000, 20, own, 0.1)
    centring = np.eye(20) - 1 / 20  # subsets of fixed size: the columns' common part is not seen
    expected = 0.3 * 0.7 * 20 / 19 * planted @ centring @ planted.T
    off = ~np.eye(20, dtype=bool)
    found = response_covariance(masks, outputs).dense()
    # Freeing a margin of its own inclusion takes a share of order 1/n of the others' effect with it.
    assert np.corrcoef(found[off], expected[off])[0, 1] > 0.98
    assert np.polyfit(expected[off], found[off], 1)[0] == pytest.approx(1, abs=0.1)


# --- the search


def _random_problem(n: int, seed: int, labels: np.ndarray | None = None) -> tuple[np.ndarray, Problem]:
    weights = np.random.default_rng(seed).normal(size=(n, n)).astype(np.float32)
    np.fill_diagonal(weights, 0)
    return weights, Problem.of(weights, labels)


def test_the_objective_is_the_papers_up_to_a_constant() -> None:
    weights, problem = _random_problem(12, 0)
    for size in (3, 5):
        members = np.sort(RNG.choice(12, size, replace=False))
        v = np.zeros(12)
        v[members] = 1
        h = v / v.sum() - (1 - v) / (1 - v).sum()
        assert v @ weights @ h == pytest.approx(12 / (size * (12 - size)) * problem.objective(members), rel=1e-5)


def test_the_objective_by_hand() -> None:
    weights = np.array([[0, 1, 2], [3, 0, 4], [5, 6, 0]], np.float32)
    # Members 0 and 1: entries inside 1 + 3; two thirds of row sums 3 and 7.
    assert Problem.of(weights).objective(np.array([0, 1])) == pytest.approx(4 - 2 / 3 * 10)


def test_entries_between_labels_are_left_out() -> None:
    weights, _ = _random_problem(6, 1)
    labels = np.array([0, 0, 0, 1, 1, 1])
    kept = weights.copy()
    kept[:3, 3:] = kept[3:, :3] = 0
    masked, by_hand = Problem.of(weights, labels), Problem.of(kept)
    assert np.array_equal(masked.symmetric, by_hand.symmetric)
    assert np.allclose(masked.row_sums, by_hand.row_sums)
    assert weights[0, 4] != 0  # the caller's matrix is not touched


@pytest.mark.parametrize("labelled", [False, True])
def test_a_matrix_is_overwritten_only_if_asked(monkeypatch: pytest.MonkeyPatch, labelled: bool) -> None:
    monkeypatch.setattr("bdbench_datamodel.search._TILE", 7)
    weights, _ = _random_problem(30, 2)
    labels = np.arange(30) % 3 if labelled else None
    kept = weights * (1 if labels is None else labels[:, None] == labels)
    problem = Problem.of(weights, labels)
    assert problem.symmetric == pytest.approx(kept + kept.T)
    assert not np.shares_memory(problem.symmetric, weights)
    spent = weights.copy()
    again = Problem.of(spent, labels, overwrite=True)
    assert again.symmetric is spent
    assert np.array_equal(again.symmetric, problem.symmetric) and np.array_equal(again.row_sums, problem.row_sums)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(4, 14), seed=st.integers(0, 10**6), data=st.data())
def test_the_search_equals_brute_force(n: int, seed: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, n - 1))
    _, problem = _random_problem(n, seed)
    best = max(problem.objective(np.array(c)) for c in combinations(range(n), size))
    found = search(problem, size, starts=60, rng=np.random.default_rng(0))
    assert found.objectives.max() == pytest.approx(best, rel=1e-5, abs=1e-5)
    assert problem.objective(found.best) == pytest.approx(found.objectives.max())


@settings(max_examples=30, deadline=None)
@given(n=st.integers(3, 40), seed=st.integers(0, 10**6), data=st.data())
def test_a_swap_gains_exactly_what_the_formula_says(n: int, seed: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, n - 1))
    _, problem = _random_problem(n, seed)
    order = np.random.default_rng(seed).permutation(n)
    inside, outside = order[:size], order[size:]
    now = problem.objective(inside)
    gains = [problem.objective(np.append(np.delete(inside, i), a)) - now for i in range(size) for a in outside]
    assert problem.best_gain(inside) == pytest.approx(max(gains), abs=1e-3)


@pytest.mark.parametrize("size", [1, 5, 60, 119])
def test_every_result_is_a_certified_local_optimum(size: int) -> None:
    _, problem = _random_problem(120, 4)
    found = search(problem, size, starts=8, rng=np.random.default_rng(0))
    assert found.members.shape == (8, size)
    for members in found.members:
        assert len(set(members)) == size
        assert problem.best_gain(members) <= 1e-4
    assert problem.best_gain(np.arange(size)) > 1e-4  # and an arbitrary subset is none


def test_a_planted_block_is_found_even_where_row_sums_vary() -> None:
    rng = np.random.default_rng(5)
    weights = rng.normal(size=(300, 300)).astype(np.float32)
    weights += 3 * rng.normal(size=(300, 1)).astype(np.float32)
    block = rng.choice(300, 30, replace=False)
    weights[np.ix_(block, block)] += 2
    found = search(Problem.of(weights), 30, starts=10, rng=np.random.default_rng(0))
    assert len(set(found.best) & set(block)) >= 29


def test_the_search_is_seeded() -> None:
    _, problem = _random_problem(80, 6)
    first, again = (search(problem, 10, 6, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first.members, again.members)


def test_a_matrix_of_zeros_ends_at_once() -> None:
    found = search(Problem.of(np.zeros((10, 10), np.float32)), 3, 2, np.random.default_rng(0))
    assert found.objectives.tolist() == [0, 0]


@pytest.mark.parametrize("size", [0, 10])
def test_an_impossible_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"size={size} is not allowed: expected 0 < size < 10"):
        search(Problem.of(np.zeros((10, 10), np.float32)), size, 1, np.random.default_rng(0))


# --- the released search


def _as_released(weights: np.ndarray, size: int, start: np.ndarray) -> np.ndarray:
    """The released procedure, step by step on dense arrays, from its description."""
    n = len(weights)
    a = weights.astype(float).copy()
    np.fill_diagonal(a, -weights.sum(1) * size / n)
    current, last = start.copy(), 0.0
    for _ in range(100):
        chosen, vetoed, total, highest, best = current.copy(), set(), 0.0, 0.0, current.copy()
        for _ in range(100):
            scores = a[:, chosen].sum(1) + a[chosen].sum(0) - np.diag(a)
            inside = [i for i in chosen if i not in vetoed]
            outside = [i for i in range(n) if i not in chosen and i not in vetoed]
            if not inside or not outside:
                break
            out, into = min(inside, key=lambda i: scores[i]), max(outside, key=lambda i: scores[i])
            total += scores[into] - scores[out]
            chosen = np.where(chosen == out, into, chosen)
            vetoed |= {out, into}
            if total > highest:
                highest, best = total, chosen.copy()
        current = best
        reached = 2 * (a[np.ix_(current, current)].sum() - np.diag(a)[:size].sum())
        if reached <= last:
            break
        last = reached
    return np.sort(current)


@pytest.mark.parametrize("size", [4, 12])
def test_compat_does_what_was_released(size: int) -> None:
    weights, problem = _random_problem(40, 8)
    weights += np.random.default_rng(1).normal(size=(40, 1)).astype(np.float32)  # row sums that vary
    np.fill_diagonal(weights, 0)
    problem = Problem.of(weights)
    found = compat.search(problem, size, 5, np.random.default_rng(0))
    rng = np.random.default_rng(0)
    for members in found.members:
        assert members.tolist() == _as_released(weights, size, rng.permutation(40)[:size]).tolist()
    exact = search(problem, size, 5, np.random.default_rng(0))
    assert exact.objectives.mean() > found.objectives.mean()


def test_compat_searches_the_released_sizes() -> None:
    assert compat.sizes(300) == [10, 20, 40, 80, 160]
    assert compat.sizes(50000)[-1] == 5120


# --- the score


def test_selection_frequency_by_hand() -> None:
    cuts = [
        Cuts(1, np.array([[0], [0], [2], [0]]), np.zeros(4)),
        Cuts(2, np.array([[0, 1], [1, 3]]), np.zeros(2)),
    ]
    expected = [3 / 4 / 1 + 1 / 2 / 2, 2 / 2 / 2, 1 / 4, 1 / 2 / 2]
    assert selection_frequency(cuts, 4) == pytest.approx(expected)


# --- all together


@pytest.mark.parametrize(
    "option",
    [
        "score_by=frequency",
        "score_by=frequency,classes=each",
        "score_by=frequency,classes=ignore",
        "score_by=frequency,classes=ignore,compat=khaddaj2023",
        "estimator=all",
        "estimator=covariance",
        "estimator=ridge",
        "estimator=trak,dimension=16",
        "estimator=lasso,penalty=0.5",
        "net=mlp",
        "shared_start=false",
        "alpha=0.5,antithetic=true",
    ],
)
def test_every_option_runs(tiny: dict[str, Any], option: str) -> None:
    from tests.conftest import TINY_DATAMODEL

    record = bdbench.run(defense=f"{TINY_DATAMODEL},{option}", **tiny)
    scores = np.load(tiny["out"] / record.id / "scores.npz")["scores"]
    assert scores.max() > 0
    assert record.cost.models_trained == 13


def test_a_time_budget_sets_the_number_of_networks(tiny: dict[str, Any]) -> None:
    small = "chunk=10,epochs=1,hidden=4,starts=2"
    fewest, more = (
        bdbench.run(defense=f"datamodel:seconds={seconds},{small}", **tiny).cost.models_trained - 1
        for seconds in (0.001, 1)
    )
    assert fewest == 50
    assert more > 50
    with pytest.raises(BdbenchError, match="models=5 is not allowed with seconds=1: expected auto"):
        bdbench.run(defense="datamodel:models=5,seconds=1", **tiny)


def test_it_finds_a_backdoor_and_the_retrained_model_is_free_of_it(tmp_path: Any) -> None:
    record = bdbench.run(out=tmp_path, seed=100, device="cpu")
    assert record.detection is not None and record.detection.auroc is not None
    assert record.before.attack_success_rate is not None and record.before.attack_success_rate > 0.8
    assert record.before.clean_accuracy > 0.95
    assert record.detection.auroc > 0.95
    assert record.after.attack_success_rate is not None and record.after.attack_success_rate < 0.1


def test_large_images_meet_the_patch_networks(tmp_path: Any) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (80, 16, 16, 3)).astype(np.uint8)
    np.savez(
        tmp_path / "d.npz", x_train=images, y_train=np.arange(80) % 4, x_test=images[:20], y_test=np.arange(20) % 4
    )
    record = bdbench.run(
        attack="badnets:rate=0.1", defense="datamodel:models=6,chunk=4,epochs=1,starts=2", dataset="npz:path=d.npz",
        model="convnet:width=4,epochs=1", data_root=tmp_path, out=tmp_path / "runs", device="cpu",
    )  # fmt: skip
    assert record.cost.models_trained == 7
