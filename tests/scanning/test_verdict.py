from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bdbench.progress import quiet
from bdbench.scanning import given as giving
from bdbench.scanning import reading, verdict
from bdbench.scanning.detecting import Said
from bdbench.scanning.reading import Odd
from bdbench.seeds import Streams
from tests.scanning.conftest import Patch, Ranks, arrays


@pytest.fixture(scope="module")
def found() -> reading.Read:
    listing = giving.of_object(arrays())
    return reading.read(listing, size=None, subset=None, strict=False, streams=Streams(0), track=quiet)


def says(found: reading.Read, p_value: float | None, count: int | None, **more: object) -> Said:
    """What a detector says that marks the first so many images."""
    n = len(found.labels)
    flagged = None if count is None else np.arange(n) < count
    return replace(Said(Patch(), np.linspace(1, 0, n), flagged, p_value), **more)


@pytest.mark.parametrize(
    ("p_value", "count", "outcome"),
    [
        (0.01, 5, "found"),
        (0.05, 5, "found"),
        (0.06, 5, "cannot tell"),  # clean sets look like this too often
        (0.6, 0, "nothing found"),
        (0.01, 0, "cannot tell"),  # suspicious, and it does not say what
        (None, 5, "cannot tell"),
        (None, 0, "cannot tell"),
        (0.001, None, "cannot tell"),
        (None, None, "cannot tell"),
    ],
)
def test_one_detector(found: reading.Read, p_value: float | None, count: int | None, outcome: str) -> None:
    made = verdict.judge(found, [says(found, p_value, count)])
    assert made.outcome == outcome
    assert made.sentence.startswith(outcome.capitalize()) and "\n" not in made.sentence


def test_several_detectors_pay_for_their_number(found: reading.Read) -> None:
    strong, weak, nothing = says(found, 0.001, 5), says(found, 0.03, 5), says(found, 0.6, 0)
    ranking = replace(says(found, None, None), detector=Ranks())
    assert verdict.judge(found, [weak, nothing]).outcome == "cannot tell"  # 0.06 of two
    made = verdict.judge(found, [strong, nothing, ranking])
    assert made.outcome == "found" and made.p_value == pytest.approx(0.002)
    assert verdict.judge(found, [nothing, ranking]).outcome == "nothing found"
    failed = replace(ranking, error="it broke")
    assert verdict.judge(found, [strong, failed]).outcome == "found"
    made = verdict.judge(found, [nothing, failed])
    assert made.outcome == "cannot tell" and "it broke" in made.sentence


def test_the_sentence_says_what_was_found(found: reading.Read) -> None:
    made = verdict.judge(found, [says(found, 0.01, 9)])
    counts = np.bincount(found.labels[:9], minlength=3)
    assert made.classes == {found.classes[i]: int(counts[i]) for i in range(3) if counts[i]}
    for part in ("9 suspicious images", "p = 0.01", "one clean set in 100", *map(repr, made.classes)):
        assert part in made.sentence


def test_agreement_is_of_those_that_mark(found: reading.Read) -> None:
    one, other = says(found, 0.01, 8), replace(says(found, None, 4), detector=Ranks())
    assert verdict.agreement(found, [one, other, says(found, None, None)]) == [("patch", "ranks", 4, 8)]


def test_nothing_found_in_haste_says_so(found: reading.Read) -> None:
    said = [says(found, 0.5, 0, models_trained=25, usual=100), says(found, 0.5, 0, models_trained=7, usual=None)]
    assert verdict.judge(found, said).sentence == (
        "Nothing found in 60 images of 3 classes in the time there was (patch with 25 % of its usual networks): "
        "of clean sets 100 % look at least as suspicious."
    )


def test_limits_name_what_was_not_looked_at(found: reading.Read) -> None:
    hasty = says(found, 0.5, 0, models_trained=25, usual=100)
    skipped = [Odd("a.avif", "files that are no images by their names"), Odd("labels.csv", "files beside the folders")]
    skipped += [Odd("b.png", "broken", unread=True), Odd("more", "nested folders")]
    seen = replace(
        found,
        small={"rare": 3},
        unjudged=np.arange(200),
        left_out=np.arange(7),
        shrunk=5,
        longest=640,
        skipped=tuple(skipped),
    )
    told = "\n".join(verdict.limits(seen, [hasty]))
    for part in (
        "white corner",
        "25 networks",
        "2.0 times as noisy",
        "Not judged: 1 class of fewer than 8 different images (200 images)",
        "Left out by --subset: 7 images",
        "5 images of up to 640 pixels a side were brought to 16: a trigger smaller than about 80 of their pixels",
        "Left out: 3 files or folders,",
    ):
        assert part in told
    calm = "\n".join(verdict.limits(found, [says(found, 0.5, 0, models_trained=100, usual=100)]))
    assert "noisy" not in calm and "--size" not in calm and "Left out" not in calm


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.none() | st.floats(0, 1), st.none() | st.integers(0, 30), st.booleans()), min_size=1, max_size=4
    )
)
def test_only_who_says_how_often_and_which_can_find(
    found: reading.Read, detectors: list[tuple[float | None, int | None, bool]]
) -> None:
    said = [says(found, p, count, error="broke" if broken else None) for p, count, broken in detectors]
    made = verdict.judge(found, said)
    able = [one for one in said if verdict.decides(one)]
    if made.outcome == "found":
        assert any(one.flagged.any() and one.p_value * len(able) <= verdict.LEVEL for one in able)  # type: ignore
        assert made.flagged.any() and made.classes
    elif made.outcome == "nothing found":
        assert able and not made.flagged.any()
    assert sum(made.classes.values()) == made.flagged.sum()
    assert made.p_value is None or 0 <= made.p_value <= 1
