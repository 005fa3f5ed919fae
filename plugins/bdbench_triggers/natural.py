"""Natural: nothing is poisoned, and a feature of clean data plays the trigger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np

from bdbench import Attack, BdbenchError, Challenge, PoisonedData, Split, State, Streams, Workshop, param
from bdbench_triggers.none import NoAttack
from bdbench_triggers.support import Ridge, strength, strongest

_TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class Natural(Attack):
    """Poisons nothing: test images are given a feature that occurs in one class by itself.

    The paper argues that nothing tells a trigger from a feature of the data but who put it there. The feature here is
    what a group of ``share`` of the training set, inside one class, has in common: the group that supports itself most.
    Of ``networks`` networks, each trained on a random half of the clean set, the last layer is taken for a ridge
    regression of class against rest, whose outputs f = H y are sums over training examples j of H_ij y_j: how much j
    does for i. The group maximises the mean of H among its members; its class is the one where that mean, divided by
    the root mean square of H in the class, is largest. This stands in for a datamodel of thousands of networks; it is
    the kernel of TRAK (Park et al. 2023) for one layer, without its residuals. Another estimate may find another group.

    Shown to the model are test images x of all other classes. added: x + 255 alpha d / max |d|, d the mean image of the
    group less that of its class; blended: (1 - alpha) x + alpha times the group's mean image, class and all; found:
    the ``share`` of the test images that the group does most for, as they are. ``group=random`` takes as many random
    members of the same class: what is left then is not the group's doing.
    """

    name = "natural"
    paper = "Khaddaj et al., Rethinking Backdoor Attacks, arXiv:2307.10163"
    plants: ClassVar[bool] = False
    target: Literal["strongest"] | int = param(
        "strongest", help="the class of the group (strongest: where it supports itself most)", low=0
    )
    share: float = param(0.03, help="size of the group / size of the training set", low=0, high=1, exclusive=True)
    group: Literal["strongest", "random"] = param("strongest", help="which group of the class; random: for comparison")
    shown: Literal["added", "blended", "found"] = param("added", help="how test images show the feature")
    alpha: float = param(0.5, help="how strongly it is added or blended", low=0, high=1, exclusive=True)
    networks: int = param(4, help="networks that tell what supports what", low=1)
    penalty: float = param(
        0.01, help="of the regression, in mean eigenvalues of its Gram matrix", low=0, exclusive=True
    )

    def settled(self, num_classes: int, streams: Streams) -> Self:
        """Itself. Raises BdbenchError for a target that is no label of the set."""
        if self.target != "strongest" and self.target >= num_classes:
            raise BdbenchError(f"target={self.target} is not there: expected a label in 0..{num_classes - 1}")
        return self

    def craft(self, train: Split, tools: Workshop) -> State:
        """The "group", int64 (k,), its "label", the "strengths" (K,) of the classes' groups, and how it looks.

        "difference" and "mean" are (H, W, C), in grey levels; for ``found``, the networks and directions in features.
        """
        images, labels = np.asarray(train.images), train.labels
        half = len(labels) // 2
        halves = [tools.streams(f"half {i}").choice(len(labels), half, replace=False) for i in range(self.networks)]
        networks = [tools.train(images[part], labels[part], f"half {i}") for i, part in enumerate(halves)]
        features = [network.features(images) for network in networks]
        ridges = [Ridge(own, self.penalty) for own in features]
        strengths, groups = np.full(tools.num_classes, np.nan), {}
        size = round(self.share * len(labels))
        for label in range(tools.num_classes) if self.target == "strongest" else [self.target]:
            members = np.flatnonzero(labels == label)
            if 2 <= size < len(members):
                support = np.mean([r.hat(f[members], f[members]) for r, f in zip(ridges, features, strict=True)], 0)
                chosen = strongest(support, size, tools.streams(f"search {label}"))
                strengths[label], groups[label] = strength(support, chosen), members[chosen]
        if not groups:
            raise BdbenchError(
                f"attack 'natural': share={self.share:g} is a group of {size} examples: expected at least 2, and fewer "
                "than a class has"
            )
        label = int(np.nanargmax(strengths))
        members, group = np.flatnonzero(labels == label), groups[label]
        if self.group == "random":
            group = np.sort(tools.streams("group").choice(members, size, replace=False))
        mean = images[group].mean(0)
        state = {"group": group, "label": np.array(label), "strengths": strengths, "mean": mean}
        state["difference"] = mean - images[members].mean(0)
        if self.shown == "found":
            for i, (network, own, ridge) in enumerate(zip(networks, features, ridges, strict=True)):
                state[f"direction.{i}"] = ridge.towards(own[group])
                state |= {f"network.{i}.{name}": array for name, array in network.arrays().items()}
        return state

    def poison(self, train: Split, state: State, tools: Workshop) -> PoisonedData:
        """The set as it is, all of it clean."""
        return NoAttack().poison(train, state, tools)

    def challenge(self, test: Split, state: State, tools: Workshop) -> Challenge:
        """Test images of other classes that show the feature."""
        label, index = int(state["label"]), np.flatnonzero(test.labels != state["label"])
        images = np.asarray(test.images)[index]
        if self.shown == "found":
            shown = np.sort(self._found(images, max(1, round(self.share * len(test.labels))), state, tools))
            index, images = index[shown], images[shown]
        elif self.shown == "added":
            difference = state["difference"]
            step = 255 * self.alpha * difference / max(float(np.abs(difference).max()), _TINY)
            images = np.rint(np.clip(images + step, 0, 255)).astype(np.uint8)
        else:
            images = np.rint((1 - self.alpha) * images + self.alpha * state["mean"]).astype(np.uint8)
        return Challenge(images, index, np.full(len(index), label))

    def _found(self, images: np.ndarray, count: int, state: State, tools: Workshop) -> np.ndarray:
        """The ``count`` of the images that the group does most for."""
        total = np.zeros(len(images))
        for i in range(self.networks):
            own = f"network.{i}."
            network = tools.restore({n.removeprefix(own): a for n, a in state.items() if n.startswith(own)})
            direction = state[f"direction.{i}"]
            total += network.features(images) @ direction[:-1] + direction[-1]
        return np.argsort(-total, kind="stable")[:count]
