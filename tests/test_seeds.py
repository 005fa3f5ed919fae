from __future__ import annotations

import numpy as np

from bdbench import Streams


def test_streams_are_pinned() -> None:
    # If these change, every published number changes: they are part of the record format.
    assert Streams(0)("choice").integers(0, 1000, 3).tolist() == [895, 127, 101]
    assert Streams(0).integer("victim") == 7522230218604649093


def test_a_name_gives_the_same_numbers_each_time() -> None:
    streams = Streams(7)
    assert np.array_equal(streams("a").random(5), streams("a").random(5))


def test_names_children_and_seeds_differ() -> None:
    firsts = [
        s.random()
        for s in (
            Streams(0)("a"),
            Streams(0)("b"),
            Streams(1)("a"),
            Streams(0).child("a")("a"),
            Streams(0).child("x")("a"),
            Streams(0).child("a")("x"),
            # The names one after another are the same.
            Streams(0).child("a")("bc"),
            Streams(0).child("ab")("c"),
            Streams(0)("abc"),
        )
    ]
    assert len(set(firsts)) == len(firsts)


def test_a_stream_does_not_depend_on_what_was_drawn_before() -> None:
    streams = Streams(3)
    expected = streams("late").random()
    streams("early").random(1000)
    streams.integer("other")
    assert streams("late").random() == expected
