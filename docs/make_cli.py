"""Writes docs/cli.md from the commands themselves; with --check it only says whether the page is current."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from bdbench.cli import cli
from bdbench.registry.plugins import installed

PAGE = Path(__file__).parent / "cli.md"
_TITLE = """# The command line

Made by `python docs/make_cli.py` from the program itself; do not edit. Every command has `--help`. Errors that a user
can mend are one line on standard error and exit code 2; 70 is an error of ours, 130 and 143 are commands that were
stopped.
"""


def page() -> str:
    """The page: every command of bdbench and of its own plugins, and of nobody else's."""
    program = click.Group("bdbench", dict(cli.commands), help=cli.help)
    for plugin in installed().found:
        if plugin.distribution == "bdbench" and "bdbench_add_commands" in plugin.hooks:
            installed().caller("bdbench_add_commands", installed().module(plugin))(cli=program)
    return "\n".join([_TITLE, *_sections("bdbench", program)])


def _sections(path: str, command: click.Command) -> Iterator[str]:
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            yield from _sections(f"{path} {name}", command.commands[name])
        return
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    options = [p for p in command.params if isinstance(p, click.Option)]
    shown = [_argument(a) for a in arguments]
    usage = " ".join([path, *(["[OPTIONS]"] if options else []), *shown])
    yield f"## {path}\n\n    {usage}\n\n{inspect.cleandoc(command.help or '')}\n"
    if options:
        rows = ["| option | default | |", "|---|---|---|"]
        rows += [f"| {_names(o)} | {_default(o)} | {_text(o)} |" for o in options]
        yield "\n".join(rows) + "\n"
    # Of a command that takes other things than names of commands, and has commands of its own beside them.
    for name, further in getattr(command, "further", {}).items():
        yield from _sections(f"{path} {name}", further)


def _argument(argument: click.Argument) -> str:
    name = argument.metavar or (argument.name or "").upper()
    if isinstance(argument.type, click.Choice):
        name = "|".join(argument.type.choices)
    return name if argument.required else f"[{name}]"


def _names(option: click.Option) -> str:
    value = ""
    if isinstance(option.type, click.Choice):
        value = " " + "\\|".join(option.type.choices)
    elif not option.is_flag:
        value = " " + (option.metavar or option.type.name.upper())
    return ", ".join(f"`{name}`" for name in option.opts) + value


def _default(option: click.Option) -> str:
    if option.required:
        return "required"
    if option.is_flag or not option.show_default:
        return ""
    values = option.default if isinstance(option.default, list | tuple) else [option.default]
    return f"`{' '.join(map(str, values))}`"


def _text(option: click.Option) -> str:
    return (option.help or "") + (" May be given several times." if _unsaid(option) else "")


def _unsaid(option: click.Option) -> bool:
    return option.multiple and "several times" not in (option.help or "")


def main() -> None:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is not current")
    if not parser.parse_args().check:
        PAGE.write_text(page())
    elif PAGE.read_text() != page():
        sys.exit(f"{PAGE} is not current: run python docs/make_cli.py")


if __name__ == "__main__":
    main()
