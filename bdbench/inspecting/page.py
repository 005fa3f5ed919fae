"""What report.html shows of an inspection; the page itself is a template."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bdbench import foreign
from bdbench.cells import metrics
from bdbench.components import configs
from bdbench.display import templates
from bdbench.display.verdicts import TONES
from bdbench.display.words import counted
from bdbench.errors import BdbenchError
from bdbench.images.decoding import encoded
from bdbench.inspecting.detectors import Finding
from bdbench.inspecting.inputs import Inputs, Scores
from bdbench.inspecting.subject import Subject
from bdbench.inspecting.verdict import Conclusion

_MOST_INPUTS = 12


def view(
    subject: Subject,
    findings: Sequence[Finding],
    inputs: Inputs | None,
    said: Conclusion,
    pictures: Sequence[Sequence[bytes]],
) -> dict[str, Any]:
    """What the template is given. pictures: of each finding its reversed triggers, as PNG."""
    return {
        "title": f"Is there a backdoor in {foreign.line(subject.checkpoint.path.name)}?",
        "tone": TONES[said.word],
        "sentence": said.sentence,
        "suspects": [foreign.line(f"{s.name} (label {s.label}), by {', '.join(s.by)}") for s in said.suspects],
        "notes": list(map(foreign.line, said.notes)),
        "limits": list(map(foreign.line, said.limits)),
        "detectors": [_detector(subject, f, own) for f, own in zip(findings, pictures, strict=True)],
        "inputs": [] if inputs is None else [_scores(subject, inputs, one) for one in inputs.by],
        "skipped": 0 if inputs is None else len(inputs.skipped),
        "facts": [(name, foreign.line(value)) for name, value in facts(subject)],
    }


def told(finding: Finding) -> str:
    """What a detector says, in a line."""
    verdict = finding.verdict
    if verdict is None:
        return f"{finding.how}: {foreign.line(finding.reason)}"
    p_value = "" if verdict.p_value is None else f", p = {verdict.p_value:.2g}"
    word = "suspects the model" if verdict.flagged else "finds nothing"
    return f"{word}: score {verdict.score:.3g}{p_value}, {finding.seconds:.1f} s"


def told_of_inputs(one: Scores) -> str:
    """What an input detector says, in a line."""
    if one.how != "ran":
        return f"{one.how}: {foreign.line(one.reason)}"
    flagged = one.flagged
    if flagged is None:
        return f"{counted(len(one.scores), 'image')} scored; without clean images nothing says which are suspicious"
    usual = one.usual * len(flagged)
    said = f"{int(flagged.sum())} of {counted(len(flagged), 'image')} flagged; of clean ones {usual:.0f} would be"
    return said + (f", and {100 * one.as_high:.0f} % are at the limit" if one.as_high > metrics.REFUSED_SHARE else "")


def _detector(subject: Subject, finding: Finding, pictures: Sequence[bytes]) -> dict[str, Any]:
    targets = finding.verdict.targets if finding.verdict is not None else ()
    order = sorted(range(len(finding.triggers)), key=lambda i: finding.triggers[i].label not in targets)
    shown = []
    for i in order:
        made = finding.triggers[i]
        suspected = made.label in targets
        name = f"{subject.classes[made.label]}{' (suspected)' if suspected else ''}"
        shown.append((templates.picture(pictures[i]), foreign.line(f"{name}: {made.title}"), suspected))
    return {"name": finding.defense.name, "told": told(finding), "paper": finding.defense.paper, "pictures": shown}


def _scores(subject: Subject, inputs: Inputs, one: Scores) -> dict[str, Any]:
    shown = []
    for i in np.argsort(-one.scores, kind="stable")[:_MOST_INPUTS]:
        try:
            picture = templates.picture(encoded(subject.form.read(inputs.paths[i])))
        except BdbenchError:  # it was there when it was scored
            continue
        name = str(inputs.paths[i].relative_to(inputs.root))
        flagged = one.flagged is not None and bool(one.flagged[i])
        answer = subject.classes[inputs.answers[i]]
        text = foreign.line(f"{name}: taken for {answer}, score {one.scores[i]:.3g}")
        shown.append((picture, text, flagged))
    return {"name": one.defense.name, "told": told_of_inputs(one), "paper": one.defense.paper, "pictures": shown}


def facts(subject: Subject) -> Iterator[tuple[str, str]]:
    """What was read, by name."""
    read, clean = subject.checkpoint, subject.clean
    yield "file", f"{read.path} ({read.format}, SHA-256 {read.digest})"
    yield "model", configs.spec(subject.architecture.config())
    yield "images", " x ".join(map(str, subject.shape))
    yield "normalisation", f"mean {_numbers(subject.victim.mean)}, std {_numbers(subject.victim.std)}"
    yield "classes", str(len(subject.classes))
    if clean is not None:
        known = "" if subject.accuracy is None else f", of which it knows {100 * subject.accuracy:.0f} %"
        yield "clean images", f"{len(clean.images)} of {clean.found} in {clean.root}{known}"


def _numbers(values: np.ndarray) -> str:
    return ", ".join(f"{v:.4g}" for v in values)
