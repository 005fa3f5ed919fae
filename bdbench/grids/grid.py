"""Many cells, from a TOML file: what a leaderboard is to hold, and what of it is still to be run."""

from __future__ import annotations

import contextlib
import itertools
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from bdbench.components import configs, params, sources
from bdbench.components.applicable import why_not
from bdbench.components.attacks import Attack
from bdbench.components.defenses import Defense
from bdbench.components.interfaces import Architecture, Component, Dataset
from bdbench.errors import BdbenchError, unknown
from bdbench.registry.plugins import SEVERAL, installed
from bdbench.storage.files import check_regular, digest_of

_LISTS = ("datasets", "models", "attacks", "defenses")
# Of a seed, and seeds of one range.
_DIGITS, _MOST_SEEDS = 18, 10_000
_KEYS = (*_LISTS, "seeds", "budget", "reserve", "floor", "notes")


@dataclass(frozen=True)
class Note:
    """What the tables are to say of an attack, on a data set or (None) on all: ``fits`` says of which rows."""

    attack: str
    dataset: str | None
    text: str

    def fits(self, attack: Mapping[str, Any], dataset: Mapping[str, Any]) -> bool:
        """Whether it is of an attack and a data set with those configs."""
        wanted = {self.attack: attack, **({} if self.dataset is None else {self.dataset: dataset})}
        return all(_has(config, spec) for spec, config in wanted.items())


@dataclass(frozen=True)
class Job:
    """One poisoned set and one victim, and the defenses to try on them: the unit of work, done in one place.

    data: the hash of what the data set holds today, as ``ImageData.source``; "" where that is not known.
    """

    dataset: Dataset
    model: Architecture
    attack: Attack
    defenses: tuple[Defense, ...]
    seed: int
    budget: float | Literal["auto"]
    reserve: float
    floor: bool = False
    data: str = ""

    def __str__(self) -> str:
        parts = (self.dataset, self.model, self.attack)
        return f"{', '.join(configs.short_spec(part) for part in parts)}, seed {self.seed}"

    def config(self, defense: Defense) -> dict[str, Any]:
        """The cell of one of the defenses, as ``configs.cell_of`` gives it."""
        parts = {"dataset": self.dataset, "model": self.model, "attack": self.attack, "defense": defense}
        budget = self.budget if defense.stage == "training set" else None
        config = {kind: part.config() for kind, part in parts.items()}
        return configs.cell_of({**config, "budget": budget, "reserve": self.reserve})

    def code(self, defense: Defense | None) -> dict[str, str]:
        """What the code of the components says today, as a record has it; None: of those that all defenses share."""
        parts = {"model": self.model, "attack": self.attack, "defense": defense}
        return {kind: sources.own_code_of(part) for kind, part in parts.items() if part is not None}

    def files(self, defense: Defense | None) -> dict[str, str]:
        """A hash of what each file that they read holds today, as a record has it; of those that are here."""
        found: dict[str, str] = {}
        own = () if defense is None else (defense,)
        for part in params.whole(self.dataset, self.model, self.attack, *own):
            # A folder of another machine may not be here: what it holds cannot be told.
            with contextlib.suppress(BdbenchError, OSError):
                found |= {str(path): digest_of(path) for path in part.files() if path.is_file()}
        return found

    @property
    def applicable(self) -> tuple[Defense, ...]:
        """The defenses that apply to the attack."""
        return tuple(d for d in self.defenses if why_not(d, self.attack, self.reserve) is None)


@dataclass(frozen=True)
class Grid:
    """Everything that a grid.toml asks for: the product of its lists."""

    folder: Path
    datasets: tuple[Dataset, ...]
    models: tuple[Architecture, ...]
    attacks: tuple[Attack, ...]
    defenses: tuple[Defense, ...]
    seeds: tuple[int, ...]
    budget: float | Literal["auto"] = 0.1
    reserve: float = 0.05
    floor: bool = False
    notes: tuple[Note, ...] = ()

    def jobs(self, seeds: Iterable[int] | None = None) -> list[Job]:
        """One for each data set, model, seed (the grid's unless given) and attack; a seed is done before the next."""
        product = itertools.product(self.datasets, self.models, seeds or self.seeds, self.attacks)
        shared = (self.budget, self.reserve, self.floor)
        return [Job(d, m, a, self.defenses, seed, *shared) for d, m, seed, a in product]

    def only(self, conditions: Iterable[str]) -> Grid:
        """The part that fits conditions such as ``attack=blend`` or ``defense=datamodel:models=300``.

        Conditions on one kind are alternatives. Raises BdbenchError for one that nothing fits.
        """
        wanted: dict[str, list[str]] = {}
        for condition in conditions:
            kind, equals, spec = condition.partition("=")
            if not equals or kind not in configs.KINDS:
                raise BdbenchError(f"cannot read {condition!r}: expected KIND=SPEC with {', '.join(configs.KINDS)}")
            wanted.setdefault(kind, []).append(spec)
        kept: dict[str, Any] = {}
        for kind, specs in wanted.items():
            own = getattr(self, f"{kind}s")
            for spec in specs:
                if not any(_fits(part, spec) for part in own):
                    raise unknown(f"{kind} in this grid", spec, {configs.spec(part.config()) for part in own})
            kept[f"{kind}s"] = tuple(part for part in own if any(_fits(part, spec) for spec in specs))
        return replace(self, **kept)


def read(path: Path) -> Grid:
    """The grid in a TOML file; its records belong beside it. Raises BdbenchError.

    ``datasets``, ``models``, ``attacks`` and ``defenses`` list components, each as on the command line or as a
    table such as ``{name = "blend", rate = [0.01, 0.05]}``, where a list stands for one component for each value.
    A list in ``attacks`` is a cascade of several on one set. ``[[notes]]`` are tables of an ``attack``, a ``text`` that
    the board shows of it, and a ``dataset`` if it is of one.
    """
    try:
        check_regular(path)
        data = tomllib.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise BdbenchError(f"no grid at {path}: expected a TOML file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BdbenchError(f"cannot read the grid {path}: {error}") from None
    for key in data:
        if key not in _KEYS:
            raise unknown(f"key in {path}", key, _KEYS)
    parts = {name: _components(name.removesuffix("s"), name, data.get(name)) for name in _LISTS}
    budget = configs.check_budget(data.get("budget", 0.1))
    reserve = configs.check_reserve(data.get("reserve", 0.05))
    notes = _notes(path, data.get("notes", []), parts)
    seeds = read_seeds(str(data.get("seeds", "0")))
    floor = data.get("floor", False)
    if not isinstance(floor, bool):
        raise BdbenchError(f"floor={floor} is not allowed in {path}: expected true or false")
    return Grid(path.parent, **parts, seeds=seeds, budget=budget, reserve=reserve, floor=floor, notes=notes)


def read_seeds(text: str) -> tuple[int, ...]:
    """The seeds in ``0-4`` or ``0,2,5-7``, in order. Raises BdbenchError."""
    seeds: set[int] = set()
    for part in text.split(","):
        low, _, high = part.strip().partition("-")
        digits = (low, high or low)
        if not all(d.isdecimal() and len(d) <= _DIGITS for d in digits) or int(digits[1]) < int(low):
            raise BdbenchError(f"seeds={text[:60]!r} is not allowed: expected seeds >= 0 such as '0-4' or '0,2,5-7'")
        if int(digits[1]) - int(low) >= _MOST_SEEDS:
            raise BdbenchError(f"seeds={text[:60]!r} is not allowed: expected at most {_MOST_SEEDS} of them")
        seeds.update(range(int(low), int(digits[1]) + 1))
    return tuple(sorted(seeds))


def show_seeds(seeds: Iterable[int]) -> str:
    """Seeds as ``read_seeds`` reads them, each once: ``0-2,5``."""
    runs: list[list[int]] = []
    for seed in sorted(set(seeds)):
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _components(kind: str, key: str, listed: Any) -> tuple[Any, ...]:
    if not isinstance(listed, list) or not listed:
        raise BdbenchError(f"{key}={listed} is not allowed in a grid: expected a list of at least one {kind}")
    made = [installed().component(kind, spec) for entry in listed for spec in _specs(kind, entry)]
    known: set[str] = set()
    for component in made:
        spec = configs.spec(component.config())
        if spec in known:
            raise BdbenchError(f"{kind} {spec!r} is twice in the grid: expected once")
        known.add(spec)
    return tuple(made)


def _notes(path: Path, listed: Any, parts: Mapping[str, tuple[Any, ...]]) -> tuple[Note, ...]:
    made = []
    for entry in listed if isinstance(listed, list) else [listed]:
        if not isinstance(entry, dict) or not {"attack", "text"} <= entry.keys() <= {"attack", "dataset", "text"}:
            raise BdbenchError(f"{path}: {entry} is no note: expected attack, text, and dataset if it is of one")
        if not all(isinstance(value, str) for value in entry.values()):
            raise BdbenchError(f"{path}: {entry} is no note: expected texts")
        note = Note(entry["attack"], entry.get("dataset"), entry["text"])
        for kind, spec in (("attack", note.attack), ("dataset", note.dataset)):
            own = parts[f"{kind}s"]
            if spec is not None and not any(_has(part.config(), spec) for part in own):
                raise unknown(f"{kind} in {path}", spec, {configs.spec(part.config()) for part in own})
        made.append(note)
    return tuple(made)


def _has(config: Mapping[str, Any], spec: str) -> bool:
    """Whether a component's config has the name and the parameters that ``spec`` gives."""
    name, values = params.parse_spec(spec)
    return config["name"] == name and all(_same(config.get(key), value) for key, value in values.items())


def _same(value: Any, text: str) -> bool:
    """Whether a parameter has the value that ``text`` says; numbers are the same however they are written."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        with contextlib.suppress(ValueError):
            return float(text) == value
    return str(value) == text


def _specs(kind: str, entry: Any) -> Iterator[str | dict[str, Any] | list[Any]]:
    if isinstance(entry, str):
        yield entry
        return
    if isinstance(entry, list) and kind in SEVERAL:
        yield from map(list, itertools.product(*(_specs(kind, one) for one in entry)))
        return
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise BdbenchError(f"{entry} is no {kind}: expected a string, or a table with a name and parameters")
    for key, value in entry.items():
        if value == []:
            raise BdbenchError(f"{key}=[] is not allowed for {kind} {entry['name']!r}: expected at least one value")
    values = [value if isinstance(value, list) else [value] for value in entry.values()]
    for choice in itertools.product(*values):
        yield dict(zip(entry, choice, strict=True))


def _fits(component: Component, spec: str) -> bool:
    """Whether a component has the name and the parameters of ``spec``, whatever its other parameters are."""
    name, values = params.parse_spec(spec)
    if component.name != name:
        return False
    asked, own = installed().component(component.kind, spec).config(), component.config()
    return all(own[key] == asked[key] for key in values)
