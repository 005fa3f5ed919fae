"""What makes a cell, and the command that makes it again."""

from __future__ import annotations

from bdbench.components import configs
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
