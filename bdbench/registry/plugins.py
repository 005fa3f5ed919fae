"""The plugin manager, and the registry of components. A broken plugin is named, never fatal."""

from __future__ import annotations

import copy
import functools
import importlib.metadata
import inspect
import math
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import pluggy

from bdbench import __version__
from bdbench.components import guard, params
from bdbench.errors import BdbenchError, one_line, unknown
from bdbench.host import timeout
from bdbench.registry import hookspecs
from bdbench.registry.hookspecs import GROUP
from bdbench.registry.registrable import registrable

KINDS = {
    "dataset": "datasets",
    "model": "models",
    "attack": "attacks",
    "defense": "defenses",
    "metric": "metrics",
}
# What several components of a kind are together: the name of one that is made of them, and of its parameter.
SEVERAL = {"attack": ("cascade", "attacks")}

# The distribution that our own components come in.
_OURS = "bdbench"


@dataclass
class Plugin:
    """One entry point: what it is called, the distribution it came from, and what was wrong with it.

    hooks: the names of the hooks it implements; hooks_version: the version of the hooks that it was written for;
    failures: the last error of each hook and metric that failed, by its name, and by "" that of loading it.
    """

    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...] = ()
    hooks_version: int = 1
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def error(self) -> str | None:
        """All that was wrong with it; None if nothing was."""
        return "; ".join(self.errors()) or None

    def errors(self) -> list[str]:
        """A line for each failure."""
        return [f"{what}: {error}" if what else error for what, error in self.failures.items()]

    @property
    def key(self) -> tuple[str, str]:
        """Two distributions may use one entry-point name."""
        return self.distribution, self.name

    @property
    def unique(self) -> str:
        """The name that pluggy knows it by."""
        return ":".join(self.key)


@dataclass(frozen=True)
class Registration:
    """One component (a class, or a Metric) and the plugin that registered it."""

    name: str
    component: Any
    plugin: Plugin


@dataclass
class Plugins:
    """All plugins that were found. ``hook`` calls them; ``errors`` says which are broken, and how."""

    manager: pluggy.PluginManager
    found: list[Plugin] = field(default_factory=list)
    _registered: dict[str, dict[str, list[Registration]]] = field(default_factory=dict)

    def load(self, entry_point: importlib.metadata.EntryPoint) -> None:
        """Import one entry point and check its hooks; what goes wrong, or takes too long, is kept as its error."""
        dist = entry_point.dist
        plugin = Plugin(entry_point.name, dist.name if dist else "?", dist.version if dist else "?")
        self.found.append(plugin)
        limit = timeout.import_seconds()
        try:
            # What it prints is no output of ours, which programs read.
            with redirect_stdout(sys.stderr), guard.call(), timeout.at_most(limit, timeout.IMPORT_SECONDS):
                module = entry_point.load()
                # Before its hooks are looked at: a newer plugin may use some that do not exist here.
                plugin.hooks_version = _asked_version(module)
                plugin.hooks = self._hooks_of(module)
                self.manager.register(module, name=plugin.unique)
        except Exception as error:
            plugin.failures[""] = one_line(error)
            if self.manager.has_plugin(plugin.unique):
                self.manager.unregister(name=plugin.unique)

    def module(self, plugin: Plugin) -> Any:
        """The module of a plugin that was loaded. Raises BdbenchError, with its error, for one that was not."""
        module = self.manager.get_plugin(plugin.unique)
        if module is None:
            raise BdbenchError(_broken(plugin, plugin.error))
        return module

    def errors(self) -> list[str]:
        """One line for each failure of a plugin and each name that two plugins claim."""
        # What registers is asked first: it may break a plugin.
        clashes = self._clashes()
        return [_broken(p, error) for p in self.found for error in p.errors()] + list(clashes)

    def errors_of(self, plugin: Plugin) -> list[str]:
        """A line for each failure of one plugin, and for each name of its that another claims as well."""
        clashes = self._clashes()
        return plugin.errors() + [line for line, owners in clashes.items() if plugin in owners]

    def _clashes(self) -> dict[str, list[Plugin]]:
        """A line for each name that two plugins claim, and who they are."""
        several = [(kind, regs) for kind in KINDS for regs in self._all(kind).values() if len(regs) > 1]
        return {self._clash(kind, regs): [r.plugin for r in regs] for kind, regs in several}

    def registered(self, kind: str) -> list[Registration]:
        """Every component of a kind ('dataset', 'model', 'attack', 'defense', 'metric'), by name."""
        return [r for name in sorted(self._all(kind)) for r in self._all(kind)[name]]

    def get(self, kind: str, name: str) -> Registration:
        """The component of that name. Raises BdbenchError if there is none, or two."""
        regs = self._all(kind).get(name)
        if regs is None:
            raise unknown(kind, name, self._all(kind))
        if len(regs) > 1:
            raise BdbenchError(self._clash(kind, regs))
        return regs[0]

    def component(self, kind: str, spec: Any) -> Any:
        """A component from ``name:key=value,...``, from its ``config()``, or ``spec`` itself if it is one.

        A list of several attacks is a cascade of them. Raises BdbenchError.
        """
        if isinstance(spec, list | tuple) and len(spec) == 1:
            return self.component(kind, spec[0])
        if isinstance(spec, list | tuple) and spec and kind in SEVERAL:
            name, parameter = SEVERAL[kind]
            spec = {"name": name, parameter: spec}
        if isinstance(spec, str | dict):
            name, values = params.parse_spec(spec) if isinstance(spec, str) else _named(spec)
            return params.make(self.get(kind, name).component, kind, values, self.component)
        if getattr(spec, "kind", None) != kind:
            raise BdbenchError(f"{spec!r} is no {kind}: expected a name with parameters, or a component")
        return spec

    def caller(self, hook: str, plugin: Any) -> Callable[..., list[Any]]:
        """The hook of one plugin's module alone."""
        others = [p for p in self.manager.get_plugins() if p is not plugin]
        return self.manager.subset_hook_caller(hook, remove_plugins=others)

    def call(self, hook: str, **arguments: Any) -> None:
        """Call a notification hook of every plugin; one that fails is named and does not stop the others."""
        for name, plugin in self.manager.list_name_plugin():
            try:
                with guard.call():
                    # What one of them writes into its arguments no other is to read.
                    self.caller(hook, plugin)(**_copied(arguments))
            except Exception as error:
                self._blame(name, hook, error)

    def collect(self, hook: str, **arguments: Any) -> list[Any]:
        """The items that a hook of every plugin gives; a plugin that fails is named and gives none."""
        found: list[Any] = []
        for name, plugin in self.manager.list_name_plugin():
            try:
                with guard.call():
                    found += [item for items in self.caller(hook, plugin)(**arguments) for item in items]
            except Exception as error:
                self._blame(name, hook, error)
        return found

    def compute(self, metric: Registration, measured: Any) -> float | None:
        """A metric's number; None, and the plugin named, if it fails: hours of work must not be lost to it."""
        try:
            with guard.call():
                value = metric.component.compute(measured)
                number = None if value is None else float(value)
            return number if number is None or math.isfinite(number) else None
        except Exception as error:
            metric.plugin.failures[f"metric {metric.name}"] = one_line(error)
            return None

    def told(self, error: BaseException) -> str:
        """An error in one line, with the component that it came from and that one's distribution.

        Sentences of bdbench's own components are left as they are: they name what is to be mended.
        """
        component, owner, line = guard.whose(error), self.owner(error), one_line(error)
        if component is None:
            return line
        if isinstance(error, BdbenchError) and owner == _OURS:
            return line
        return f"{component.kind} {component.name!r} of {owner}: {line}"

    def owner(self, error: BaseException) -> str | None:
        """The distribution of the component that an error came from; None if it came from none."""
        component = guard.whose(error)
        if component is None:
            return None
        return next((r.plugin.distribution for r in self._made_of(component)), "no distribution")

    def _made_of(self, component: Any) -> list[Registration]:
        return [r for r in self.registered(component.kind) if r.component is type(component)]

    def _all(self, kind: str) -> dict[str, list[Registration]]:
        if kind not in self._registered:
            names: dict[str, list[Registration]] = {}
            hook = f"bdbench_register_{KINDS[kind]}"
            for name, module in self.manager.list_name_plugin():
                plugin = next(p for p in self.found if p.unique == name)
                try:
                    with guard.call():
                        results = self.caller(hook, module)()
                        if hook in plugin.hooks and not results:
                            raise BdbenchError("it returned None: expected a list of what it registers")
                        own = registrable(kind, results)
                    for component in own:
                        registration = Registration(component.name, component, plugin)
                        names.setdefault(component.name, []).append(registration)
                except Exception as error:
                    self._blame(name, hook, error)
            self._registered[kind] = names
        return self._registered[kind]

    def _blame(self, name: str, hook: str, error: Exception) -> None:
        for plugin in self.found:
            if plugin.unique == name:
                plugin.failures[hook] = one_line(error)

    @staticmethod
    def _clash(kind: str, regs: list[Registration]) -> str:
        owners = " and ".join(sorted(f"{r.plugin.distribution} ({r.plugin.name})" for r in regs))
        return f"{kind} {regs[0].name!r} is registered twice, by {owners}: expected one; uninstall either"

    def _hooks_of(self, module: Any) -> tuple[str, ...]:
        """The hooks a module implements. Raises BdbenchError for a hook or an argument that does not exist."""
        specs = dict(inspect.getmembers(hookspecs, lambda f: inspect.isfunction(f) and f.__name__.startswith(GROUP)))
        hooks = []
        for name in dir(module):
            options = self.manager.parse_hookimpl_opts(module, name)
            if options is None:
                continue
            hook = options.get("specname") or name
            if hook not in specs:
                raise BdbenchError(f"it implements {hook}, which is no hook: known: {', '.join(sorted(specs))}")
            given = inspect.signature(specs[hook]).parameters
            for asked in inspect.signature(getattr(module, name)).parameters.values():
                if asked.name not in given and asked.default is asked.empty:
                    allowed = ", ".join(given) or "nothing"
                    raise BdbenchError(
                        f"its {hook} takes {asked.name!r}, which the hook does not give: known: {allowed}"
                    )
            hooks.append(hook)
        return tuple(sorted(hooks))


def _copied(arguments: dict[str, Any]) -> dict[str, Any]:
    """The same, with plain containers copied to the bottom."""
    return {name: copy.deepcopy(value) if isinstance(value, dict) else value for name, value in arguments.items()}


def _broken(plugin: Plugin, error: str | None) -> str:
    return f"plugin {plugin.name!r} of {plugin.distribution} is not usable: {error}"


def _asked_version(module: Any) -> int:
    asked = getattr(module, "BDBENCH_HOOKS", 1)
    if not isinstance(asked, int) or isinstance(asked, bool) or asked < 1:
        raise BdbenchError(f"its BDBENCH_HOOKS is {asked!r}: expected an integer from 1 to {hookspecs.VERSION}")
    if asked > hookspecs.VERSION:
        raise BdbenchError(
            f"it needs version {asked} of bdbench's hooks, and bdbench {__version__} has version "
            f"{hookspecs.VERSION}: expected a newer bdbench (pip install --upgrade bdbench)"
        )
    return asked


def _named(config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name in a component's ``config()``, and the rest. Raises BdbenchError if there is none."""
    if not isinstance(config.get("name"), str) or not all(isinstance(key, str) for key in config):
        raise BdbenchError(f"{config!r} is no component: expected a table with a name and parameters")
    return config["name"], {key: value for key, value in config.items() if key != "name"}


@functools.cache
def installed() -> Plugins:
    """Every plugin of this environment, found through the entry-point group ``bdbench``."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    plugins = Plugins(manager)
    for entry_point in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda e: e.name):
        plugins.load(entry_point)
    return plugins
