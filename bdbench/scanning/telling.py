"""What was read, in lines for a person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bdbench import foreign
from bdbench.display.words import counted
from bdbench.scanning.reading import FEWEST, Copies, Read


def lines(found: Read) -> Iterator[str]:
    """What was read, for a person."""
    listing, (low, middle, high) = found.listing, found.sizes
    of = f", of {len(listing)}," if found.left_out.size else ""
    classes = len(found.classes) + len(found.small)
    yield f"read: {counted(found.decoded, 'image')}{of} of {counted(classes, 'class')}"
    sizes = f"all {low[0]} x {low[1]}" if low == high else f"{low[0]} x {low[1]} to {high[0]} x {high[1]}"
    usual = "" if low == high else f", usually about {middle[0]} x {middle[1]}"
    colour = {0: "in colour", found.decoded: "grey"}.get(found.grey, f"{found.grey} of them grey")
    yield f"sizes: {sizes}{usual}; {colour}"
    if found.resized:
        yield (
            f"brought to {found.size} x {found.size}: {counted(found.resized, 'image')}, each as a whole, by bicubic "
            "resampling (--size sets another)"
        )
    if found.skipped:
        reasons: dict[str, list[str]] = {}
        for odd in found.skipped:
            reasons.setdefault("files that do not read" if odd.unread else odd.reason, []).append(odd.name)
        told = [f"{len(names)} {reason} ({foreign.line(names[0])})" for reason, names in reasons.items()]
        yield f"left out: {', '.join(told)}"
    if found.small:
        some = ", ".join(f"{foreign.line(name)} ({count})" for name, count in list(found.small.items())[:5])
        more = f" and {len(found.small) - 5} more" if len(found.small) > 5 else ""
        yield f"not judged: {counted(len(found.small), 'class')} of fewer than {FEWEST} different images: {some}{more}"
    for title, copies in (("exact copies", found.exact), ("near copies", found.near)):
        if copies:
            yield f"{title}: {_told(copies)}"


def _told(copies: Sequence[Copies]) -> str:
    mixed = [group for group in copies if len(group.labels) > 1]
    total = sum(len(group.names) for group in copies)
    apart = f"; {counted(len(mixed), 'group')} in several classes, such as {mixed[0]}" if mixed else ""
    return f"{counted(total, 'image')} in {counted(len(copies), 'group')}{foreign.line(apart)}"
