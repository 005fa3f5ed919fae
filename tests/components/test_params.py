from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bdbench import BdbenchError
from bdbench.components import configs, params
from bdbench.components.interfaces import Component
from bdbench.components.params import param
from bdbench.registry.plugins import installed


@dataclass(frozen=True, kw_only=True)
class Thing(Component):
    name = "thing"
    kind = "attack"
    share: float = param(0.5, help="a share", low=0, high=1, exclusive=True)
    count: int = param(3, help="a count", low=1)
    flag: bool = param(True, help="a flag")
    limit: int | None = param(None, help="a limit", low=1)
    mode: Literal["one", "two"] = param("one", help="a mode")
    sizes: tuple[float, ...] = param((0.1, 0.2), help="sizes", low=0, high=1)


def test_spec_is_split_and_parsed_by_type() -> None:
    name, values = params.parse_spec("thing:share=0.25,count=7,flag=no,limit=none,mode=two,sizes=0.3+0.4")
    thing = params.make(Thing, "attack", values)
    assert name == "thing"
    assert thing == Thing(share=0.25, count=7, flag=False, limit=None, mode="two", sizes=(0.3, 0.4))


def test_python_values_are_taken_as_they_are_but_lists_and_ints() -> None:
    thing = params.make(Thing, "attack", {"sizes": [0.5], "count": 2, "limit": 4})
    assert thing.sizes == (0.5,)
    assert thing.limit == 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"share": "1"}, r"attack 'thing': share=1.0 is not allowed: expected float in \(0, 1\)"),
        ({"share": "x"}, r"attack 'thing': share=x is not allowed: expected float in \(0, 1\)"),
        ({"share": "nan"}, "share=nan is not allowed"),
        ({"count": "0"}, "count=0 is not allowed: expected int >= 1"),
        ({"count": "1.5"}, "count=1.5 is not allowed: expected int >= 1"),
        ({"flag": "maybe"}, "flag=maybe is not allowed: expected bool"),
        ({"mode": "three"}, r"mode=three is not allowed: expected one\|two"),
        ({"sizes": "0.1+2"}, r"sizes=0.1\+2.0 is not allowed"),
        ({"shear": "1"}, "unknown parameter of attack 'thing' 'shear': did you mean 'share'"),
    ],
)
def test_bad_values_are_named_with_what_is_allowed(values: dict[str, str], message: str) -> None:
    with pytest.raises(BdbenchError, match=message):
        params.make(Thing, "attack", values)


def test_a_component_made_in_python_is_checked_too() -> None:
    with pytest.raises(BdbenchError, match="count=0"):
        Thing(count=0)
    with pytest.raises(BdbenchError, match="count=True"):
        Thing(count=True)


@pytest.mark.parametrize("spec", ["thing:share", "thing:=3"])
def test_a_spec_without_equals_is_refused(spec: str) -> None:
    with pytest.raises(BdbenchError, match="expected name:parameter=value"):
        params.parse_spec(spec)


def test_a_parameter_given_twice_is_refused() -> None:
    with pytest.raises(BdbenchError, match="given twice"):
        params.parse_spec("thing:count=1,count=2")


@given(
    share=st.floats(0.01, 0.99),
    count=st.integers(1, 10**9),
    limit=st.none() | st.integers(1, 100),
    sizes=st.lists(st.floats(0, 1), min_size=1).map(tuple),
)
def test_what_is_written_is_read_back(share: float, count: int, limit: int | None, sizes: tuple[float, ...]) -> None:
    thing = Thing(share=share, count=count, limit=limit, sizes=sizes)
    text = f"thing:share={share!r},count={count},limit={limit},sizes={'+'.join(map(repr, sizes))}"
    # Exponents such as 1e+20 would be cut at the plus; none occur in [0, 1].
    assert params.make(Thing, "attack", params.parse_spec(text)[1]) == thing


@pytest.mark.parametrize(
    ("text", "separator", "parts"),
    [
        ("a=1,b=2", ",", ["a=1", "b=2"]),
        ("a=[x:c=1,d=2]+[y],b=2", ",", ["a=[x:c=1,d=2]+[y]", "b=2"]),
        ("[x:c=[y:d=1]+z]+w", "+", ["[x:c=[y:d=1]+z]", "w"]),
        ("a=p[1.png,b=2", ",", ["a=p[1.png", "b=2"]),
        ("a=p]1[.png,b=2", ",", ["a=p]1[.png", "b=2"]),
        ("", ",", [""]),
    ],
)
def test_brackets_hold_together_unless_they_are_not_closed(text: str, separator: str, parts: list[str]) -> None:
    assert params.split(text, separator) == parts


def test_describe_names_types_defaults_and_limits() -> None:
    described = {p.name: p for p in params.describe(Thing)}
    assert described["share"].type == "float"
    assert described["share"].allowed == "float in (0, 1)"
    assert described["limit"].type == "int|none"
    assert described["mode"].allowed == "one|two"
    assert described["count"].default == 3


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_a_class_is_found_in_either_form_of_unicode(forms: tuple[Any, Any]) -> None:
    asked, held = (unicodedata.normalize(form, "caf\u00e9") for form in forms)
    attack = installed().component("attack", f"badnets:target={asked}")
    assert params.with_labels(attack, ("tea", held)).target == 1
    # Where a folder has both, the one that is meant exactly.
    assert params.with_labels(attack, (unicodedata.normalize(forms[1], "cafe"), asked, held)).target == 1


def test_none_is_none_for_a_text_as_well() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Deep(Component):
        name = "deep"
        kind = "attack"
        depth: str | None = param("full", help="a depth")

    made = params.make(Deep, "attack", {"depth": "none"})
    assert made.depth is None and params.make(Deep, "attack", {"depth": "x"}).depth == "x"
    # And comes back from what it is written as.
    name, values = params.parse_spec(configs.short_spec(made))
    assert name == "deep" and params.make(Deep, "attack", values) == made


def test_a_short_spec_leaves_out_the_defaults_of_what_a_component_is_made_of() -> None:
    made = installed().component("defense", "unlearn:detector=spectral")
    assert configs.short_spec(made) == "unlearn:detector=spectral"
    asked = "unlearn:detector=[spectral:oracle=True],share=0.1"
    made = installed().component("defense", asked)
    assert configs.short_spec(made) == asked and installed().component("defense", configs.short_spec(made)) == made
