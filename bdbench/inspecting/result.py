"""What ``bdbench inspect`` found, as an object, as JSON, and as the files that it leaves."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import bdbench
from bdbench import foreign
from bdbench.cells import environment
from bdbench.components import configs
from bdbench.display import templates
from bdbench.display.verdicts import EXIT_CODES, Word
from bdbench.errors import writable
from bdbench.experiment import Hooks
from bdbench.images.decoding import encoded
from bdbench.inspecting import page
from bdbench.inspecting.detectors import Finding
from bdbench.inspecting.foresight import Foresight
from bdbench.inspecting.inputs import Inputs, Scores
from bdbench.inspecting.subject import Subject
from bdbench.inspecting.verdict import Conclusion, Suspect
from bdbench.storage import schemas
from bdbench.storage.store import write_file, written_whole

SCHEMA = "bdbench.inspect/1"
REPORT, RESULT, SCORES, TRIGGERS = "report.html", "inspect.json", "scores.csv", "triggers"
# Pixels of a picture's longer side, at least: of 8 x 8 one could see nothing.
_SIDE = 160
# Under what security teams file a backdoored model, by the names of the lists themselves.
_IDENTIFIERS = [
    {"scheme": "MITRE ATLAS", "id": "AML.T0018.000", "name": "Poison AI Model"},
    {"scheme": "NIST AI 100-2 E2025", "id": "NISTAML.023", "name": "Backdoor Poisoning"},
    {"scheme": "OWASP Machine Learning Security Top Ten 2023", "id": "ML10:2023", "name": "Model Poisoning"},
]


@dataclass(frozen=True)
class Inspection:
    """What was found. verdict: "found", "nothing found" or "cannot tell"; exit_code: of the command, by the verdict."""

    subject: Subject
    foresight: Foresight
    findings: list[Finding]
    inputs: Inputs | None
    conclusion: Conclusion
    seconds: float

    @property
    def verdict(self) -> Word:
        """One of three words."""
        return self.conclusion.word

    @property
    def sentence(self) -> str:
        """The verdict in a sentence."""
        return self.conclusion.sentence

    @property
    def suspects(self) -> list[Suspect]:
        """The classes that detectors take for the attacker's, the most suspected first."""
        return self.conclusion.suspects

    @property
    def exit_code(self) -> int:
        """0: nothing found; 1: found; 3: cannot tell."""
        return EXIT_CODES[self.verdict]

    def to_dict(self) -> dict[str, Any]:
        """What inspect.json holds; valid against its schema (see ``schema``)."""
        subject, said = self.subject, self.conclusion
        defenses = [f.defense for f in self.findings] + [s.defense for s in (self.inputs.by if self.inputs else ())]
        return {
            "schema": SCHEMA,
            "bdbench": bdbench.__version__,
            "verdict": said.word,
            "sentence": said.sentence,
            "exit_code": self.exit_code,
            "suspects": [{"label": s.label, "name": s.name, "by": list(s.by)} for s in said.suspects],
            "not_found": said.limits,
            "notes": said.notes,
            "model": model_of(subject),
            "clean": clean_of(subject),
            "detectors": [
                _detector(finding, subject, [name for name, _ in pictures])
                for finding, pictures in zip(self.findings, self.pictures, strict=True)
            ],
            "inputs": _inputs(self.inputs),
            "estimate": self.foresight.to_dict(),
            "identifiers": _IDENTIFIERS,
            "environment": environment.describe(
                subject.bench.trainer.device,
                subject.victim.precision,
                Hooks().versions(subject.architecture, *defenses),
            ),
            "seed": subject.seed,
            "seconds": round(self.seconds, 3),
        }

    def write(self, folder: Path) -> None:
        """Write report.html, the pictures, scores.csv if inputs were scored, and inspect.json, last, into a folder.

        What an earlier inspection left there is replaced. Raises BdbenchError if the place cannot be written.
        """
        with writable(folder):
            for name in (RESULT, SCORES):
                (folder / name).unlink(missing_ok=True)
            shutil.rmtree(folder / TRIGGERS, ignore_errors=True)
        pictures = [one for shown in self.pictures for one in shown]
        if pictures:
            with written_whole(folder / TRIGGERS) as aside:
                for name, content in pictures:
                    (aside / name).write_bytes(content)
        if self.inputs is not None:
            write_file(folder / SCORES, scores_csv(self.inputs, self.subject.classes))
        write_file(folder / REPORT, self.page())
        write_file(folder / RESULT, schemas.dumps(self.to_dict()))

    @functools.cached_property
    def pictures(self) -> list[list[tuple[str, bytes]]]:
        """For each finding its reversed triggers as PNG files, with their names in the folder of them."""
        found = []
        for place, finding in enumerate(self.findings):
            name = finding.defense.name
            again = sum(other.defense.name == name for other in self.findings[:place])
            name = f"{name}-again{again}" if again else name
            found.append(
                [
                    (f"{name}-label{made.label}-{i}.png", encoded(enlarged(made.picture)))
                    for i, made in enumerate(finding.triggers)
                ]
            )
        return found

    def page(self) -> str:
        """The report, one HTML file that fetches nothing."""
        pictures = [[content for _, content in shown] for shown in self.pictures]
        view = page.view(self.subject, self.findings, self.inputs, self.conclusion, pictures)
        return templates.load("inspect.html").render(**view)


def schema() -> dict[str, Any]:
    """The JSON schema of inspect.json."""
    return schemas.schema("inspect.schema.1.json")


def scores_csv(inputs: Inputs, classes: tuple[str, ...]) -> str:
    """A row for each image and detector that ran; no cell is a formula to a spreadsheet."""
    rows = []
    for one in inputs.by:
        flagged = one.flagged
        for i, score in enumerate(one.scores):
            told = "" if flagged is None else str(bool(flagged[i])).lower()
            name = str(inputs.paths[i].relative_to(inputs.root))
            rows.append([name, classes[inputs.answers[i]], one.defense.name, float(score), told])
    return foreign.csv_text(["image", "answer", "detector", "score", "flagged"], rows)


def enlarged(picture: np.ndarray) -> np.ndarray:
    """A small picture with every pixel as a square, so that it can be seen."""
    factor = max(1, -(-_SIDE // max(picture.shape[:2])))
    return picture.repeat(factor, 0).repeat(factor, 1)


def model_of(subject: Subject) -> dict[str, Any]:
    """What was read of the checkpoint."""
    read = subject.checkpoint
    return {
        "file": str(read.path),
        "sha256": read.digest,
        "format": read.format,
        "model": configs.spec(subject.architecture.config()),
        "parameters": sum(p.numel() for p in subject.victim.network.parameters()),
        "classes": list(subject.classes),
        "shape": list(subject.shape),
        "mean": [round(float(v), 6) for v in subject.victim.mean],
        "std": [round(float(v), 6) for v in subject.victim.std],
    }


def clean_of(subject: Subject) -> dict[str, Any] | None:
    """What was read of the clean images, None without any."""
    clean = subject.clean
    if clean is None:
        return None
    return {
        "folder": str(clean.root),
        "found": clean.found,
        "used": len(clean.images),
        "labelled": clean.labels is not None,
        "accuracy": subject.accuracy,
        "skipped": [{"file": str(path), "reason": reason} for path, reason in clean.skipped],
    }


def _detector(finding: Finding, subject: Subject, files: Sequence[str]) -> dict[str, Any]:
    verdict = finding.verdict
    return {
        **_who(finding),
        "flagged": None if verdict is None else bool(verdict.flagged),
        "score": None if verdict is None else float(verdict.score),
        "p_value": None if verdict is None or verdict.p_value is None else float(verdict.p_value),
        "targets": [] if verdict is None else [int(label) for label in sorted(verdict.targets)],
        "triggers": [
            {
                "label": made.label,
                "name": subject.classes[made.label],
                "title": made.title,
                "file": f"{TRIGGERS}/{file}",
            }
            for made, file in zip(finding.triggers, files, strict=True)
        ],
    }


def _inputs(inputs: Inputs | None) -> dict[str, Any] | None:
    if inputs is None:
        return None
    return {
        "folder": str(inputs.root),
        "images": len(inputs.paths),
        "skipped": [{"file": str(path), "reason": reason} for path, reason in inputs.skipped],
        "detectors": [
            {**_who(one), "limit": one.limit, "flagged": None if one.flagged is None else int(one.flagged.sum())}
            for one in inputs.by
        ],
    }


def _who(found: Finding | Scores) -> dict[str, Any]:
    return {
        "name": found.defense.name,
        "spec": configs.spec(found.defense.config()),
        "how": found.how,
        "reason": foreign.line(found.reason),
        "assumption": found.defense.assumption,
        "paper": found.defense.paper,
        "seconds": round(found.seconds, 3),
    }
