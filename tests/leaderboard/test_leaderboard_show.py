"""Parts of a board: ``bdbench leaderboard show``, what was not run, the table of attacks and its notes."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bdbench import leaderboard
from bdbench.grids.board import Board
from bdbench.leaderboard import coverage, markdown, summarise, views
from tests.boards import build, readme, rows, show
from tests.records import attack, defense, keep, made, make_board


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_board(tmp_path_factory.mktemp("board") / "made")
    (folder / "records" / "none-low-loss-0.json").unlink()
    lists = {"datasets": ["digits"], "models": ["convnet"], "attacks": ["none", "sig"], "defenses": ["low-loss"]}
    (folder / "grid.toml").write_text("".join(f"{k} = {v}\n" for k, v in lists.items()) + 'seeds = "0-1"\n')
    return folder


def test_a_part_is_filtered_sorted_and_grouped(board: Path) -> None:
    blend = ("--where", "attack=blend rate=0.05")
    assert rows(show(board, *blend, "--sort", "auroc", "--columns", "defense,rank").stdout) == [
        ["spectral", "1"], ["low-loss", "2"], ["random", "3"],
    ]  # fmt: skip
    assert rows(show(board, *blend, "--where", "defense=random", "--columns", "auroc").stdout) == [["0.510 ± 0.079"]]
    least = rows(show(board, *blend, "--sort", "asr_after", "--columns", "defense").stdout)
    assert least == [["spectral"], ["low-loss"], ["random"]]
    by = show(board, "--by", "defense", "--where", "defense=spectral", "--where", "defense=random").stdout
    assert re.findall("^## (.*)", by, re.M) == ["random", "spectral"]
    table = pd.read_csv(StringIO(show(board, "--csv", "--where", "attack=none").stdout))
    assert set(table["attack"]) == {"none"} and len(table) == 3


def test_a_part_has_a_table_for_each_stage(tmp_path: Path) -> None:
    keep(tmp_path, made(), made(stage="repair", parts=defense("ft")))
    text = show(tmp_path, "--matrix", "asr_after").stdout
    assert re.findall("^## (.*)", text, re.M) == ["Training set", "Repair"]
    one = show(tmp_path, "--matrix", "asr_after", "--where", "stage=repair").stdout
    assert "##" not in one and rows(one) == [["badnets rate=0.05", "99.0", "2.0"]]
    assert markdown.part(tmp_path, matrix="auroc").startswith("| attack")


def test_where_nobody_defends_data_sets_stand_across(tmp_path: Path) -> None:
    none = defense("none")
    clean = made(stage="repair", control=True, asr=None, before=(0.96, None), parts={**none, **attack("none")})
    keep(tmp_path, made(stage="repair", parts=none), clean)
    heading, _, *lines = show(tmp_path, "--matrix", "asr_before").stdout.splitlines()
    assert [cell.strip() for cell in heading.split("|")] == ["", "attack", "digits", ""]
    assert [line.split("|")[1].strip() for line in lines] == ["badnets rate=0.05"]
    assert "99.0" in lines[0].split("|")[2]
    alone = show(tmp_path, "--matrix", "ca_before", "--where", "attack=none").stdout.splitlines()[-1]
    assert alone.split("|")[1].strip() == "none" and "96.0" in alone


def test_what_was_not_run_is_said_everywhere(board: Path) -> None:
    heading, _, *lines = show(board, "--matrix", "auroc").stdout.splitlines()
    assert [cell.strip() for cell in heading.split("|")] == ["", "attack", "low-loss", "random", "spectral", ""]
    assert [line.count("not run") for line in lines] == [0, 3]
    heading, _, blend, *_ = show(board, "--matrix", "asr_after").stdout.splitlines()
    assert [cell.strip() for cell in heading.split("|")][1:4] == ["attack", "no defense", "low-loss"]
    assert rows(show(board, "--where", "attack=blend", "--columns", "asr_before").stdout)[0][0] in blend.split("|")[2]
    assert "Not run:" not in show(board, "--matrix", "auroc").stdout
    leaderboard.build(board)
    assert leaderboard.stale(board) == []
    text = readme(board)
    assert "- none: low-loss (seeds 0)" in text and "- sig rate=0.05: every defense (seeds 0-1)" in text
    assert text.count("\n### ") == 2  # of the attacks, and of the training set
    table = pd.read_csv(board / "table.csv").set_index(["attack", "defense"])
    assert table["not_run"].dropna().to_dict() == {("none", "low-loss"): "0", ("sig", "low-loss"): "0-1"}
    assert table["seeds"]["sig", "low-loss"] == 0 and np.isnan(table["ca_after"]["sig", "low-loss"])
    assert (board / "index.html").read_text().count("Not run: seeds") == 2


def test_a_defense_that_was_never_run_has_no_column(board: Path) -> None:
    for record in (board / "records").glob("*low-loss*.json"):
        record.unlink()
    heading, *_, blank, last = show(board, "--matrix", "auroc").stdout.splitlines()
    assert [cell.strip() for cell in heading.split("|")] == ["", "attack", "random", "spectral", ""]
    assert (blank, last) == ("", "Not run: low-loss.")


def test_why_a_defense_does_not_apply_is_said_in_place_of_not_run(board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bdbench.registry.plugins import installed

    sig = type(installed().component("attack", "sig"))
    monkeypatch.setattr(sig, "trains", True)
    leaderboard.build(board)
    text = readme(board)
    assert "- sig rate=0.05: every defense (does not apply: the attacker trains the model)" in text
    matrix = show(board, "--matrix", "auroc").stdout.splitlines()[-1]
    assert "the attacker trains the model" in matrix
    table = pd.read_csv(board / "table.csv").set_index(["attack", "defense"])
    assert table["not_applicable"]["sig", "low-loss"] == "the attacker trains the model"
    assert pd.isna(table["not_run"]["sig", "low-loss"])
    assert "Does not apply: the attacker trains the model." in (board / "index.html").read_text()


def test_what_other_code_made_is_said_and_changes_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_board(tmp_path / "board")
    leaderboard.build(folder)
    assert build(folder, "--check").stderr == "" and show(folder).stderr == ""
    before = leaderboard.render(folder)
    from bdbench.components import sources
    from bdbench.registry.plugins import installed

    spectral, code = type(installed().component("defense", "spectral")), sources.own_code
    monkeypatch.setattr(sources, "own_code", lambda c: "changed" if c is spectral else code(c))
    assert leaderboard.render(folder) == before
    for result in (build(folder, "--check"), show(folder)):
        assert result.exit_code == 0
        assert len(result.stderr.splitlines()) == 2
        assert re.search(r"stale: .*blend.*spectral.*seeds 0-2 were made by other code of the defense", result.stderr)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--where", "attack=blnd"], "unknown attack 'blnd'"),
        (["--where", "rate=1"], "unknown condition 'rate=1'"),
        (["--sort", "auorc"], "unknown column 'auorc': did you mean 'auroc'"),
        (["--sort", "attack"], "unknown number 'attack': known: "),
        (["--columns", "attack,auorc"], "unknown column 'auorc'"),
        (["--matrix", "auorc"], "unknown column 'auorc'"),
        (["--matrix", "auroc", "--csv"], "--csv and --matrix are both given: expected either"),
        (["--matrix", "auroc", "--columns", "attack"], "--matrix and --columns are both given"),
        (["--csv", "--columns", "attack"], "--csv and --columns are both given"),
        (["--csv", "--by", "attack"], "--csv and --by are both given"),
    ],
)
def test_a_part_that_is_not_there_is_one_line(board: Path, options: list[str], message: str) -> None:
    result = show(board, *options)
    assert result.exit_code == 2 and message in result.stderr and len(result.stderr.splitlines()) == 1


_NOTED = """\
datasets = ["digits"]
models = ["convnet:width=4"]
attacks = ["none", "badnets", "sig:frequency=2"]
defenses = ["none"]
seeds = "0-2"
[[notes]]
attack = "badnets:rate=.050"
text = "It works."
[[notes]]
attack = "sig"
dataset = "digits"
text = "Not here."
"""


def test_attacks_have_a_table_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text(_NOTED)
    shown = {"psnr": 30.0, "ssim": 0.9, "largest_change": 255}
    seconds = {"seconds": {"victim": 2.0, "craft": 65.0, "poison": 0.012}, "models_trained": 0, "peak_memory_mb": 1.0}
    none = {"defense": {"name": "none"}}
    for seed in range(3):
        keep(tmp_path, made(seed, stage="repair", parts=none, before=(0.95, 0.9), stealth=shown, cost=seconds))
        keep(tmp_path, made(seed, stage="repair", parts=none, control=True, before=(0.97, None)))
    build(tmp_path)
    text = readme(tmp_path)
    # There is nothing to compare, so no table of repairs.
    assert "## Attacks" in text and "## Repair" not in text and "## Overall" not in text
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    header, _, badnets = table[:3]
    assert header == [
        "attack", "seeds", "ASR before", "CA before", "CA, clean model", "PSNR dB", "SSIM", "largest change",
        "seconds to craft", "to poison",
    ]  # fmt: skip
    numbers = dict(zip(header, badnets, strict=True))
    assert numbers["attack"].startswith("badnets") and numbers["seeds"] == "3"
    assert (numbers["PSNR dB"], numbers["SSIM"], numbers["largest change"]) == (
        "30.0 ± 0.0",
        "0.900 ± 0.000",
        "255 ± 0",
    )
    assert (numbers["seconds to craft"], numbers["to poison"]) == ("65", "0.012")
    assert numbers["CA, clean model"].startswith("97.0") and numbers["ASR before"].startswith("90.0")
    assert f"- {numbers['attack']}: It works." in text and "Not here" not in text
    assert "seeds 0-2" in text  # of sig, which nobody ran
    assert "<h2>Attacks</h2>" in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize(
    ("note", "message"),
    [
        ('attack = "blend"\ntext = "x"', "unknown attack in .*grid.toml 'blend'"),
        ('attack = "sig"\ndataset = "mnist"\ntext = "x"', "unknown dataset in .*grid.toml 'mnist'"),
        ('attack = "sig"', "is no note: expected attack, text, and dataset"),
    ],
)
def test_a_note_on_nothing_is_refused(tmp_path: Path, note: str, message: str) -> None:
    (tmp_path / "grid.toml").write_text(_NOTED + f"[[notes]]\n{note}\n")
    keep(tmp_path, made(0))
    result = build(tmp_path)
    assert result.exit_code == 2 and re.search(message, result.output)


@pytest.mark.parametrize("ulps", [-1, 0, 1])
def test_which_way_a_half_goes_is_no_matter_of_the_last_digit(ulps: int) -> None:
    value = 1176.5 + ulps * np.spacing(1176.5)
    assert views._rounded(value, 0) == "1176"
    assert views._rounded(float("nan"), 0) == "-"


def test_where_nobody_defends_the_attacks_are_shown(tmp_path: Path) -> None:
    none = defense("none")
    keep(tmp_path, made(stage="repair", parts=none), made(stage="repair", parts={**none, **attack("blend")}))
    text = show(tmp_path).stdout
    assert text.startswith("| ") and [
        row[0] for row in rows(show(tmp_path, "--columns", "attack,asr_before").stdout)
    ] == [
        "badnets rate=0.05",
        "blend",
    ]
    by = show(tmp_path, "--by", "attack").stdout
    assert re.findall("^## (.*)", by, re.M) == ["badnets rate=0.05", "blend"]
    refused = show(tmp_path, "--matrix", "asr_before", "--by", "attack")
    assert refused.exit_code == 2 and "--matrix and --by are both given" in refused.stderr


def test_a_matrix_is_not_sorted(board: Path) -> None:
    refused = show(board, "--matrix", "auroc", "--sort", "auroc")
    assert refused.exit_code == 2 and "--matrix and --sort are both given: expected either" in refused.stderr


def _table(folder: Path, *records: dict[str, Any]) -> pd.DataFrame:
    """All rows of a board of these records."""
    keep(folder, *records)
    return coverage.covered(summarise(leaderboard.load(folder)), Board.read(folder))


def test_the_best_of_one_number_is_not_that_of_another_whose_name_is_in_its_own(tmp_path: Path) -> None:
    table = _table(tmp_path, made(0), made(1)).assign(best="flagged_asr_after")
    shown = views.displayed(table, "**{}**")
    assert not shown["asr_after"].str.contains(r"\*\*").any() and shown["reserve"].tolist() == ["5 %"]


def test_of_an_attack_the_row_with_most_seeds_is_shown(tmp_path: Path) -> None:
    many = [made(s, parts=defense("many"), before=(0.96, 0.9)) for s in range(5)]
    few = [made(s, parts=defense("few"), before=(0.96, 0.7)) for s in range(2)]
    table = _table(tmp_path, *few, *many)
    assert views.attacks(table)["asr_before"].tolist() == [pytest.approx(0.9)]


def test_controls_are_not_greyed(tmp_path: Path) -> None:
    weak = [made(s, before=(0.96, 0.1), asr=0.1) for s in range(3)]
    table = _table(tmp_path, *weak, *[made(s, control=True) for s in range(3)])
    shown = views.greyed(views.displayed(table), "({})").set_index("attack")
    assert shown["ca_after"].str.startswith("(").to_dict() == {"badnets rate=0.05": True, "none": False}
