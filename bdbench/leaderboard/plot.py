"""AUROC against cost, as SVG written by hand: the same table gives the same bytes, whatever is installed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape

import pandas as pd

from bdbench.leaderboard.frame import rows_of
from bdbench.leaderboard.summary import labelled
from bdbench.leaderboard.views import SETTING

# Okabe and Ito's colours, which the colour-blind can tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
_WIDTH, _HEIGHT, _LEFT, _TOP, _ACROSS = 250, 170, 45, 40, 3
_LINE = 16


def auroc_against_cost(table: pd.DataFrame) -> str:
    """A panel for each attack, a point for each defense: mean AUROC with its interval over mean seconds (log).

    The empty string if no row has an AUROC.
    """
    rows = labelled(table)[table["auroc"].notna()]
    if not len(rows):
        return ""
    colour = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(sorted(set(rows["defense"])))}
    low, high = (math.log10(max(s, 1e-3)) for s in (rows["defense_seconds"].min(), rows["defense_seconds"].max()))
    low, high = math.floor(low), max(math.ceil(high), math.floor(low) + 1)
    panels = list(rows.groupby([*SETTING, "attack"], sort=True))
    legend_top = -(-len(panels) // _ACROSS) * (_HEIGHT + 80) + 20
    width = _ACROSS * (_WIDTH + 70) + 10
    height = legend_top + _LINE * len(colour) + 10
    body = [
        line
        for i, (_, group) in enumerate(panels)
        for line in _panel(group, i % _ACROSS * (_WIDTH + 70), i // _ACROSS * (_HEIGHT + 80), low, high, colour)
    ]
    for i, (name, shade) in enumerate(colour.items()):
        y = legend_top + _LINE * i
        body.append(f'<circle cx="{_LEFT}" cy="{y - 4}" r="4" fill="{shade}"/>')
        body.append(f'<text x="{_LEFT + 12}" y="{y}">{escape(name)}</text>')
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img"'
    style = ' font-family="sans-serif" font-size="12" aria-label="AUROC against the defense\'s seconds">'
    return "\n".join([opening + style, f'<rect width="{width}" height="{height}" fill="#fff"/>', *body, "</svg>\n"])


def _panel(group: pd.DataFrame, x0: int, y0: int, least: int, most: int, colour: dict[str, str]) -> Iterator[str]:
    def across(seconds: float) -> float:
        return round((math.log10(max(seconds, 1e-3)) - least) / (most - least) * _WIDTH, 1)

    def down(auroc: float) -> float:
        return round((1 - min(max(auroc, 0), 1)) * _HEIGHT, 1)

    rows = rows_of(group)
    yield f'<g transform="translate({x0 + _LEFT},{y0 + _TOP})">'
    yield f'<text x="0" y="-22" fill="#666">{escape("{dataset}, {model}".format(**rows[0]))}</text>'
    yield f'<text x="0" y="-8">{escape(rows[0]["attack"])}</text>'
    yield f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#888"/>'
    for tick in (0, 0.25, 0.5, 0.75, 1):
        yield f'<line x1="0" x2="{_WIDTH}" y1="{down(tick)}" y2="{down(tick)}" stroke="#ddd"/>'
        yield f'<text x="-6" y="{down(tick) + 4}" text-anchor="end">{tick:g}</text>'
    for power in range(least, most + 1):
        yield f'<text x="{across(10.0**power)}" y="{_HEIGHT + 16}" text-anchor="middle">{10.0**power:g} s</text>'
    for row in rows:
        auroc, low, high = row["auroc"], row["auroc_low"], row["auroc_high"]
        seconds, shade = row["defense_seconds"], colour[row["defense"]]
        x = across(seconds)
        if not math.isnan(low):
            ends = f'y1="{down(low)}" y2="{down(high)}"'
            yield f'<line x1="{x}" x2="{x}" {ends} stroke="{shade}" stroke-width="1.5"/>'
        title = f"{row['defense']}: AUROC {auroc:.3f}, {seconds:.1f} s"
        yield f'<circle cx="{x}" cy="{down(auroc)}" r="4" fill="{shade}"><title>{escape(title)}</title></circle>'
    yield "</g>"
