"""Laws between two runs: what may change when a set is reordered, renamed, doubled, or computed in other portions.

One small victim is shared. Its last layer starts at zero, so that chance gives no class other weights than another:
only then is a training on renamed classes the same training. That examples may be permuted for the detectors that draw
nothing is checked for every one of them by ``bdbench.testing``; here are those that do draw.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from torch import nn

import bdbench
from bdbench import Architecture, Dataset, ImageData, Recipe, Record, Role, Source, Split, param
from bdbench.cells.cell import Cell
from bdbench.cells.metrics import detection
from bdbench.experiment import cell
from bdbench.registry.plugins import installed

TARGET = 2
ENSEMBLE = "datamodel:models=60,epochs=6,hidden=16,starts=8,score_by=posterior"


@dataclass(frozen=True, kw_only=True)
class Even(Architecture):
    """The small convolutional network, with a last layer of zeros."""

    name = "even"

    def build(self, shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        network = installed().component("model", "convnet:width=8").build(shape, num_classes)
        nn.init.zeros_(network.linear.weight)
        nn.init.zeros_(network.linear.bias)
        return network

    def default_recipe(self, dataset: str, shape: tuple[int, int, int]) -> Recipe:
        return Recipe(epochs=10, batch_size=32, lr=0.05)


def renamed(labels: np.ndarray) -> np.ndarray:
    """Another name for each of ten classes; none keeps its own."""
    return (3 * labels + 1) % 10


@dataclass(frozen=True, kw_only=True)
class Digits400(Dataset):
    """400 digits; or the same by other names, or with the test images in reverse order."""

    name = "digits-400"
    names: bool = param(False, help="")
    reverse: bool = param(False, help="")

    def read(self, source: Source) -> ImageData:
        data = installed().component("dataset", "digits").read(source)
        train, test = data.train, data.test
        step = -1 if self.reverse else 1
        labels = [train.labels[:400], test.labels[::step]]
        if self.names:
            labels = [renamed(own) for own in labels]
        return ImageData(Split(train.images[:400], labels[0]), Split(test.images[::step], labels[1]), data.classes)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """What a run was told of threads holds for no other test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def setting(out: Path, dataset: Dataset, target: int, **options: Any) -> dict[str, Any]:
    attack = f"badnets:rate=0.08,target={target}"
    # A reserve and a subset are drawn class by class, in the order of the labels: by other names they are other ones.
    given = {"device": "cpu", "threads": 1, "reserve": 0, **options}
    return {"attack": attack, "dataset": dataset, "model": Even(), "out": out, **given}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def attacked(out: Path) -> Cell:
    """The poisoned set, and the victim that it made."""
    made = cell(**setting(out, Digits400(), TARGET))
    assert made.models.before.attack_success_rate == 1.0 and made.models.before.clean_accuracy > 0.5
    return made


def scores(attacked: Cell, spec: str, rows: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    """Of the examples in these rows of the poisoned set, by a detector with the victim of the whole; None: all."""
    data = attacked.scene.poisoned
    index = np.arange(len(data.labels)) if rows is None else rows
    given = {"model": Even(), "victim": attacked.models.victim, "device": "cpu", "seed": seed}
    if "clean_set" in installed().component("defense", spec).told:
        test = attacked.scene.images.test
        given["oracles"] = {"clean_set": Split(np.asarray(test.images)[:80], test.labels[:80])}
    return bdbench.detect(spec, data.images[index], data.labels[index], num_classes=10, **given)


def auroc(attacked: Cell, found: np.ndarray) -> float:
    return float(roc_auc_score(attacked.scene.poisoned.roles == Role.POISON, found))


def alike(one: np.ndarray, other: np.ndarray, labels: np.ndarray) -> int:
    """For how many labels all scores are the same."""
    return sum(np.allclose(one[labels == label], other[labels == label]) for label in np.unique(labels))


@pytest.fixture(scope="module")
def order(attacked: Cell) -> np.ndarray:
    return np.random.default_rng(0).permutation(len(attacked.scene.poisoned.labels))


def moved(attacked: Cell, spec: str, order: np.ndarray) -> np.ndarray:
    """The scores in the set's own order, of a detector that saw it in another."""
    found = np.empty(len(order))
    found[order] = scores(attacked, spec, order)
    return found


@pytest.mark.parametrize("rule", ["relative-size", "silhouette"])
def test_activation_clustering_divides_most_labels_alike_in_any_order(
    attacked: Cell, order: np.ndarray, rule: str
) -> None:
    """Not all: 2-means starts at random examples, and the best of its ten starts may be another one. Independent
    components, which are no default for that reason, are others in every order.
    """
    spec, labels = f"activation-clustering:rule={rule}", attacked.scene.poisoned.labels
    one, other = scores(attacked, spec), moved(attacked, spec, order)
    assert alike(one, other, labels) >= 8
    assert auroc(attacked, one) == pytest.approx(auroc(attacked, other), abs=0.03)


@pytest.mark.parametrize(
    ("spec", "least"), [("beatrix", 0.999), ("strip-filter", 0.9), ("scan", 0.9), ("spectre", 0.999)]
)
def test_detectors_that_draw_rank_alike_in_any_order(
    attacked: Cell, order: np.ndarray, spec: str, least: float
) -> None:
    """What they draw are overlays, parts of a label and starts: by place, so that an example has others of them."""
    one, other = scores(attacked, spec), moved(attacked, spec, order)
    assert spearmanr(one, other).statistic > least


def test_the_datamodel_detector_finds_the_poisons_in_any_order(attacked: Cell, order: np.ndarray) -> None:
    """Its scores are others: subsets are drawn by place, so that another order has other networks, as another seed."""
    one, other = scores(attacked, ENSEMBLE), moved(attacked, ENSEMBLE, order)
    assert not np.allclose(one, other)
    assert min(auroc(attacked, one), auroc(attacked, other)) > 0.95


def planted(labels: np.ndarray, group: np.ndarray) -> np.ndarray:
    """A matrix of influences, float32 (n, n): noise, more of it within a label, and members of a group that all help
    each other.
    """
    rng, n = np.random.default_rng(1), len(labels)
    matrix = rng.normal(size=(n, n)) + 0.5 * (labels[:, None] == labels)
    matrix[np.ix_(group, group)] += 3
    return matrix.astype(np.float32)


@pytest.mark.parametrize("options", ["", ",score_by=frequency"])
def test_a_permuted_matrix_has_permuted_scores(attacked: Cell, order: np.ndarray, tmp_path: Path, options: str) -> None:
    """The search starts at random, but the best that it finds is the same; how often it is found is a frequency."""
    data = attacked.scene.poisoned
    matrix = planted(data.labels, data.roles == Role.POISON)
    np.save(tmp_path / "one.npy", matrix)
    np.save(tmp_path / "other.npy", matrix[np.ix_(order, order)])
    one = scores(attacked, f"datamodel:matrix={tmp_path}/one.npy,starts=200{options}")
    other = moved(attacked, f"datamodel:matrix={tmp_path}/other.npy,starts=200{options}", order)
    if options:
        assert np.corrcoef(one, other)[0, 1] > 0.95
    else:
        assert one == pytest.approx(other, abs=1e-4)
        assert min(auroc(attacked, one), auroc(attacked, other)) > 0.9


# Their scores are the same but for rounding.
SAME = ["spectral", "knn", "low-loss"]
# 2-means ends elsewhere for a rounding, or draws by label. (The datamodel detector's networks draw their last layers
# label by label: its scores are as of another seed.)
DRAWN = ["activation-clustering", "scan"]
# What a training may make of a rounding: some of 360 test images go the other way.
SOME = 5 / 360


def run(options: dict[str, Any], defenses: list[str]) -> dict[str, Record]:
    return dict(zip(defenses, bdbench.run_all(defenses=defenses, **options), strict=True))


def rates(found: Record) -> dict[str, Any]:
    """Of all models of a record, by the model and the rate."""
    made = {"before": found.before, "reference": found.reference, "after": found.after}
    if found.decision is not None:
        made["decision"] = found.decision.after
    names = ("clean_accuracy", "attack_success_rate", "robust_accuracy")
    return {f"{model}.{name}": getattr(own, name) for model, own in made.items() if own for name in names}


def test_classes_by_other_names_have_the_same_numbers(attacked: Cell, out: Path) -> None:
    """The poisons, the victim, what detectors and a repair make of it: renamed with the target, nothing is another
    number, but for sums over classes, which are made in another order.
    """
    ways = [(Digits400(), TARGET), (Digits400(names=True), int(renamed(np.array(TARGET))))]
    acted = [run(setting(out, *way), ["low-loss", "clp"]) for way in ways]
    for one, other in zip(*(found.values() for found in acted), strict=True):
        assert rates(one) == pytest.approx(rates(other), abs=SOME)
        assert one.before == other.before and one.before.attack_success_rate == 1.0
    one, other = (run(setting(out, *way, budget=0), [*SAME, *DRAWN]) for way in ways)
    for spec in [*SAME, *DRAWN]:
        pair = one[spec].detection, other[spec].detection
        assert pair[0] is not None and pair[1] is not None
        assert pair[0].auroc == pytest.approx(pair[1].auroc, abs=0.05 if spec in DRAWN else 1e-3), spec
    for spec in SAME:
        found = [np.load(out / own[spec].id / "scores.npz")["scores"] for own in (one, other)]
        assert np.allclose(*found, rtol=1e-4, atol=1e-5 * np.ptp(found[0])), spec


def test_the_order_of_test_images_changes_nothing(attacked: Cell, out: Path) -> None:
    """That of training images is no law of a run: which are poisoned, and the steps of training, are drawn by place."""
    one, other = (run(setting(out, Digits400(reverse=way), TARGET), ["low-loss"])["low-loss"] for way in (False, True))
    assert one.config["data"]["challenge"] != other.config["data"]["challenge"]
    assert rates(one) == rates(other) and one.detection == other.detection


@pytest.mark.parametrize(
    ("rule", "share", "most"), [("withheld,withheld=1", 1, 0.02), ("posterior", 0.02, 0.02), ("frequency", 0.02, 0.02)]
)
def test_networks_may_be_trained_in_any_portions(attacked: Cell, rule: str, share: float, most: float) -> None:
    """The sums of a step are made otherwise: margins differ in their last digits, by 2e-6. So do scores, but for an
    example that lies just where a group ends, or a start of the search that ends in another group. Where groups are
    withheld, one example more or less in one is one more or less in some subsets: all scores move, none by much, if
    there are networks enough (of 15, five do not hold an example that one subset exchanges, and their mean moves).
    """
    spec = ENSEMBLE.replace("posterior", rule)
    found, whole = (scores(attacked, f"{spec},chunk={chunk}") for chunk in (7, 60))
    apart = np.abs(found - whole) / np.ptp(whole)
    assert (apart > 1e-4).mean() <= share and apart.max() < most


def test_two_threads_compute_what_one_does(attacked: Cell, tmp_path: Path) -> None:
    """But for the order of sums, of which training makes more with every step: some test images of 360 go the other
    way, and of pairs of examples some thousandths.
    """
    given = [setting(tmp_path / str(n), Digits400(), TARGET, threads=n, budget=0) for n in (1, 2)]
    runs = [run(options, ["low-loss"]) for options in given]
    one, two = (own["low-loss"] for own in runs)
    assert (one.environment["threads"], two.environment["threads"]) == (1, 2)
    assert rates(one) == pytest.approx(rates(two), abs=SOME)
    assert one.detection is not None and two.detection is not None
    assert one.detection.auroc == pytest.approx(two.detection.auroc, abs=5e-3)


def test_two_threads_score_by_one_victim_as_one_does(attacked: Cell) -> None:
    for spec in ("spectral", "knn", ENSEMBLE):
        found = []
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(scores(attacked, spec))
        assert np.allclose(*found, atol=1e-4 * np.ptp(found[0])), spec


def twice(attacked: Cell, spec: str) -> np.ndarray:
    """The scores of a set in which every example is twice, float64 (n,). Copies score the same."""
    n = len(attacked.scene.poisoned.labels)
    found = scores(attacked, spec, np.tile(np.arange(n), 2))
    assert np.allclose(found[:n], found[n:])
    return found[:n]


@pytest.mark.parametrize("spec", ["spectral", "spectral:centered=false", "spectral:across=scaled", "low-loss"])
def test_a_set_that_is_there_twice_has_the_same_scores(attacked: Cell, spec: str) -> None:
    """Means and directions are those of the set once. What fits networks to the set has no such law: twice as many
    examples are twice as many steps.
    """
    assert np.allclose(twice(attacked, spec), scores(attacked, spec))


def test_to_nearest_neighbours_a_copy_is_one_more_of_its_own_label(attacked: Cell) -> None:
    """k grows with the label's size m: of 2m + 1 that are as near, where there were m, one more is of its own."""
    labels = attacked.scene.poisoned.labels
    m = np.bincount(labels)[labels]
    assert np.allclose(twice(attacked, "knn"), scores(attacked, "knn") * 2 * m / (2 * m + 1))


def test_activation_clustering_divides_most_labels_that_are_there_twice_alike(attacked: Cell) -> None:
    spec, labels = "activation-clustering", attacked.scene.poisoned.labels
    assert alike(twice(attacked, spec), scores(attacked, spec), labels) >= 8


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.sampled_from([0, 0, 1, 2])), min_size=1, max_size=30))
def test_a_ranking_in_which_every_example_is_twice_has_the_same_area(examples: list[tuple[int, int]]) -> None:
    found = np.array([score for score, _ in examples], float)
    roles = np.array([role for _, role in examples], np.int8)
    one, two = (detection(np.tile(found, k), np.arange(k * len(found)), np.tile(roles, k), None) for k in (1, 2))
    for name in ("auroc", "average_precision"):
        assert getattr(one, name) == pytest.approx(getattr(two, name))
