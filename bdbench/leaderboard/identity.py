"""What the components of a record were made of, beside their parameters, and names that tell them apart by it."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bdbench.components import configs
from bdbench.storage.store import key_of


def made(config: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """``configs.made_of`` by component: short hashes of data, recipe, code and files; "" of what it has none.

    Together they are as fine as ``configs.identity``. A file is a component's if a parameter names it, or a folder
    around it; those of no attack and no defense are the data set's.
    """
    facts = configs.made_of(config)
    files: dict[str, list[str]] = {kind: [] for kind in configs.KINDS}
    for path, contents in sorted(config.get("files", {}).items()):
        owners = [kind for kind in ("attack", "defense") if _names(config[kind], Path(path))]
        for kind in owners or ["dataset"]:
            files[kind].append(contents)
    held = {kind: _short(sorted(contents)) if contents else "" for kind, contents in files.items()}
    return {
        "dataset": {"data": facts["source"][:8], "files": held["dataset"]},
        "model": {"recipe": _short(facts["recipe"]), "code": facts["code"].get("model", "")[:8]},
        "attack": {"code": facts["code"].get("attack", "")[:8], "files": held["attack"]},
        "defense": {"code": facts["code"].get("defense", "")[:8], "files": held["defense"]},
    }


def labels(
    components: Sequence[Mapping[str, Any]],
    made: Sequence[Mapping[str, str]],
    beside: Sequence[Hashable],
    always: tuple[str, ...] = (),
) -> list[str]:
    """Short names of components (``configs.labels``), with those parts of what they were made of that tell namesakes
    apart. Namesakes have the same parameters, and the same ``beside`` them.
    """
    namesakes: dict[Hashable, list[Mapping[str, str]]] = {}
    keys = [(json.dumps(own, sort_keys=True), other) for own, other in zip(components, beside, strict=True)]
    for key, parts in zip(keys, made, strict=True):
        known = namesakes.setdefault(key, [])
        if parts not in known:
            known.append(parts)
    names = configs.labels(components, always)
    told = []
    for name, key, parts in zip(names, keys, made, strict=True):
        differing = [part for part, own in parts.items() if any(o.get(part) != own for o in namesakes[key])]
        told.append(" ".join([name, *(f"{part}={parts[part] or 'none'}" for part in differing)]))
    return told


def _names(component: Mapping[str, Any], path: Path) -> bool:
    named = [v for part in (component, *configs.parts(component)) for v in configs.parameters(part).values()]
    values = [Path(v) for v in named if isinstance(v, str) and Path(v) != Path()]
    return any(value == path or value in path.parents for value in values)


def _short(facts: Any) -> str:
    return key_of({"facts": facts})[:8]
