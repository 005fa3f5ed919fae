"""No module, imported, needs itself: circles inside a room, which the contracts between rooms do not see."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1]
PACKAGES = [
    HOUSE / "bdbench",
    *sorted(path for path in (HOUSE / "plugins").iterdir() if (path / "__init__.py").exists()),
]


def imports(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Those that run when the module is imported: not a function's, and not what only type checkers see."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from imports(ast.Module(node.orelse, []))
        else:
            yield from imports(node)


def graph(folder: Path) -> dict[str, set[str]]:
    """Each module of a package, and those of it that it needs; packages inside count as their __init__."""

    def name(path: Path) -> str:
        parts = path.relative_to(folder.parent).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    modules = {name(path): path for path in folder.rglob("*.py")}
    needed: dict[str, set[str]] = {}
    for module, path in modules.items():
        found = needed.setdefault(module, set())
        for node in imports(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            else:
                assert not node.level, f"{path} imports relatively"
                submodules = {f"{node.module}.{alias.name}" for alias in node.names}
                found.update(submodules & modules.keys() or {str(node.module)})
        found.intersection_update(modules)
        found.discard(module)
    return needed


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda path: path.name)
def test_no_module_needs_itself(folder: Path) -> None:
    modules = graph(folder)
    assert len(modules) > 3
    graphlib.TopologicalSorter(modules).prepare()


def test_a_circle_would_be_seen(tmp_path: Path) -> None:
    house = tmp_path / "house"
    house.mkdir()
    (house / "__init__.py").write_text("")
    (house / "one.py").write_text("from house import two\n")
    (house / "two.py").write_text("def later():\n    from house.one import it\n")
    graphlib.TopologicalSorter(graph(house)).prepare()
    (house / "two.py").write_text("if True:\n    from house.one import it\n")
    with pytest.raises(graphlib.CycleError, match="cycle"):
        graphlib.TopologicalSorter(graph(house)).prepare()
