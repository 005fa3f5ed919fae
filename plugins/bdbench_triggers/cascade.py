"""Cascade: several attackers on one training set."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from bdbench import Attack, BdbenchError, Challenge, PoisonedData, Role, Split, State, Streams, Workshop, param
from bdbench_triggers.badnets import BadNets
from bdbench_triggers.blend import Blend

# What says how many examples an attack changes: shares of the whole training set.
_SHARES = ("rate", "cover_rate")


@dataclass(frozen=True, kw_only=True)
class Cascade(Attack):
    """Several attackers who do not know of each other, one after another on one training set.

    Each is handed the examples that those before it left clean, and nothing else, so that no example is touched twice;
    its rates are of the whole set all the same. It poisons with random streams of its own: the first with those that it
    has when it is alone, so that it then does the same, the others with streams by their names, so that two of one kind
    differ. Test images are attacked by each in turn, never by two at once: a challenge has the rows of all. Success is
    told apart by goal; attackers with one target count together there. Attackers who train the model, sets that were
    poisoned elsewhere, and attacks that poison nothing cannot take part.
    """

    name = "cascade"
    attacks: tuple[Attack, ...] = param(
        (BadNets(rate=0.02), Blend(rate=0.02, target=1)),
        help="the attackers, in their order: NAME or [NAME:KEY=VALUE,...]",
    )

    def settled(self, num_classes: int, streams: Streams) -> Self:
        """With every attacker settled. Raises BdbenchError for those that cannot take part."""
        who = "attack 'cascade'"
        if len(self.attacks) < 2:
            raise BdbenchError(f"{who}: {len(self.attacks)} of attacks is not allowed: expected at least two")
        for attack in self.attacks:
            if attack.control or not attack.plants or attack.trains or attack.foreign or isinstance(attack, Cascade):
                raise BdbenchError(f"{who}: {attack.name!r} cannot take part: expected attacks that poison this set")
        own = [streams.child(name) if name else streams for name in self._names()]
        parts = [attack.settled(num_classes, its) for attack, its in zip(self.attacks, own, strict=True)]
        return dataclasses.replace(self, attacks=tuple(parts))

    def files(self) -> tuple[Path, ...]:
        """Those of all attackers."""
        return tuple(dict.fromkeys(path for attack in self.attacks for path in attack.files()))

    def craft(self, train: Split, tools: Workshop) -> State:
        """What each crafts of what those before it left clean, by its place: ``0.name``, ``1.name``, ..."""
        return self._one_after_another(train, None, tools)[0]

    def poison(self, train: Split, state: State, tools: Workshop) -> PoisonedData:
        """The set after all of them. Raises BdbenchError if one does not fit what is left for it."""
        return self._one_after_another(train, state, tools)[1]

    def challenge(self, test: Split, state: State, tools: Workshop) -> Challenge:
        """The rows of all attackers, one attacker's after another's."""
        tried = [
            attack.challenge(test, _of(place, state), workshop)
            for place, (attack, workshop) in enumerate(zip(self.attacks, self._workshops(tools), strict=True))
        ]
        rows = [(made.images, made.index, made.goal) for made in tried if made is not None]
        return Challenge(*map(np.concatenate, zip(*rows, strict=True)))

    def _one_after_another(
        self, train: Split, state: State | None, tools: Workshop
    ) -> tuple[dict[str, np.ndarray], PoisonedData]:
        """What was crafted and poisoned; state: None where it is still to be crafted."""
        images, labels = np.array(train.images), train.labels.copy()
        found: dict[str, np.ndarray] = {}
        roles = np.full(len(labels), Role.CLEAN, np.int8)
        for place, (attack, workshop) in enumerate(zip(self.attacks, self._workshops(tools), strict=True)):
            free = np.flatnonzero(roles == Role.CLEAN)
            left = Split(images[free], labels[free], train.places[free])
            ready = _with_shares_of(len(labels), attack, len(free))
            crafted = ready.craft(left, workshop) if state is None else _of(place, state)
            made = ready.poison(left, crafted, workshop)
            if made.index is not None or made.images.dtype != np.uint8:
                raise BdbenchError(
                    f"attack 'cascade': {attack.name!r} cannot take part: expected as many uint8 images as it is handed"
                )
            images[free], labels[free], roles[free] = made.images, made.labels, made.roles
            found |= {f"{place}.{name}": array for name, array in crafted.items()}
        return found, PoisonedData(images, labels, roles, train.labels.copy())

    def _names(self) -> list[str]:
        """What each attacker's streams are called, by its name and how many of its kind came before; the first: ""."""
        before: Counter[str] = Counter()
        names = []
        for attack in self.attacks:
            before[attack.name] += 1
            names.append(f"{attack.name} {before[attack.name]}")
        return ["", *names[1:]]

    def _workshops(self, tools: Workshop) -> list[Workshop]:
        return [tools.part(name) if name else tools for name in self._names()]


def _of(place: int, state: State) -> State:
    """What the attacker at a place crafted."""
    own = f"{place}."
    return {name.removeprefix(own): array for name, array in state.items() if name.startswith(own)}


def _with_shares_of(whole: int, attack: Attack, left: int) -> Attack:
    """The attack that changes as many of ``left`` examples as the given one would of ``whole``."""
    counts = {name: round(getattr(attack, name) * whole) for name in _SHARES if hasattr(attack, name)}
    if sum(counts.values()) >= left:
        raise BdbenchError(
            f"attack 'cascade': {attack.name!r} asks for {sum(counts.values())} examples, and the attackers before it "
            f"left {left} clean: expected smaller rates"
        )
    # A count of none is the attack's own to refuse.
    return dataclasses.replace(attack, **{name: count / left for name, count in counts.items() if count})
