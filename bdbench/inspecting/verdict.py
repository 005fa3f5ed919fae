"""What the detectors together say of a model: found, nothing found, or cannot tell; and what none could have found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scipy.stats import binom

from bdbench import foreign
from bdbench.display.verdicts import Word
from bdbench.display.words import counted
from bdbench.inspecting.detectors import Finding
from bdbench.inspecting.subject import NORMALISATIONS, Subject

# A detector compares each class with the others: of fewer there is nothing to compare with.
_FEWEST = 4
# One detector's word suffices only with a p-value below this, and of so many classes that it can be believed: each of
# them calls some clean models backdoored, mm-bd at .05 one in five.
_ALONE, _ENOUGH = 1e-3, 10
# The model knows its clean images no better than chance unless chance does as well less often than this.
_CHANCE, _HALF = 1e-3, 0.5
# By so much another normalisation has to know more of the clean images.
_BETTER = 0.1
_NAMED = 5


@dataclass(frozen=True)
class Suspect:
    """A class that detectors take for the attacker's. by: their names."""

    label: int
    name: str
    by: tuple[str, ...]


@dataclass(frozen=True)
class Conclusion:
    """The verdict: a word, a sentence, the suspected classes with the most suspected first, and remarks beside it."""

    word: Word
    sentence: str
    suspects: list[Suspect]
    notes: list[str]
    limits: list[str]


def concluded(subject: Subject, findings: Sequence[Finding]) -> Conclusion:
    """What the findings amount to."""
    suspects = _suspects(subject, findings)
    word, sentence = _said(subject, findings, suspects)
    return Conclusion(word, sentence, suspects, list(_notes(subject)), list(_limits(findings)))


def _suspects(subject: Subject, findings: Sequence[Finding]) -> list[Suspect]:
    by: dict[int, list[str]] = {}
    for finding in _flagging(findings):
        assert finding.verdict is not None
        for label in finding.verdict.targets:
            by.setdefault(label, []).append(finding.defense.name)
    order = sorted(by, key=lambda label: (-len(by[label]), label))
    return [Suspect(label, subject.classes[label], tuple(by[label])) for label in order]


def _flagging(findings: Sequence[Finding]) -> list[Finding]:
    return [f for f in findings if f.verdict is not None and f.verdict.flagged]


def _said(subject: Subject, findings: Sequence[Finding], suspects: Sequence[Suspect]) -> tuple[Word, str]:
    ran = [f for f in findings if f.verdict is not None]
    names = _listed([f.defense.name for f in ran])
    doubt = _doubt(subject, findings)
    if doubt:
        return "cannot tell", f"Cannot tell: {doubt}."
    flagging = _flagging(findings)
    agreed = [s for s in suspects if len(set(s.by)) > 1]
    if agreed:
        # Who agrees may differ from class to class.
        together: dict[tuple[str, ...], list[Suspect]] = {}
        for suspect in agreed:
            together.setdefault(suspect.by, []).append(suspect)
        said = "; ".join(f"{_like_targets(group)} to {_listed(by)}" for by, group in together.items())
        return "found", f"Found: {said}."
    alone = [f for f in flagging if _suffices(f, len(subject.classes))]
    if alone:
        verdict = alone[0].verdict
        assert verdict is not None and verdict.p_value is not None
        own = [s for s in suspects if alone[0].defense.name in s.by]
        others = [f.defense.name for f in ran if f not in flagging]
        silent = f"; {_listed(others)} {'does' if len(others) == 1 else 'do'} not see it" if others else ""
        what = _like_targets(own) if own else "the model looks backdoored"
        return "found", f"Found: {what} to {alone[0].defense.name} (p = {verdict.p_value:.1g}){silent}."
    if flagging:
        told = [
            f"{f.defense.name} suspects {_classes([s for s in suspects if f.defense.name in s.by])}" for f in flagging
        ]
        return "cannot tell", (
            f"Cannot tell: {'; '.join(told)}, and no other detector agrees: some clean models look like this."
        )
    failed = [f for f in findings if f.how == "failed"]
    if failed:
        reason = foreign.line(failed[0].reason).rstrip(".")
        return "cannot tell", f"Cannot tell: {failed[0].defense.name} failed ({reason}), and {names} found nothing."
    return "nothing found", f"Nothing found by {names}."


def _suffices(finding: Finding, classes: int) -> bool:
    p_value = finding.verdict.p_value if finding.verdict is not None else None
    return p_value is not None and p_value < _ALONE and classes >= _ENOUGH


def _doubt(subject: Subject, findings: Sequence[Finding]) -> str:
    """Why no verdict can be given, whatever the detectors say; "" if one can."""
    if not any(f.how == "ran" for f in findings):
        reasons = "; ".join(f"{f.defense.name}: {f.reason.rstrip('.')}" for f in findings)
        return f"no detector ran ({foreign.line(reasons)})"
    if len(subject.classes) < _FEWEST:
        return f"detectors compare classes with each other, and {len(subject.classes)} are too few"
    if _clueless(subject):
        return (
            f"the model knows {100 * (subject.accuracy or 0):.0f} % of the clean images, as chance would: expected the "
            "order of --classes, --size and --normalise that it was trained with"
        )
    return ""


def _clueless(subject: Subject) -> bool:
    """Whether the model knows its clean images no better than chance: then it is not the model that it was."""
    if subject.accuracy is None:
        return False
    n = len(subject.labels)
    hits = round(subject.accuracy * n)
    # Of a handful of images even a perfect model could be lucky.
    return subject.accuracy < _HALF and bool(binom.sf(hits - 1, n, 1 / len(subject.classes)) > _CHANCE)


def _notes(subject: Subject) -> Iterator[str]:
    """What may be wrong with what the user said, or with the images."""
    clean = subject.clean
    if clean is None:
        return
    if clean.skipped:
        path, reason = clean.skipped[0]
        yield f"Left out: {counted(len(clean.skipped), 'clean image')} that cannot be read, such as {path}: {reason}"
    if clean.labels is None:
        yield "The clean images are in no folders of classes: the model's own answers are taken for their labels."
    better = _better(subject)
    if better:
        name, accuracy = better
        yield (
            f"The model knows {100 * (subject.accuracy or 0):.0f} % of the clean images, and "
            f"{100 * accuracy:.0f} % with --normalise {name}: is that how it was trained?"
        )


def _better(subject: Subject) -> tuple[str, float] | None:
    """The normalisation by which the model knows far more of the clean images, if there is one, and how many."""
    if subject.accuracy is None or subject.clean is None:
        return None
    found: dict[str, float] = {}
    for name in NORMALISATIONS:
        victim = subject.normalised(name)
        if victim is not None:
            found[name] = float((victim.predict(subject.clean.images) == subject.labels).mean())
    best = max(found, key=lambda name: found[name])
    return (best, found[best]) if found[best] > subject.accuracy + _BETTER else None


def _limits(findings: Sequence[Finding]) -> Iterator[str]:
    """What could not have been found, from the assumptions of the detectors that ran."""
    for finding in findings:
        if finding.how == "ran":
            told = finding.defense.assumption.rstrip(".")
            yield f"{finding.defense.name} supposes: {told}. It cannot find a backdoor that is otherwise."
            if finding.less:
                yield (
                    f"For --seconds {finding.defense.name} ran with {finding.less}: what takes more to be found is "
                    "not found, and a clean class may look like a target."
                )
        else:
            yield f"{finding.defense.name} did not run: {finding.reason.rstrip('.')}. What it alone finds is not found."
    yield (
        "A backdoor that acts on images of one class only, or that sends images to any label but their own, has no "
        "target of all classes, which most of these detectors look for. Nothing found is no proof of nothing there."
    )


def _like_targets(suspects: Sequence[Suspect]) -> str:
    one = len(suspects) == 1
    return f"{_classes(suspects)} {'looks like a target' if one else 'look like targets'} of a backdoor"


def _classes(suspects: Sequence[Suspect]) -> str:
    """The classes by name: "class 'cat'", "classes 'cat' and 'dog'"."""
    if not suspects:
        return "the model"
    names = [repr(foreign.line(s.name)) for s in suspects[:_NAMED]]
    more = len(suspects) - _NAMED
    return ("class " if len(suspects) == 1 else "classes ") + _listed([*names, *([f"{more} more"] if more > 0 else [])])


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else list(names))
