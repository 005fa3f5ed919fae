"""The pages that are made of templates."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from bdbench import foreign

if TYPE_CHECKING:
    from jinja2 import Template


def load(name: str) -> Template:
    """The jinja2 template of that file name; what it prints is escaped, and control characters are shown."""
    import jinja2

    loader = jinja2.PackageLoader("bdbench.display", "templates")
    made = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_shown)
    return made.get_template(name)


def _shown(value: Any) -> Any:
    # What is marked as safe is markup of our own.
    return foreign.page(value) if type(value) is str else value


def picture(png: bytes) -> str:
    """A PNG file as the address of an image, so that a page needs nothing but itself."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
