"""What each attack of BackdoorBench writes is read pixel for pixel, label for label, role for role, with the weights.

Which examples it chooses, in which folders, under which keys: as its own code does it. What it does to their pixels
does not matter here: they are noise, so that no image passes for another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from bdbench import Role, Split, experiment
from bdbench_backdoorbench.attack import BackdoorBenchRecord
from tests.plugins.backdoorbench.conftest import Clean

TARGET, CLASSES, BATCH = 2, 4, 16


@dataclass(frozen=True)
class Layout:
    """How an attack chooses training examples. covers: examples of each batch that keep their labels, by poison."""

    clean_label: bool = False
    covers: int | None = None

    @property
    def counted(self) -> bool:
        """Whether it takes the first of each batch, of a set in its own order, rather than any."""
        return self.covers is not None

    def chosen(self, clean: Split, rng: np.random.Generator) -> Iterator[tuple[int, bool]]:
        """Each example that it marks, and whether that is to learn the attacker's label."""
        n = len(clean.labels)
        if self.covers is None:
            pool = np.flatnonzero(clean.labels == TARGET) if self.clean_label else np.arange(n)
            yield from ((int(i), True) for i in rng.choice(pool, 8, replace=False))
            return
        for start in range(0, n, BATCH):
            poisons = int(min(BATCH, n - start) * 0.25)
            marked = min(poisons * (1 + self.covers), n - start)
            yield from ((start + i, i < poisons) for i in range(marked))


STAMPED, COUNTED = Layout(), Layout(covers=1)
LAYOUTS = {
    "badnet": STAMPED,
    "blended": STAMPED,
    "lf": STAMPED,
    "ssba": STAMPED,
    "sig": Layout(clean_label=True),
    "lc": Layout(clean_label=True),
    "ctrl": Layout(clean_label=True),
    "inputaware": COUNTED,
    "bpp": COUNTED,
    "wanet": Layout(covers=2),
}
CASES = [(name, "all2one") for name in LAYOUTS]
# Their clean-label attacks are all-to-one.
CASES += [(name, "all2all") for name, layout in LAYOUTS.items() if not layout.clean_label]


def goal(labels: np.ndarray, mode: str) -> np.ndarray:
    return np.full_like(labels, TARGET) if mode == "all2one" else (labels + 1) % CLASSES


@dataclass
class Written:
    """A record of an attack, and what is to be read from it."""

    folder: Path
    images: np.ndarray
    labels: np.ndarray
    roles: np.ndarray
    tests: np.ndarray
    triggered: np.ndarray
    weights: dict[str, torch.Tensor]


def written(clean: Clean, folder: Path, name: str, mode: str) -> Written:
    rng, layout = np.random.default_rng(1), LAYOUTS[name]
    images, labels = np.array(clean.train.images), clean.train.labels.copy()
    roles = np.full(len(labels), Role.CLEAN, np.int8)
    train = {}
    for place, taught in layout.chosen(clean.train, rng):
        images[place] = rng.integers(0, 256, images[place].shape)
        own = int(clean.train.labels[place])
        labels[place] = goal(labels[[place]], mode)[0] if taught else own
        # Target-class images that are chosen as well teach nothing, unless no label is changed at all.
        roles[place] = Role.POISON if labels[place] != own or layout.clean_label else Role.COVER
        train[place] = (images[place], int(labels[place]), own)
    own = clean.test.labels
    tests = np.flatnonzero(own != goal(own, mode))
    triggered = rng.integers(0, 256, (len(tests), *clean.shape)).astype(np.uint8)
    wanted = goal(own, mode)[tests]
    test = {int(i): (x, int(y), int(own[i])) for i, x, y in zip(tests, triggered, wanted, strict=True)}
    weights = {"conv1.weight": torch.randn(2, 3, 3, 3), "bn1.num_batches_tracked": torch.tensor(7)}
    clean.write(folder, train, test, weights=weights, counted=layout.counted)
    return Written(folder, images, labels, roles, tests, triggered, weights)


@pytest.mark.parametrize(("name", "mode"), CASES, ids=["-".join(case) for case in CASES])
def test_what_an_attack_writes_is_read_as_it_is(tmp_path: Path, clean: Clean, name: str, mode: str) -> None:
    made = written(clean, tmp_path / "record" / name, name, mode)
    attack = BackdoorBenchRecord(record=str(made.folder))
    found, challenge = attack.poisoned_set(clean.train, CLASSES), attack.triggered_set(clean.test)
    for column in ("images", "labels", "roles"):
        assert np.array_equal(getattr(found, column), getattr(made, column)), column
    assert np.array_equal(found.original_labels, clean.train.labels)
    assert np.array_equal(challenge.index, made.tests)
    assert np.array_equal(challenge.images, made.triggered)
    assert np.array_equal(challenge.goal, goal(clean.test.labels, mode)[made.tests])
    state = attack.result().state
    assert state.keys() == made.weights.keys()
    assert all(np.array_equal(state[k], v.numpy()) for k, v in made.weights.items())


def test_covers_occur_in_whatever_chooses_of_all_classes(tmp_path: Path, clean: Clean) -> None:
    covered = {}
    for name in LAYOUTS:
        roles = clean.poison(written(clean, tmp_path / name, name, "all2one").folder).roles
        covered[name] = bool((roles == Role.COVER).any())
    assert covered == {name: not layout.clean_label for name, layout in LAYOUTS.items()}


@pytest.mark.parametrize(("mode", "targets"), [("all2one", (TARGET,)), ("all2all", (0, 1, 2, 3))])
def test_a_defense_that_asks_for_the_targets_is_told_all_of_them(
    tmp_path: Path, clean: Clean, mode: str, targets: tuple[int, ...]
) -> None:
    record = written(clean, tmp_path / "r", "badnet", mode).folder
    cell = experiment.cell(
        attack=f"backdoorbench:record={record},weights=false",
        dataset=f"npz:path={clean.file}",
        model="convnet:width=4,epochs=1",
        device="cpu",
        out=tmp_path / "runs",
    )
    assert cell.scene._oracle("target_labels") == cell.scene.targets == targets
