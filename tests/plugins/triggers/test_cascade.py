"""Cascade: who poisons what, with which streams, what is asked of models, and what identifies it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bdbench
from bdbench import BdbenchError, Role, Split, State, TriggerAttack, Workshop, experiment
from bdbench.cells.scene import Scene
from bdbench.registry.plugins import installed
from bdbench_triggers.badnets import BadNets
from bdbench_triggers.blend import Blend
from bdbench_triggers.cascade import Cascade
from bdbench_triggers.none import NoAttack
from bdbench_triggers.sig import Sig
from bdbench_triggers.tact import Tact
from tests.conftest import TINY

PAIR = ["badnets:rate=0.05", "blend:target=3,rate=0.03"]


def scene(out: Path, attack: Any, **options: Any) -> Scene:
    return experiment.cell(**{**TINY, "attack": attack, "out": out, **options}).scene


def touched(made: Scene, label: int) -> np.ndarray:
    return np.flatnonzero((made.poisoned.roles == Role.POISON) & (made.poisoned.labels == label))


def test_each_poisons_as_if_it_were_alone_among_what_others_left(tmp_path: Path) -> None:
    both, alone = scene(tmp_path, PAIR), scene(tmp_path, PAIR[0])
    clean = np.asarray(both.images.train.images)
    first, second = touched(both, 0), touched(both, 3)
    # The first does what it does alone; the second's share is of the whole set, and none of it is the first's.
    assert np.array_equal(first, touched(alone, 0)) and len(first) == 15
    assert np.array_equal(both.poisoned.images[first], alone.poisoned.images[first])
    assert len(second) == 9 and not set(first) & set(second)
    assert (both.poisoned.roles == Role.POISON).sum() == 24
    assert isinstance(both.attack, Cascade)
    stamped = both.attack.attacks[1].stamp(clean[second], both.workshop.part("blend 1").streams)  # type: ignore[attr-defined]
    assert np.array_equal(both.poisoned.images[second], stamped)
    assert (both.images.train.labels[second] != 3).all()
    rest = both.poisoned.roles == Role.CLEAN
    assert np.array_equal(both.poisoned.images[rest], clean[rest])
    assert np.array_equal(both.poisoned.original_labels, both.images.train.labels)


def test_a_challenge_has_the_rows_of_each(tmp_path: Path) -> None:
    both, alone = scene(tmp_path, PAIR), scene(tmp_path, PAIR[0])
    assert both.challenge is not None and alone.challenge is not None
    m = len(alone.challenge.goal)
    for name in ("images", "index", "goal"):
        assert np.array_equal(getattr(both.challenge, name)[:m], getattr(alone.challenge, name))
    truth = both.images.test.labels
    assert np.array_equal(both.challenge.index[m:], np.flatnonzero(truth != 3)) and set(both.challenge.goal[m:]) == {3}
    assert both.targets == (0, 3)


def test_two_of_one_kind_draw_their_own(tmp_path: Path) -> None:
    made = scene(tmp_path, ["blend:target=1,rate=0.05"] * 2)
    assert made.challenge is not None and made.targets == (1,)
    one, other = np.split(made.challenge.images, 2)
    assert not np.array_equal(one, other)
    drawn = [scene(tmp_path, ["blend:target=seed"] * 2, seed=seed).attack.attacks for seed in range(4)]  # type: ignore[attr-defined]
    assert any(a.target != b.target for a, b in drawn)
    # What comes after changes nothing of those before.
    more = scene(tmp_path, ["blend:target=1,rate=0.05", "blend:target=1,rate=0.05", "badnets"])
    assert more.challenge is not None
    assert np.array_equal(more.challenge.images[: len(one) + len(other)], made.challenge.images)


def test_shares_are_exact_and_covers_count(tmp_path: Path) -> None:
    made = scene(
        tmp_path,
        ["tact:target=1,source=2,rate=0.015,cover_rate=0.1", "badnets:rate=0.05", "sig:rate=0.02,frequency=2,target=5"],
    )
    roles, labels = made.poisoned.roles, made.poisoned.labels
    assert (roles == Role.COVER).sum() == 30
    poisons = np.bincount(labels[roles == Role.POISON], minlength=10)
    # Of 300: round(4.5) = 4, as of a set that one attacker has for himself.
    assert poisons[[1, 0, 5]].tolist() == [4, 15, 6] and poisons.sum() == 25


@dataclass(frozen=True, kw_only=True)
class Keeper(TriggerAttack):
    """Keeps a piece, and brightens by what it drew for it."""

    name = "keeper"

    def craft(self, train: Split, tools: Workshop) -> State:
        seen = np.array(len(train.labels))
        piece = tools.saved({"what": "bright"}, lambda: {"bright": tools.shared_streams("bright").integers(9, 99, 1)})
        return {**piece, "seen": seen}

    def stamp(self, images: np.ndarray, streams: Any) -> np.ndarray:
        return np.minimum(images, 200) + np.uint8(1)

    def triggered(self, images: np.ndarray, state: State, tools: Workshop) -> np.ndarray:
        return np.full_like(images, state["bright"][0])


def test_what_each_crafts_is_its_own(tmp_path: Path) -> None:
    made = scene(tmp_path, [Keeper(rate=0.1), Keeper(rate=0.1, target=1), BadNets()])
    assert set(made.state) == {"0.bright", "0.seen", "1.bright", "1.seen"}
    assert [int(made.state[f"{i}.seen"]) for i in range(2)] == [300, 270]
    assert made.state["0.bright"] != made.state["1.bright"]
    assert made.challenge is not None
    own = made.challenge.images.reshape(len(made.challenge.goal), -1)[:, 0]
    assert own[0] == made.state["0.bright"] and own[len(own) // 3 + 1] == made.state["1.bright"]


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (Cascade(attacks=(BadNets(),)), "1 of attacks is not allowed: expected at least two"),
        ([BadNets(), NoAttack()], "'none' cannot take part"),
        ([BadNets(), Cascade()], "'cascade' cannot take part"),
        (["badnets:rate=0.6", "blend:rate=0.4"], "'blend' asks for 120 examples, and the attackers before it left 120"),
        (["badnets", "blend:rate=0.0001"], "rate=0.0001 asks for 0 poisons"),
        (["badnets", "blnd"], "unknown attack 'blnd': did you mean 'blend'?"),
        (["badnets", "blend:target=10"], "target=10 is not there"),
        ("cascade:attacks=badnets+[blend:alpha=2,rate=0.1]", "alpha=2.0 is not allowed"),
        ([], "\\[\\] is no attack"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, attack: Any, message: str) -> None:
    with pytest.raises(BdbenchError, match=message):
        scene(tmp_path, attack)


def test_one_in_a_list_is_itself() -> None:
    assert installed().component("attack", ["blend:rate=0.1"]) == Blend(rate=0.1)


def test_it_is_known_by_all_of_its_parts(tmp_path: Path) -> None:
    from bdbench.cells.scene import contents
    from bdbench.components import configs, sources

    attack = Cascade(attacks=(Sig(), Blend(pattern=str(tmp_path / "x.png"), test_alpha=0.3)))
    config = json.loads(json.dumps(attack.config()))
    assert config == {"name": "cascade", "attacks": [Sig().config(), attack.attacks[1].config()]}
    assert installed().component("attack", config) == attack
    assert installed().component("attack", configs.spec(config)) == attack
    # Null, as a new parameter would be in old records.
    assert "test_delta" not in json.dumps(configs.parameters(config))
    with pytest.raises(BdbenchError, match="x.png"):
        contents(attack)
    other = dataclasses.replace(attack, attacks=(Tact(), attack.attacks[1]))
    assert sources.own_code_of(attack) != sources.own_code_of(other)
    assert set(sources.code_of(attack)) >= {"bdbench_triggers.sig.Sig", "bdbench_triggers.blend.Blend"}
    assert sources.own_code_of(Sig()) == sources.own_code(Sig)
    labels = configs.labels([config, other.config(), Cascade(attacks=(Sig(rate=0.1), Blend())).config()], ("rate",))
    assert labels[1].startswith("cascade tact rate=0.05 & blend rate=0.05 test_alpha=0.3")
    assert len(set(labels)) == 3 and labels[2].startswith("cascade sig rate=0.1 & ")


def test_a_run_says_what_each_goal_came_to_and_is_opened_again(tmp_path: Path) -> None:
    made = bdbench.run(attack=PAIR, defense="random", **{k: v for k, v in TINY.items() if k != "attack"}, out=tmp_path)
    before = made.before
    assert before.by_goal is not None and set(before.by_goal) == {"0", "3"}
    assert before.worst_goal == max(before.by_goal.values())
    assert made.environment["versions"]["bdbench"] and made.config["data"]["targets"] == [0, 3]
    again = bdbench.reopen(tmp_path / made.id)
    assert isinstance(again.attack, Cascade) and again.challenge is not None


def test_both_backdoors_work_on_digits(tmp_path: Path) -> None:
    attack = ["badnets:rate=0.03", "blend:target=3,rate=0.03"]
    before = bdbench.run(attack=attack, defense="random", budget=0, device="cpu", out=tmp_path, seed=100).before
    assert before.by_goal is not None and min(before.by_goal.values()) > 0.8 and before.clean_accuracy > 0.95
