"""Checks of a plugin as a whole: its module, and what it registers."""

from __future__ import annotations

import subprocess
import sys

import click

from bdbench.registry.plugins import Plugin, installed
from bdbench.testing.checks import NotChecked, check, expect

_HEAVY = {"numba", "pandas", "sklearn", "torch", "torchvision"}


@check("plugin")
def loads_and_registers(plugin: Plugin) -> None:
    """Its module is imported and its hooks are called without an error.

    A plugin that fails here is left out of every run; ``bdbench list plugins`` says why.
    """
    expect(plugin.error is None, str(plugin.error))


@check("plugin")
def implements_a_hook(plugin: Plugin) -> None:
    """The module that the entry point names holds functions marked with ``@bdbench.hookimpl``.

    Without the mark, or in another module, they are never found, and nothing else would say so.
    """
    expect(plugin.error or plugin.hooks, "no hook at all")


@check("plugin")
def names_are_its_own(plugin: Plugin) -> None:
    """No other plugin registers a component of the same name.

    Neither of the two could be used.
    """
    clashes = [line for line in installed().errors_of(plugin) if line not in plugin.errors()]
    expect(not clashes, "; ".join(clashes))


@check("plugin")
def imports_nothing_heavy(plugin: Plugin) -> None:
    """Importing it, its components and commands, imports none of torch, torchvision, scikit-learn, pandas, numba.

    Every command loads every plugin: ``bdbench --help`` would take seconds. Import them where they are used.
    """
    if plugin.error:
        raise NotChecked("it does not load")
    program = (
        "import sys\nfrom importlib.metadata import entry_points\nfrom bdbench.registry.plugins import KINDS\n"
        f"(point,) = (e for e in entry_points(group='bdbench') if (e.dist.name, e.name) == {plugin.key!r})\n"
        "module = point.load()\n"
        "for plural in KINDS.values():\n    getattr(module, f'bdbench_register_{plural}', list)()\n"
        "import click\ngetattr(module, 'bdbench_add_commands', dict)(cli=click.Group())\n"
        f"print()\nprint(*sorted({_HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    expect(done.returncode == 0, done.stderr.strip().splitlines()[-1] if done.stderr else "it ends the process")
    # Before it stands what the plugin itself prints.
    heavy = done.stdout.splitlines()[-1].split()
    expect(not heavy, f"it imports {', '.join(heavy)}")


@check("plugin")
def commands_replace_none_of_bdbenchs(plugin: Plugin) -> None:
    """The commands it adds have names of their own.

    Click keeps the last command of a name: ``bdbench run`` would become something else.
    """
    if "bdbench_add_commands" not in plugin.hooks:
        return
    from bdbench.cli import OWN_COMMANDS, cli

    own = {name: cli.commands[name] for name in OWN_COMMANDS}
    group = click.Group(commands=dict(own))
    installed().caller("bdbench_add_commands", installed().module(plugin))(cli=group)
    taken = {name for name, command in own.items() if group.commands[name] is not command}
    expect(not taken, f"it replaces {', '.join(sorted(taken))}")
