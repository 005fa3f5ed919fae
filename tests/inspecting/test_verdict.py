"""Whether an inspection finds what is there, and what it says of it."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import fastjsonschema
import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from bdbench import ModelDetector
from bdbench.inspecting import result
from tests.host.test_stopping import stopped
from tests.inspecting.asking import QUICK, AlsoSays, Breaks, Place, Says, ThirdSays, Told, command, quickly


def test_a_backdoor_is_found_with_its_target(found: tuple[Result, Path]) -> None:
    ended, out = found
    told = json.loads(ended.stdout)
    assert (ended.exit_code, told["verdict"]) == (1, "found"), ended.output
    assert told["suspects"][0] == {"label": 3, "name": "3", "by": ["neural-cleanse", "mm-bd"]}
    assert [d["flagged"] for d in told["detectors"]] == [True, True]
    assert told["clean"]["accuracy"] > 0.7 and told["model"]["shape"] == [8, 8, 1]
    assert told == json.loads((out / "inspect.json").read_text())
    # The clean images themselves were the inputs, of which one in twenty is flagged at most.
    (strip,) = told["inputs"]["detectors"]
    assert strip["name"] == "strip" and 1 <= strip["flagged"] <= 3 and told["inputs"]["images"] == 60


def test_nothing_is_found_in_a_clean_model(place: Place, tmp_path: Path) -> None:
    ended = command(place.good, QUICK[1], clean=place.clean, out=tmp_path)
    assert ended.exit_code == 0, ended.output
    assert ended.stdout.startswith("Nothing found by mm-bd.\n")
    assert "What could not have been found:" in ended.stdout


def test_a_detector_that_needs_clean_images_is_named_where_there_are_none(place: Place, tmp_path: Path) -> None:
    told = quickly(place.good, defenses=["neural-cleanse", Says(), Told()]).to_dict()
    reasons = {d["name"]: (d["how"], d["reason"]) for d in told["detectors"]}
    assert reasons["neural-cleanse"] == ("not run", "it needs clean images: expected --clean DIR")
    assert reasons["told"][0] == "not run" and "target_labels" in reasons["told"][1]
    assert told["verdict"] == "nothing found" and told["clean"] is None
    assert any("neural-cleanse did not run" in line for line in told["not_found"])


ALL, SURE = (7.0,), 1e-5


@pytest.mark.parametrize(
    ("defenses", "verdict", "names"),
    [
        ([Says()], "nothing found", []),
        ([Says(targets=ALL), AlsoSays(targets=ALL)], "found", ["7"]),
        ([Says(targets=ALL), AlsoSays(targets=(2.0,))], "cannot tell", ["2", "7"]),
        ([Says(targets=ALL), AlsoSays()], "cannot tell", ["7"]),
        ([Says(targets=ALL, p=0.04), AlsoSays()], "cannot tell", ["7"]),
        ([Says(targets=ALL, p=SURE), AlsoSays()], "found", ["7"]),
        ([Says(targets=ALL)], "cannot tell", ["7"]),
        ([Says(), Breaks()], "cannot tell", []),
        ([Says(targets=ALL), AlsoSays(targets=ALL), Breaks()], "found", ["7"]),
        ([Told()], "cannot tell", []),
    ],
)
def test_the_verdict_by_what_detectors_say(
    place: Place, defenses: list[ModelDetector], verdict: str, names: list[str]
) -> None:
    found = quickly(place.good, defenses=defenses)
    assert (found.verdict, [s.name for s in found.suspects]) == (verdict, names)
    assert found.exit_code == {"nothing found": 0, "found": 1, "cannot tell": 3}[verdict]
    assert "\n" not in found.sentence and found.sentence.lower().startswith(verdict)


def test_classes_in_another_order_are_told(place: Place, tmp_path: Path) -> None:
    shuffled = tmp_path / "classes.txt"
    shuffled.write_text("\n".join("3456789012"))
    found = quickly(place.good, clean=place.clean, classes=shuffled)
    assert found.verdict == "cannot tell" and "as chance would" in found.sentence


def test_a_handful_of_images_does_not_make_a_model_clueless(place: Place, tmp_path: Path) -> None:
    known = quickly(place.good, clean=place.clean).subject
    assert known.clean is not None
    right = int(np.flatnonzero(known.victim.predict(known.clean.images) == known.labels)[0])
    folder = tmp_path / str(known.labels[right])
    folder.mkdir()
    Image.fromarray(known.clean.images[right, ..., 0]).save(folder / "one.png")
    assert quickly(place.good, clean=tmp_path).verdict == "nothing found"


def test_another_normalisation_under_which_the_model_knows_more_is_told(place: Place) -> None:
    plain = quickly(place.good, clean=place.clean)
    assert plain.conclusion.notes == [] and plain.subject.accuracy is not None and plain.subject.accuracy > 0.7
    odd = quickly(place.good, clean=place.clean, mean=[5], std=[1])
    assert odd.subject.accuracy is not None and odd.subject.accuracy < 0.6
    assert "is that how it was trained?" in odd.conclusion.notes[-1]


def test_a_flat_folder_has_the_models_own_answers_for_labels(place: Place, tmp_path: Path) -> None:
    for path in place.clean.rglob("*.png"):
        shutil.copy(path, tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"")
    found = quickly(place.good, clean=tmp_path)
    assert found.subject.accuracy is None and found.subject.clean is not None and len(found.subject.clean.images) == 60
    assert np.array_equal(found.subject.labels, found.subject.victim.predict(found.subject.clean.images))
    assert [note.partition(",")[0] for note in found.conclusion.notes] == [
        "Left out: 1 clean image that cannot be read",
        "The clean images are in no folders of classes: the model's own answers are taken for their labels.",
    ]


def test_what_was_found_is_found_again(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {"defenses": ["mm-bd:images=2,steps=5"], "out": tmp_path}
    first = quickly(place.bad, **asked)
    monkeypatch.setattr("torch.autograd.grad", None)
    assert quickly(place.bad, **asked).findings[0].verdict == first.findings[0].verdict
    elsewhere = quickly(place.bad, **{**asked, "out": None}).findings[0]
    assert elsewhere.how == "failed" and "TypeError" in elsewhere.reason


def test_an_inspection_that_is_stopped_says_what_is_kept_and_how_it_goes_on(place: Place, tmp_path: Path) -> None:
    words = ["inspect", place.bad, "--clean", place.clean, "--defense", "neural-cleanse:rounds=99999"]
    out = tmp_path / "out"
    code, said = stopped(signal.SIGINT, lambda: list(out.glob(".stages/*/*.lock")), *words, "--out", out)
    assert code == 130
    assert said.splitlines()[-1].startswith(
        f"bdbench: stopped: finished pieces are kept in {out}/.stages; to go on: bdbench inspect "
    )
    assert [path.name for path in out.iterdir()] == [".stages"]


def test_a_dry_run_says_what_was_read_and_leaves_nothing(place: Place, tmp_path: Path) -> None:
    out, inputs = tmp_path / "out", place.clean / "3"
    ended = command(place.bad, clean=place.clean, inputs=inputs, dry_run=True, out=out)
    lines = dict(line.split(": ", 1) for line in ended.stderr.splitlines())
    assert ended.exit_code == 0 and ended.stdout == "" and not out.exists()
    assert lines["images"] == "8 x 8 x 1" and lines["classes"] == "10"
    count = len(list(inputs.iterdir()))
    assert lines["inputs"] == f"{count} image files in {inputs}"
    assert {lines[name].partition(",")[0] for name in ("neural-cleanse", "mm-bd", "strip")} == {"is to run"}
    ended = command(place.bad, clean=place.clean, inputs=inputs, dry_run=True, json=True, out=out)
    told = json.loads(ended.stdout)
    assert told["schema"] == "bdbench.inspect-plan/1" and not out.exists()
    properties = result.schema()["properties"]
    for name in ("model", "clean", "estimate"):
        fastjsonschema.compile(properties[name])(told[name])
    assert told["inputs"] == {"folder": str(inputs), "files": count, "not_run": {}}
    assert [one["name"] for one in told["estimate"]["detectors"]] == ["neural-cleanse", "mm-bd"]
    (strip,) = told["estimate"]["inputs"]
    assert strip["asked"].startswith("strip:") and strip["seconds"] > 0 and strip["reason"] == ""
    assert told["estimate"]["seconds"] > 0 and told["estimate"]["all_known"]
    alone = command(place.bad, *QUICK, dry_run=True, out=out)
    assert "neural-cleanse: is not run: it needs clean images: expected --clean DIR" in alone.stderr.splitlines()
    assert "mm-bd: is to run, about " in alone.stderr


def test_who_agrees_is_said_of_each_class(place: Place) -> None:
    both = [Says(targets=(0.0, 1.0)), AlsoSays(targets=(1.0, 2.0)), ThirdSays(targets=(2.0,))]
    sentence = quickly(place.good, defenses=both).sentence
    assert sentence == (
        "Found: class '1' looks like a target of a backdoor to says and also-says; "
        "class '2' looks like a target of a backdoor to also-says and third-says."
    )
