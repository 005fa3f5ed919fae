from __future__ import annotations

import ast
import functools
import importlib
import sys
from collections.abc import Callable
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bdbench.components import sources
from bdbench.storage import files
from bdbench_baselines.random import Random


def test_edited_code_is_another_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "from dataclasses import dataclass\nimport bdbench\n@dataclass(frozen=True, kw_only=True)\n"
        "class D(bdbench.Detector):\n    name = 'd'\n    def score(self, view, tools): return view.labels * %d.0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "edited_plugin.py").write_text(text % 1)
    import edited_plugin

    before = sources.code_of(edited_plugin.D())
    sources._sources.cache_clear()
    assert sources.code_of(edited_plugin.D()) == before
    (tmp_path / "edited_plugin.py").write_text(text % 2)
    sources._sources.cache_clear()
    after = sources.code_of(edited_plugin.D())
    assert {k for k in after if after[k] != before[k]} == {"edited_plugin.D"}


def test_another_library_is_another_code(monkeypatch: pytest.MonkeyPatch) -> None:
    component = Random()
    before = sources.code_of(component)
    assert {"torch", "numpy", "scipy", "scikit-learn", "numba"} <= before.keys()
    sources.library_versions.cache_clear()
    monkeypatch.setattr(metadata, "version", lambda name: {"scikit-learn": "0.1"}.get(name, before.get(name)))
    try:
        after = sources.code_of(component)
    finally:
        sources.library_versions.cache_clear()
    assert {k for k in after if after[k] != before[k]} == {"scikit-learn"}


def test_a_piece_is_made_by_the_code_it_runs_and_not_by_that_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def code(edited: str | None = None) -> str:
        if edited:
            (package / edited).write_text((package / edited).read_text() + "\n# edited\n")
        sources._reached.cache_clear()
        return sources.code_behind(functools.partial(pieces.Maker().make, 0))

    package = tmp_path / "pieces_plugin"
    (package / "nets").mkdir(parents=True)
    files = {
        "__init__.py": "def hook():\n    from pieces_plugin import detector",
        "detector.py": "from pieces_plugin import pieces, ranking",
        "ranking.py": "",
        "pieces.py": "from typing import TYPE_CHECKING\nimport numpy\nfrom pieces_plugin.nets import mlp\n"
        "if TYPE_CHECKING:\n    from pieces_plugin import detector\n"
        "class Maker:\n    def make(self, index):\n        from .recipe import EPOCHS\n"
        "        from costly_backend import networks",
        "recipe.py": "EPOCHS = 1",
        "nets/__init__.py": "",
        "nets/mlp.py": "import pieces_plugin.nets.layers",
        "nets/layers.py": "",
    }
    for name, text in files.items():
        (package / name).write_text(text)
    (tmp_path / "costly_backend").mkdir()
    (tmp_path / "costly_backend" / "__init__.py").write_text("raise RuntimeError('imported only to look for it')")
    monkeypatch.syspath_prepend(tmp_path)
    from pieces_plugin import pieces

    first = code()
    assert [code(name) for name in ("__init__.py", "detector.py", "ranking.py", "nets/__init__.py")] == [first] * 4
    codes = [first, *map(code, ("pieces.py", "recipe.py", "nets/mlp.py", "nets/layers.py"))]
    assert len(set(codes)) == len(codes)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Writes the files of a package of its own and imports one of its modules."""

    def write(module: str, **files: str) -> Any:
        folder = tmp_path / f"package_{tmp_path.name}"
        folder.mkdir(exist_ok=True)
        for name, text in {"__init__": "", **files}.items():
            (folder / f"{name}.py").write_text(text.replace("PKG", folder.name))
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()
        return importlib.import_module(f"{folder.name}.{module}")

    return write


def _code_after(file: str, made: Any, function: Callable[..., Any]) -> tuple[str, str]:
    """The code behind a function before and after an edit of a file beside its module."""
    codes = []
    for _ in range(2):
        sources._reached.cache_clear()
        codes.append(sources.code_behind(function))
        path = Path(made.__file__).with_name(file)
        path.write_bytes(path.read_bytes() + b"\n# edited\n")
    return codes[0], codes[1]


@pytest.mark.parametrize(
    "wrap", ["method", "partial", "function", "nested", "bound", "cached", "listed", "called", "decorated"]
)
def test_code_that_a_piece_is_handed_counts_as_its_own(package: Callable[..., Any], wrap: str) -> None:
    made = package(
        "own",
        base="class Base:\n    def make(self): return self.net()\ndef apply(net): return net()",
        own="from PKG.base import Base, apply\nfrom functools import cache\n"
        "class Own(Base):\n    def net(self): return 1\n    def __call__(self): return self.make()\n"
        "def net(): return 1\n@cache\ndef kept(): return 1\ndef around(function): return lambda: function()",
    )
    function = {
        "method": made.Own().make,
        "partial": functools.partial(made.Base.make, made.Own()),
        "function": functools.partial(made.apply, made.net),
        "nested": functools.partial(made.apply, functools.partial(made.net)),
        "bound": functools.partial(made.apply, net=made.Own().net),
        "cached": functools.partial(made.apply, made.kept),
        "listed": functools.partial(made.apply, [made.net]),
        "called": made.Own(),
        "decorated": functools.wraps(made.Base.make)(made.around(made.apply)),
    }[wrap]
    for file in ("own.py", "base.py"):
        first, second = _code_after(file, made, function)
        assert first != second
    # What a piece only reads does not make it other code, whoever wrote its class.
    held = functools.partial(function, np.zeros(3), torch.nn.Linear(2, 2), torch.nn.functional.relu)
    assert sources.code_behind(held) == sources.code_behind(function)


def test_what_is_compiled_or_missing_or_breaks_when_imported_is_no_obstacle(package: Callable[..., Any]) -> None:
    made = package(
        "own",
        broken="raise OSError('no device here')",
        own="def make():\n    from . import compiled\n    from PKG.broken import kernel\n"
        "    from PKG._version import version\n    import PKG.absent.deeper",
    )
    library = Path(made.__file__).with_name("compiled" + EXTENSION_SUFFIXES[0])
    library.write_bytes(b"\x7fELF\0\0")
    for file in (library.name, "broken.py", "own.py"):
        first, second = _code_after(file, made, made.make)
        assert first != second and "session" not in first
    assert f"{made.__package__}.broken" not in sys.modules


@pytest.mark.parametrize(
    ("head", "counts"),
    [
        ("if TYPE_CHECKING:\n    from PKG import other", False),
        ("import typing\nif typing.TYPE_CHECKING:\n    from PKG import other", False),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    from PKG import other", True),
        ("if not TYPE_CHECKING:\n    from PKG import other", True),
    ],
)
def test_what_only_type_checkers_read_does_not_count(package: Callable[..., Any], head: str, counts: bool) -> None:
    made = package("own", other="", own=f"from typing import TYPE_CHECKING\n{head}\ndef make(): pass")
    first, second = _code_after("other.py", made, made.make)
    assert (first != second) == counts


def test_a_session_has_no_code_that_lasts() -> None:
    namespace: dict[str, Any] = {"__name__": "typed_in_a_session"}
    exec("def make(): pass", namespace)
    assert sources.code_behind(namespace["make"]).startswith("session")
    assert not sources.code_behind({}.copy).startswith("session")


def test_own_code_is_what_the_code_says_and_not_how_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records know by it what they were made by, for years: no comment, docstring or line break may make one stale."""
    package = tmp_path / "said"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    head = "from bdbench import Detector\nfrom said.helper import half\n"

    def code(body: str, helper: str = "def half(x):\n    return x / 2\n", before: str = "") -> str:
        (package / "part.py").write_text(f"{before}{head}{body}")
        (package / "helper.py").write_text(helper)
        for name in [name for name in sys.modules if name.partition(".")[0] == "said"]:
            del sys.modules[name]
        sources._said_by.cache_clear()
        importlib.invalidate_caches()
        return sources.own_code(importlib.import_module("said.part").Part)

    plain = "class Part:\n    def score(self, view):\n        return half(3) + 0\n"
    first = code(plain)
    dressed = (
        'class Part:\n    """A class."""\n    # why\n    def score(self,\n              view):\n'
        '        """A method."""\n        return (half(3) + 0)\n'
    )
    assert code(dressed, before='"""A module."""\n') == first
    assert code(plain.replace("3", "4")) != first
    assert code(plain.replace("+ 0", "+ False")) != first
    assert code(plain, helper="def half(x):\n    return x / 3\n") != first
    assert code(plain) == first


def test_own_code_of_what_is_in_no_file_is_none() -> None:
    made = type("Made", (), {"__module__": "nowhere"})
    assert sources.own_code(made) == ""


def test_bases_from_other_packages_are_part_of_what_a_component_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = {
        "base_plugin": "from bdbench import Detector\nclass Base(Detector):\n    score = lambda self, view, tools: %d",
        "derived_plugin": "from base_plugin import Base\nclass Derived(Base):\n    name = 'derived'",
    }
    monkeypatch.syspath_prepend(tmp_path)

    def codes(number: int) -> tuple[str, dict[str, str]]:
        (tmp_path / "base_plugin.py").write_text(text["base_plugin"] % number)
        (tmp_path / "derived_plugin.py").write_text(text["derived_plugin"])
        for name in text:
            sys.modules.pop(name, None)
        for cache in (sources._sources, sources._said_by):
            cache.cache_clear()
        importlib.invalidate_caches()
        derived = importlib.import_module("derived_plugin").Derived
        return sources.own_code(derived), sources.code_of(derived.__new__(derived))

    first, second = codes(1), codes(22)
    assert first[0] != second[0]
    assert {k for k in first[1] if first[1][k] != second[1][k]} == {"base_plugin"}
    assert codes(1) == first


def test_plugin_objects_in_a_partial_of_our_own_function_count(package: Callable[..., Any]) -> None:
    made = package("held", held="class Held:\n    pass\n")
    before, after = _code_after("held.py", made, functools.partial(files.digest_of, made.Held()))
    assert before != after


def test_a_class_defined_again_in_a_session_is_another() -> None:
    namespace: dict[str, Any] = {"__name__": "typed_again_in_a_session"}
    component = type("Typed", (Random,), {"__module__": namespace["__name__"]})()
    assert sources.code_of(component) != sources.code_of(component)


def test_what_only_tells_or_bounds_time_is_no_part_of_what_a_row_was_made_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = (
        "from dataclasses import dataclass\nimport bdbench\n_LEVEL = 1.0\n@dataclass(frozen=True, kw_only=True)\n"
        "class D(bdbench.ModelDetector):\n    name = 'd'\n"
        "    def inspect(self, tools): return bdbench.Verdict(self._level())\n    def _level(self): return _LEVEL\n"
    )
    timed = (
        plain.replace("import dataclass\n", "import dataclass, replace\nimport functools\n")
        .replace("_LEVEL = 1.0\n", "_LEVEL = 1.0\n_FEWEST, _USUAL = 3, 4\n")
        .replace(
            "    name = 'd'\n",
            "    name = 'd'\n    def pace(self, tools): return functools.partial(self._level), self._steps()\n",
        )
        + "    def within(self, share, tools): return replace(self) if share > _FEWEST else None\n"
        "    def _steps(self): return self._often()\n    def _often(self): return _USUAL\n"
    )
    # What the rest needs as well is a part of it, and whatever else is private stays.
    texts = [
        plain,
        timed,
        timed.replace("_LEVEL = 1.0", "_LEVEL = 2.0"),
        plain.replace("_LEVEL = 1.0", "_LEVEL = 1.0\n_OTHER = 1"),
    ]
    monkeypatch.syspath_prepend(tmp_path)
    codes = []
    for i, text in enumerate(texts):
        (tmp_path / f"timed_{i}.py").write_text(text)
        codes.append(sources._said(sources._results(ast.parse((tmp_path / f"timed_{i}.py").read_bytes()), {"D"})))
    assert codes[0] == codes[1] and len(set(codes)) == 3
    assert sources._said(ast.parse(timed)) != codes[1]
    # By a class of another name, or outside of it, the same words are code like any other.
    assert sources._said(sources._results(ast.parse(timed), {"E"})) == sources._said(ast.parse(timed))
    told = "def within(x): return x\n"
    assert sources._said(sources._results(ast.parse(plain + told), {"D"})) != codes[0]
    # A component's own: two files of one name, of which one has the methods.
    for folder, text in (
        ("one", plain),
        ("other", timed),
        ("third", timed.replace("(bdbench.ModelDetector)", "(bdbench.Detector)")),
    ):
        package = tmp_path / f"{folder}_pack"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "same.py").write_text(text)
    made = [sources.own_code(importlib.import_module(f"{f}_pack.same").D) for f in ("one", "other", "third")]
    assert made[0] == made[1] != made[2] and "" not in made
