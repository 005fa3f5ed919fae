"""The start of a plugin package: templates, and how they become a folder."""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
from importlib import resources
from pathlib import Path
from string import Template

from bdbench import __version__
from bdbench.errors import BdbenchError

# What a package may add, and how texts call it; "defense" is the commonest kind of defense, a detector.
_CALLED = {
    "attack": "An attack",
    "defense": "A defense",
    "robust-training": "A robust training",
    "mitigation": "A mitigation",
    "input-detector": "An input detector",
    "model-detector": "A model detector",
    "dataset": "A dataset",
    "model": "A model",
    "metric": "A metric",
    "reporter": "A reporter",
}
KINDS = tuple(_CALLED)
_DEFENSES = ("defense", "robust-training", "mitigation", "input-detector", "model-detector")

# template -> path in the package; $module is filled in.
_FILES = {
    "pyproject.toml.tmpl": "pyproject.toml",
    "README.md.tmpl": "README.md",
    "gitignore.tmpl": ".gitignore",
    "test_conformance.py.tmpl": "tests/test_$module.py",
    "workflow.yml.tmpl": ".github/workflows/test.yml",
}
# One run with what the package adds.
_USE = {
    "attack": "bdbench run --attack $component --defense spectral",
    **dict.fromkeys(_DEFENSES, "bdbench run --attack badnets --defense $component"),
    "dataset": "bdbench run --dataset $component --attack badnets --defense spectral",
    "model": "bdbench run --model $component --attack badnets --defense spectral",
    "metric": "bdbench run --attack badnets --defense spectral",
    "reporter": "bdbench run --attack badnets --defense spectral",
}
_LONGEST = 30


def write(name: str, kind: str, where: Path) -> Path:
    """Write the package ``name`` with one component of ``kind`` into the new folder ``where / name``.

    Raises BdbenchError for a name that cannot be one or is taken, and for a folder that is there already.
    """
    words = _words(name, kind)
    folder = where / name
    if folder.exists():
        raise BdbenchError(f"{folder} is there already: expected a name that is not taken")
    from bdbench.storage.store import written_whole

    with written_whole(folder) as aside:
        for template, place in {**_FILES, f"{kind}.py.tmpl": "$module.py"}.items():
            path = aside / Template(place).substitute(words)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_filled(template, words))
    return folder


def _filled(template: str, words: dict[str, str]) -> str:
    return Template(resources.files("bdbench.scaffold").joinpath(template).read_text()).substitute(words)


def _words(name: str, kind: str) -> dict[str, str]:
    """What the templates' placeholders stand for."""
    module, component = name.replace("-", "_"), name.removeprefix("bdbench-")
    if len(name) > _LONGEST or not all(re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", n) for n in (name, component)):
        expected = f"lower-case letters, digits and single dashes, a letter first, {_LONGEST} characters at most"
        raise BdbenchError(f"name {name!r} is not allowed: expected {expected}")
    if module == "tests" or keyword.iskeyword(module) or module in sys.stdlib_module_names or _installed(module):
        raise BdbenchError(f"name {name!r} is not allowed: {module} is a Python module already; expected another name")
    _expect_free(component, kind)
    return {
        "name": name,
        "module": module,
        "component": component,
        "identifier": component.replace("-", "_"),
        "cls": "".join(part.capitalize() for part in component.split("-")),
        "called": _CALLED[kind],
        "version": __version__,
        "use": Template(_USE[kind]).substitute(component=component),
    }


def _installed(module: str) -> bool:
    spec = importlib.util.find_spec(module)
    # A folder of that name in the working directory is a spec without an origin.
    return spec is not None and spec.origin is not None


def _expect_free(component: str, kind: str) -> None:
    from bdbench.registry import plugins

    kind = "defense" if kind in _DEFENSES else kind
    if kind in plugins.KINDS:
        for registration in plugins.installed().registered(kind):
            if registration.name == component:
                owner = f"{registration.plugin.distribution} ({registration.plugin.name})"
                raise BdbenchError(f"{kind} {component!r} is there already, from {owner}: expected another name")
