from __future__ import annotations

import functools
from pathlib import Path

import pytest

from bdbench import sources


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
