"""What makes a cell, and the command that makes it again."""

from __future__ import annotations

from bdbench.components import configs
from bdbench.registry.plugins import installed
from bdbench_triggers.adaptive_blend import AdaptiveBlend
from bdbench_triggers.blend import Blend
from tests.records import made


def test_a_reserve_is_part_of_a_cell() -> None:
    own = made(config={"reserve": 0.2})["config"]
    cell = configs.cell_of(own)
    assert (cell["reserve"], cell["budget"], cell["attack"]["name"]) == (0.2, 0.1, "badnets")
    assert cell != configs.cell_of(made()["config"]) and configs.cell_of({**own, "code": {}}) == cell


def test_the_command_of_a_record_says_all_that_makes_its_cell() -> None:
    words = configs.command(made(config={"reserve": 0.2, "budget": 0.25})["config"], 3).split()
    assert words[:2] == ["bdbench", "run"]
    told = dict(zip(words[2::2], words[3::2], strict=True))
    assert told == {
        "--dataset": "digits",
        "--model": "convnet:width=4",
        "--attack": "badnets:rate=0.05,target=0",
        "--defense": "random",
        "--budget": "0.25",
        "--seed": "3",
        "--reserve": "0.2",
    }


def test_a_parameter_that_is_set_to_none_is_told_from_one_that_is_left_at_its_default() -> None:
    asked = AdaptiveBlend(test_alpha=None)
    assert configs.spec(AdaptiveBlend().config()).count("test_alpha=0.2") == 1
    assert configs.spec(asked.config()).count("test_alpha=none") == 1
    for one in (asked.config(), configs.spec(asked.config())):  # from a record, and from its command
        assert installed().component("attack", one) == asked
    # What is None by default is still not said.
    assert "test_alpha" not in configs.spec(Blend().config()) and Blend().config()["test_alpha"] is None
