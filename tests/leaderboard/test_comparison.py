from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from bdbench.cli import cli
from bdbench.leaderboard import intervals
from bdbench.storage import schemas
from tests.boards import of_version_1
from tests.records import defense, dumped, made


def written(folder: Path, name: str, aurocs: dict[int, float | None], **changes: Any) -> list[str]:
    """Record files of a defense with those AUROCs by seed."""
    return [
        str(dumped(made(seed, auroc=auroc, parts=defense(name), **changes), folder / f"{name}-{seed}.json"))
        for seed, auroc in aurocs.items()
    ]


def compare(*runs: str) -> Result:
    return CliRunner().invoke(cli, ["compare", *runs])


def differences(*runs: str) -> dict[str, dict[str, Any]]:
    """Of the second cell, by number."""
    found = json.loads(compare(*runs, "--json").stdout)
    return {d["number"]: d for d in found["cells"][0]["differences"]}


def test_differences_are_paired_by_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = written(tmp_path, "one", {0: 0.5, 1: 0.6, 2: 0.9, 7: 0.1}, facts={"poisons": 10**8, "train": 10**9})
    two = written(tmp_path, "two", {2: 0.92, 1: 0.61, 0: 0.53, 8: 0.2}, facts={"poisons": 10**8, "train": 10**9})
    found = json.loads(compare(*one, *two, "--json").stdout)
    assert found["baseline"] == "one" and [c["cell"] for c in found["cells"]] == ["two"]
    auroc = differences(*one, *two)["AUROC"]
    assert auroc["seeds"] == [0, 1, 2]
    apart = np.array([0.03, 0.01, 0.02])
    # Student's t with 2 degrees of freedom: 4.302653.
    half = 4.302653 * apart.std(ddof=1) / 3**0.5
    assert auroc["difference"] == pytest.approx(0.02)
    assert (auroc["low"], auroc["high"]) == pytest.approx((0.02 - half, 0.02 + half), rel=1e-5)
    assert (auroc["baseline"], auroc["mean"]) == pytest.approx((2.0 / 3, 2.06 / 3))
    monkeypatch.setenv("COLUMNS", "60")
    narrow = compare(*one, *two).stdout
    # Names go on in the next line; numbers are whole.
    assert "…" not in narrow and all(f"{row['difference']:+.3f}" in narrow for row in found["cells"][0]["differences"])
    monkeypatch.setenv("COLUMNS", "120")
    shown = compare(*one, *two)
    assert shown.exit_code == 0 and "+0.020" in shown.stdout and "differences from one" in shown.stdout


def test_seeds_that_agree_leave_the_doubt_of_the_examples(tmp_path: Path) -> None:
    one, two = (
        written(tmp_path, name, dict.fromkeys(range(3), 0.9), asr=asr) for name, asr in (("one", 0.0), ("two", 0.01))
    )
    found = differences(*one, *two)["ASR after"]
    half = np.hypot(intervals.reach(0.0, 3 * 360), intervals.reach(0.01, 3 * 360))
    assert (found["low"], found["high"]) == pytest.approx((0.01 - half, 0.01 + half))


def test_what_both_are_measured_against_falls_out_of_a_difference(tmp_path: Path) -> None:
    """As it does of ranks; where it is another one, as of two attacks, it is a part of what there is to doubt."""
    one, two = (
        written(tmp_path, name, dict.fromkeys(range(3), 0.9), asr=asr) for name, asr in (("one", 0.0), ("two", 0.04))
    )
    found = differences(*one, *two)["DER signed"]
    # Of 360 attacked rows, and 400 test images.
    each = [intervals.reach(rate, 3 * n) for rate, n in ((0.0, 360), (0.04, 360), (0.95, 400), (0.95, 400))]
    assert found["high"] - found["difference"] == pytest.approx(np.sqrt(np.square(each).sum()) / 2)
    assert found["high"] < 0
    other = written(tmp_path, "other", dict.fromkeys(range(3), 0.9), asr=0.04, before=(0.96, 0.98))
    wider = differences(*one, *other)["DER signed"]
    bases = [intervals.reach(rate, 3 * n) for rate, n in ((0.99, 360), (0.98, 360), (0.96, 400), (0.96, 400))]
    assert wider["high"] - wider["difference"] == pytest.approx(np.sqrt(np.square(each + bases).sum()) / 2)


def test_two_stages_have_no_difference_of_what_is_measured_against_two_models(tmp_path: Path) -> None:
    removal = written(tmp_path, "removal", dict.fromkeys(range(3), 0.9), asr=0.5)
    repair = [
        str(
            dumped(
                made(seed, stage="repair", asr=0.5, before=(0.96, 0.6), parts=defense("repair")),
                tmp_path / f"r{seed}.json",
            )
        )
        for seed in range(3)
    ]
    found = differences(*removal, *repair)
    assert found["ASR after"]["difference"] == 0 and not {"DER", "DER signed"} & set(found)


def test_what_one_of_a_pair_lacks_is_left_out(tmp_path: Path) -> None:
    one = written(tmp_path, "one", {0: 0.5, 1: None})
    two = written(tmp_path, "two", {0: 0.6, 1: 0.7})
    auroc = differences(*one, *two)["AUROC"]
    assert auroc["seeds"] == [0] and auroc["low"] is None


def test_cells_are_told_apart_by_what_they_were_made_of(tmp_path: Path) -> None:
    old = written(
        tmp_path / "old", "one", {0: 0.5, 1: 0.6}, config={"code": {"model": "", "attack": "", "defense": "x"}}
    )
    new = written(
        tmp_path / "new", "one", {0: 0.7, 1: 0.8}, config={"code": {"model": "", "attack": "", "defense": "y"}}
    )
    found = json.loads(compare(*old, *new, "--json").stdout)
    assert (found["baseline"], found["cells"][0]["cell"]) == ("one code=x", "one code=y")
    budgets = [written(tmp_path / str(b), "one", {0: 0.5}, config={"budget": b}) for b in (0.1, "auto")]
    found = json.loads(compare(*budgets[0], *budgets[1], "--json").stdout)
    assert (found["baseline"], found["cells"][0]["cell"]) == ("budget 0.1", "budget auto")


def test_what_cannot_be_compared_is_one_line(tmp_path: Path) -> None:
    one = written(tmp_path, "one", {0: 0.5, 1: 0.6})
    two = written(tmp_path, "two", {3: 0.5})
    other = written(tmp_path, "other", {0: 0.5}, facts={"source": "b" * 32})
    old = tmp_path / "old.json"
    old.write_text(schemas.dumps(of_version_1(made(parts=defense("old")))))
    for runs, message in (
        (one, "the runs differ in nothing but their seeds"),
        ([*one, *two], "two has seeds 3: expected one of 0, 1"),
        ([one[0], one[0], *two], "is given twice"),
        ([*one, *other], "of other data (source bbbbbbbb) than"),
        ([*one, str(old)], "is of version 1 of the definitions"),
        (["nowhere"], "no record at runs/nowhere"),
    ):
        result = compare(*runs)
        assert result.exit_code == 2 and message in result.stderr and len(result.stderr.splitlines()) == 1


def test_records_of_the_first_version_still_compare_with_each_other(tmp_path: Path) -> None:
    runs = [
        str(dumped(of_version_1(made(seed, auroc=auroc, parts=defense(name))), tmp_path / f"{name}-{seed}.json"))
        for name, auroc in (("one", 0.5), ("two", 0.7))
        for seed in range(3)
    ]
    assert differences(*runs)["AUROC"]["difference"] == pytest.approx(0.2)


def test_two_seeds_have_students_interval(tmp_path: Path) -> None:
    many = {"poisons": 10**8, "train": 10**9}
    one, two = (
        written(tmp_path, n, a, facts=many) for n, a in (("one", {0: 0.5, 1: 0.5}), ("two", {0: 0.52, 1: 0.54}))
    )
    found = differences(*one, *two)["AUROC"]
    half = 12.7062 * 0.01
    assert (found["difference"], found["low"], found["high"]) == pytest.approx(
        (0.03, 0.03 - half, 0.03 + half), rel=1e-4
    )
