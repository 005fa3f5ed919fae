"""Every stage of defense, with defenses of a few lines whose results are known beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

import bdbench
from bdbench import BdbenchError, Detector, Measured, Metric, ModelDetector, Role, Tools, TrainingView, Verdict, param
from bdbench.components.workshop import Oracle
from bdbench.registry.plugins import Plugin, Registration, installed
from tests.cells.defenders import Constant, Corner, Says, Trains, Tuned
from tests.conftest import TINY


@dataclass(frozen=True, kw_only=True)
class Decides(Detector):
    """Told the poisons, it scores the others highest, and flags what ``says`` says."""

    name = "decides"
    oracles: ClassVar[tuple[Oracle, ...]] = ("poisons",)
    says: Literal["poisons", "nothing", "everything", "no rule"] = param("poisons", help="what it flags")

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        poisons = tools.oracle("poisons")
        flagged = {"poisons": poisons, "nothing": np.zeros_like(poisons), "everything": np.ones_like(poisons)}
        tools.conclude(0.25, flagged.get(self.says))
        return 1.0 - poisons


def test_a_decision_is_measured_beside_the_budget(tiny: dict[str, Any]) -> None:
    found = bdbench.run(defense=Decides(), **tiny)
    assert found.detection is not None and found.decision is not None and found.p_value == 0.25
    # Its scores are the wrong way round, but what it flags is right.
    assert found.detection.auroc == 0.0 and found.detection.tpr_at_budget == 0.0
    assert (found.decision.tpr, found.decision.fpr, found.decision.precision) == (1.0, 0.0, 1.0)
    assert found.decision.flagged == pytest.approx(15 / 300)
    assert found.cost.models_trained == 2
    arrays = np.load(tiny["out"] / found.id / "scores.npz")
    assert np.array_equal(arrays["flagged"], arrays["roles"] == Role.POISON)
    assert found.access == ["training_set", "poisons"]


def test_a_defense_that_finds_nothing_leaves_the_reference_as_it_is(tiny: dict[str, Any]) -> None:
    found = bdbench.run(defense=Decides(says="nothing"), budget="auto", **tiny)
    assert found.decision is not None and found.decision.after == found.reference
    assert (found.decision.flagged, found.decision.tpr, found.decision.precision) == (0.0, 0.0, None)
    assert found.decision.signed == 0.5 and found.cost.models_trained == 0
    everything: Any = bdbench.run(defense=Decides(says="everything"), budget="auto", **tiny)
    assert everything.decision is not None and everything.decision.after is not None
    # No model is left: as one that refuses every image, so that no mean over seeds leaves the seed out.
    after = everything.decision.after
    assert (after.clean_accuracy, after.attack_success_rate, after.robust_accuracy) == (0.0, 0.0, 0.0)
    gain, loss = everything.reference.attack_success_rate, everything.reference.clean_accuracy
    assert everything.decision.signed == pytest.approx((gain - loss + 1) / 2) and everything.cost.models_trained == 0


def test_metrics_are_told_what_was_done_by_the_defenses_own_decision(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Measured] = []
    metric = Metric("seen", lambda measured: seen.append(measured), "keeps what it is told")
    monkeypatch.setitem(
        installed()._all("metric"), "seen", [Registration("seen", metric, Plugin("made", "theirs", "1"))]
    )
    found = bdbench.run(defense=Decides(), budget="auto", **tiny)
    (told,) = seen
    assert told.kept is not None and np.array_equal(told.kept, told.roles != Role.POISON)
    assert found.decision is not None and found.decision.after is not None
    assert told.after["clean_accuracy"] == found.decision.after.clean_accuracy


def test_a_budget_of_auto_removes_what_the_detector_flags_and_nothing_else(tiny: dict[str, Any]) -> None:
    found = bdbench.run(defense=Decides(), budget="auto", **tiny)
    assert found.after is None and found.detection is not None and found.detection.budget is None
    assert found.decision is not None and found.decision.after is not None
    assert found.cost.models_trained == 1
    with pytest.raises(BdbenchError, match="budget=auto is not allowed: defense 'decides' flags nothing itself"):
        bdbench.run(defense=Decides(says="no rule"), budget="auto", **tiny)
    with pytest.raises(BdbenchError, match=r"budget=most is not allowed: expected a fraction in \[0, 1\), or auto"):
        bdbench.run(defense=Decides(), budget="most", **tiny)


def test_what_a_removal_did_is_measured_against_the_same_training(tiny: dict[str, Any]) -> None:
    """Removing by chance must not seem to change what only another initialisation changed."""
    found = bdbench.run(defense="random", **tiny)
    assert found.reference is not None and found.after is not None and found.reference != found.before
    gain = found.reference.attack_success_rate - found.after.attack_success_rate  # type: ignore[operator]
    loss = found.reference.clean_accuracy - found.after.clean_accuracy
    assert found.derived.signed == pytest.approx((gain - loss + 1) / 2)


def test_a_defense_at_training_time_is_known_by_its_predictions(tiny: dict[str, Any]) -> None:
    found = bdbench.run(defense=Constant(), **tiny)
    assert found.stage == "training time" and found.config["budget"] is None and found.access == ["training_set"]
    assert found.after is not None and found.reference is not None and found.detection is None
    assert found.after.clean_accuracy == pytest.approx(0.1, abs=0.02)
    assert found.after.attack_success_rate == 0.0
    gain, loss = found.reference.attack_success_rate, found.reference.clean_accuracy - found.after.clean_accuracy
    assert gain is not None and found.derived.signed == pytest.approx((gain - loss + 1) / 2)
    refuses = bdbench.run(defense=Constant(answer=-1), **tiny)
    assert refuses.after is not None and refuses.after.clean_accuracy == 0.0
    with pytest.raises(BdbenchError, match="the model of defense 'constant' predicts int64 .*in -1..9"):
        bdbench.run(defense=Constant(answer=10), **tiny)


def test_a_repair_starts_from_the_victim_and_is_compared_with_it(tiny: dict[str, Any]) -> None:
    found = bdbench.run(defense=Tuned(), **tiny)
    assert found.stage == "repair" and found.access == ["clean_set"] and found.reference is None
    assert found.after is not None and found.after != found.before and found.cost.models_trained == 1
    gain = found.before.attack_success_rate - found.after.attack_success_rate  # type: ignore[operator]
    assert found.derived.signed == pytest.approx(
        (gain - found.before.clean_accuracy + found.after.clean_accuracy + 1) / 2
    )
    with pytest.raises(BdbenchError, match="does not apply to attack 'badnets': no clean examples are set apart"):
        bdbench.run(defense=Tuned(), reserve=0, **tiny)


def test_suspicious_inputs_are_refused(tiny: dict[str, Any]) -> None:
    found = bdbench.run(defense=Corner(), **tiny)
    assert found.stage == "inputs" and found.inputs is not None and found.after is not None
    # No clean digit is white in that corner.
    assert (found.inputs.auroc, found.inputs.tpr_at_1pct_fpr, found.inputs.tpr) == (1.0, 1.0, 1.0)
    assert found.inputs.bystander_fpr is None and found.inputs.seconds_per_input > 0
    assert found.after.attack_success_rate == 0.0
    assert found.inputs.fpr is not None and found.inputs.fpr < 0.1
    assert found.after.clean_accuracy >= found.before.clean_accuracy - found.inputs.fpr
    control = bdbench.run(defense=Corner(), **{**tiny, "attack": "none"})
    assert control.inputs is not None and control.inputs.auroc is None and control.inputs.fpr == found.inputs.fpr
    arrays = np.load(tiny["out"] / found.id / "scores.npz")
    assert arrays["clean_scores"].shape == (360,) and arrays["challenge_scores"].shape == (324,)


def test_equal_scores_are_drawn_anew_for_every_seed(tiny: dict[str, Any]) -> None:
    kept = []
    for seed in (0, 1):
        found = bdbench.run(defense=Flat(), seed=seed, **tiny)
        kept.append(np.load(tiny["out"] / found.id / "scores.npz")["kept"])
    assert kept[0].sum() == kept[1].sum() == 270 and not np.array_equal(*kept)


@dataclass(frozen=True, kw_only=True)
class Flat(Detector):
    """Tells nobody apart."""

    name = "flat"

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        return np.zeros(len(view.labels))


@dataclass(frozen=True, kw_only=True)
class SaysMore(ModelDetector):
    """Names a target and another label."""

    name = "says-more"

    def inspect(self, tools: Tools) -> Verdict:
        return Verdict(2.5, True, (0, 3))


def test_who_names_more_than_the_targets_has_not_hit(tiny: dict[str, Any]) -> None:
    found = bdbench.run(defense=SaysMore(), **tiny)
    assert found.config["data"]["targets"] == [0]
    assert found.verdict is not None and found.verdict.targets == [0, 3] and found.verdict.hit is False


def test_a_verdict_on_a_model_is_compared_with_the_truth(tiny: dict[str, Any]) -> None:
    right, wrong = (bdbench.run(defense=Says(target=target), **tiny) for target in (0, 3))
    assert right.stage == "model" and right.access == [] and right.after is None
    assert right.verdict is not None and right.verdict.hit is True and right.p_value == 0.01
    assert (right.verdict.score, right.verdict.flagged, right.verdict.targets) == (2.5, True, [0])
    assert wrong.verdict is not None and wrong.verdict.hit is False
    control = bdbench.run(defense=Says(), **{**tiny, "attack": "none"})
    assert control.control and control.verdict is not None and control.verdict.hit is None
    with pytest.raises(BdbenchError, match=r"defense 'says' returned Verdict.*its targets in 0\.\.9"):
        bdbench.run(defense=Says(target=10), **tiny)


def test_defenses_of_all_stages_run_side_by_side(tmp_path: Path) -> None:
    defenses = ["random", Constant(), Tuned(), Corner(), Says()]
    together = bdbench.run_all(defenses=defenses, out=tmp_path / "a", **TINY)
    assert [r.stage for r in together] == ["training set", "training time", "repair", "inputs", "model"]
    alone = bdbench.run(defense=Tuned(), out=tmp_path / "b", **TINY)
    assert alone.after == together[2].after and alone.id == together[2].id


def test_where_the_attacker_trains_no_defense_of_the_training_applies(tiny: dict[str, Any]) -> None:
    cell = {**tiny, "attack": Trains()}
    found = bdbench.run(defense=Says(), **cell)
    # A model that was only ever shown zeros.
    assert found.before.attack_success_rate == 1.0 and found.cost.seconds["victim"] == 0.0
    assert found.cost.seconds["craft"] > 0
    for defense in ("random", Constant()):
        with pytest.raises(BdbenchError, match="does not apply to attack 'trains': the attacker trains the model"):
            bdbench.run(defense=defense, **cell)


@dataclass(frozen=True, kw_only=True)
class Twice(Detector):
    """Concludes in two steps, the second with a list."""

    name = "twice"

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        tools.conclude(p_value=0.5)
        tools.conclude(flagged=[True] * 3 + [False] * 297)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"flagged is int64 \(300,\): expected bool \(300,\)"):
            tools.conclude(flagged=np.zeros(300, int))
        return np.zeros(300)


def test_conclusions_add_up(tiny: dict[str, Any]) -> None:
    found = bdbench.run(defense=Twice(), budget=0, **tiny)
    assert found.p_value == 0.5 and found.decision is not None and found.decision.flagged == 3 / 300
