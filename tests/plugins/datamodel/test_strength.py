from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

import bdbench
from bdbench.cli import cli
from bdbench.registry.plugins import installed
from bdbench_datamodel import commands, pictures, strength, study
from bdbench_datamodel.ensemble import draw_subsets
from bdbench_datamodel.estimators import difference_of_means
from bdbench_datamodel.strength import Estimate, Strength
from tests.conftest import TINY_DATAMODEL


@pytest.fixture(autouse=True)
def _commands_of_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program adds them when it starts."""
    monkeypatch.setattr(cli, "commands", {**cli.commands, "strength": commands.strength})


def _planted(slope: float, models: int = 2000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Margins of 100 examples; each of the first 20 gains ``slope`` from every other of them, and 5 from itself."""
    rng = np.random.default_rng(0)
    masks = draw_subsets(100, models, 0.3, rng)
    margins = rng.normal(size=masks.shape)
    members = np.arange(20)
    seen = masks[:, members].sum(1, keepdims=True)
    margins[:, members] += slope * (seen - masks[:, members]) + 5 * masks[:, members]
    return masks, margins, members


@pytest.mark.parametrize("slope", [0.0, 0.4])
def test_both_ways_find_a_planted_strength(slope: float) -> None:
    masks, margins, members = _planted(slope)
    output, counted, curve = strength.counted(masks, margins, members)
    assert counted.low < slope < counted.high
    assert counted.half < 0.02
    assert output.value == pytest.approx(slope * 6, abs=0.1)  # alpha p = 6 members are seen
    # A fixed size of subsets: an outsider leaves where a member comes, which here changes nothing.
    found = strength.by_datamodels(masks, margins, members)
    assert found.low - 0.01 < slope * 19 / 20 < found.high + 0.01
    if slope:
        # g is a line: the curve's points lie on it, within their intervals.
        k, mean, half, count = curve.T
        assert (np.abs(mean - slope * k) < 2 * half).mean() > 0.8
        assert count.sum() == 2000


def test_counting_by_hand() -> None:
    masks = np.array([[1, 0, 0, 1], [0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 1, 0]], bool)
    margins = np.array([[9.0, 2, 0, 0], [1.0, 3, 0, 0], [9.0, 9, 0, 0], [5.0, 1, 0, 0]])
    # Members 0 and 1; the third model holds both and says nothing.
    output, counted, _ = strength.counted(masks, margins, np.array([0, 1]))
    pairs = np.array([[1, 2.0], [0, 2.0], [0, 3.0]])
    line = stats.linregress(pairs[:, 0], pairs[:, 1])
    assert output.value == pytest.approx(pairs[:, 1].mean())
    assert counted.value == pytest.approx(line.slope)
    assert counted.half == pytest.approx(stats.t.ppf(0.975, 1) * line.stderr)


def test_by_datamodels_is_lemma_1() -> None:
    masks, margins, members = _planted(0.4, models=300)
    v = np.zeros(100)
    v[members] = 1
    h = v / 20 - (1 - v) / 80
    expected = v @ difference_of_means(masks, margins) @ h / 20
    assert strength.by_datamodels(masks, margins, members).value == pytest.approx(expected, rel=1e-4)


def test_too_few_models_give_no_strength_by_datamodels() -> None:
    masks, margins, members = _planted(0.4, models=50)
    found = strength.by_datamodels(masks, margins, members)
    assert found.low < 0.4 * 19 / 20 < found.high
    few = strength.by_datamodels(masks[:49], margins[:49], members)
    assert np.isnan(few.value) and np.isnan(few.half)


def test_intervals_cover_at_their_rate() -> None:
    hits = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        masks = draw_subsets(40, 60, 0.3, rng)
        margins = rng.normal(size=masks.shape) + 0.2 * masks[:, :10].sum(1, keepdims=True)
        counted = strength.counted(masks, margins, np.arange(10))[1]
        hits += counted.low < 0.2 < counted.high
    assert 0.90 < hits / 200 < 0.985


def test_natural_groups_have_the_triggers_size_and_leave_poisons_out() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [30, 30, 4])
    clean = np.arange(64) >= 5
    groups = strength.natural_groups(rng.normal(size=(64, 3)), labels, clean, 8, rng)
    kinds = [kind for _, kind, _ in groups]
    assert kinds.count("class") == 3
    assert kinds.count("cluster") == 6  # the third class is too small for one
    for _, kind, members in groups:
        assert clean[members].all()
        if kind != "class":
            assert len(set(members)) == 8
        if kind == "cluster":
            assert len(set(labels[members])) == 1


def _strength(name: str, kind: str, value: float, half: float) -> Strength:
    estimate = Estimate(value, half)
    return Strength(name, kind, 5, 1.0, estimate, estimate, estimate, np.empty((0, 4)))


@pytest.mark.parametrize(
    ("trigger", "said"), [(3.0, "held"), (1.3, "undecided"), (1.1, "undecided"), (0.7, "undecided"), (0.2, "failed")]
)
def test_the_verdict_compares_intervals(trigger: float, said: str) -> None:
    found = [_strength("trigger", "trigger", trigger, 0.2), _strength("a", "cluster", 1.0, 0.2)]
    assert said in strength.verdict(found)


def test_without_a_trigger_there_is_nothing_to_say() -> None:
    assert "Nothing was attacked" in strength.verdict([_strength("a", "cluster", 1.0, 0.2)])


def test_the_command_prints_a_table_and_writes_a_picture_or_numbers(tiny: dict[str, Any], tmp_path: Path) -> None:
    folder = tiny["out"] / bdbench.run(defense=TINY_DATAMODEL, **tiny).id
    done = CliRunner().invoke(cli, ["strength", str(folder), str(tmp_path / "s.png"), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert "trigger" in done.output and "class 3, cluster 1" in done.output and "Assumption 1" in done.output
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    done = CliRunner().invoke(cli, ["strength", str(folder), str(tmp_path / "s.json"), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "s.json").read_text())[0]["size"] == 15


TRAK = "datamodel:estimator=trak,models=2,epochs=1,hidden=4,dimension=8,starts=2"


@pytest.mark.parametrize(
    ("defense", "target", "message"),
    [
        ("random", "s.png", "is one of random: expected a run of datamodel"),
        (TINY_DATAMODEL, "s.gif", "ends in .png"),
        (TRAK, "s.png", "used estimator=trak: expected one that trained an ensemble on subsets"),
    ],
)
def test_mistakes_are_one_line(tiny: dict[str, Any], tmp_path: Path, defense: str, target: str, message: str) -> None:
    folder = tiny["out"] / bdbench.run(defense=defense, **tiny).id
    done = CliRunner().invoke(cli, ["strength", str(folder), str(tmp_path / target)])
    assert done.exit_code == 2
    assert message in done.output
    assert not (tmp_path / target).exists()


def test_the_report_shows_the_matrix_and_the_strengths(tiny: dict[str, Any]) -> None:
    run = bdbench.reopen(tiny["out"] / bdbench.run(defense=TINY_DATAMODEL, **tiny).id, device="cpu")
    made = installed().collect("bdbench_report_sections", run=run)
    assert [section.title.split()[0] for section in made] == ["The", "Feature"]
    for defense in ("random", TRAK):
        other = bdbench.reopen(tiny["out"] / bdbench.run(defense=defense, **tiny).id, device="cpu")
        assert study.sections(other) == []


def test_the_picture_of_the_matrix_is_made_of_block_means() -> None:
    weights = np.arange(1000**2, dtype=float).reshape(1000, 1000)
    small = pictures._shrunk(weights)
    assert small.shape == (400, 400)
    assert small[0, 0] == pytest.approx(weights[:2, :2].mean())


def test_a_slope_that_cannot_be_told_is_no_rival() -> None:
    """NaN is neither more nor less than another number: the first one used to be the strongest, whatever came after."""
    curve = np.empty((0, 4))

    def group(name: str, kind: str, value: float) -> strength.Strength:
        told = strength.Estimate(value, 0.01)
        return strength.Strength(name, kind, 5, 1.0, told, told, told, curve)

    nan = float("nan")
    found = [group("trigger", "trigger", 1.0), group("a", "cluster", nan), group("b", "cluster", 2.0)]
    assert strength.verdict(found).startswith("Assumption 1 failed") and "(b)" in strength.verdict(found)
    assert "could be told: nothing to compare with" in strength.verdict(found[:2])
    assert strength.verdict([group("trigger", "trigger", nan), found[2]]).startswith("The trigger's strength could not")
