from __future__ import annotations

from typing import Any

import pytest

import bdbench
from bdbench.display.pictures import rendered
from bdbench.registry.plugins import installed


@pytest.mark.parametrize(
    ("defense", "title", "images"),
    [
        ("neural-cleanse:rounds=20", "Reversed triggers", 20),
        ("mm-bd:steps=5,images=3", "Images of the largest margin", 10),
        ("bti-dbf:mask_steps=3,steps=3,width=4", "Generated triggers", 16),
        ("feature-re:warm_up=1,passes=2,width=2", "Images that a few features send to a label", 20),
    ],
)
def test_the_report_shows_what_was_reversed(tiny: dict[str, Any], defense: str, title: str, images: int) -> None:
    record = bdbench.run(defense=defense, **tiny)
    made = installed().collect("bdbench_report_sections", run=bdbench.reopen(tiny["out"] / record.id, device="cpu"))
    assert [section.title for section in made] == [title]
    shown = [axis for axis in made[0].figure.axes if axis.images]
    assert len(shown) == images
    assert rendered(made[0].figure).startswith(b"\x89PNG")


def test_other_runs_have_no_such_section(tiny: dict[str, Any]) -> None:
    record = bdbench.run(defense="strip:overlays=3", **tiny)
    assert not installed().collect("bdbench_report_sections", run=bdbench.reopen(tiny["out"] / record.id, device="cpu"))
