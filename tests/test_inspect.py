"""``bdbench inspect``: whether it finds what is there, what it refuses, and what it leaves."""

from __future__ import annotations

import csv
import json
import os
import pickle
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import fastjsonschema
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

import bdbench
from bdbench import BdbenchError, InputDetector, ModelDetector, State, Tools, Verdict, checkpoint, inspecting, metrics
from bdbench.cli import cli
from bdbench.inspecting import result, weights
from tests.test_stopping import stopped

# Of an older one no pickle is read, whatever is in it.
reads_pickles = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < checkpoint._SAFE_TORCH, reason="of this torch no pickle is read"
)
QUICK = ("neural-cleanse:steps=150,batch=60", "mm-bd:images=4,steps=60")
VICTIM: dict[str, Any] = {"dataset": "digits:subset=600", "model": "convnet:width=4,epochs=15", "device": "cpu"}
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@dataclass(frozen=True)
class Place:
    """What the tests share: a backdoored and a clean model, and clean images in folders of classes."""

    bad: Path
    good: Path
    clean: Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("inspect")
    for name, attack in (("bad", "badnets:rate=0.1,target=3"), ("good", "none")):
        made = bdbench.run(attack, "random", budget=0, seed=1, out=root / "runs", **VICTIM)
        done = CliRunner().invoke(
            cli, ["export", "victim", made.id, str(root / f"{name}.safetensors"), "--out", str(root / "runs")]
        )
        assert done.exit_code == 0, done.output
    digits = bdbench.load("digits").test
    for i, (image, label) in enumerate(zip(np.asarray(digits.images)[:60], digits.labels, strict=False)):
        (root / "clean" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(root / "clean" / str(label) / f"{i}.png")
    return Place(root / "bad.safetensors", root / "good.safetensors", root / "clean")


@pytest.fixture(scope="module")
def found(place: Place, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    out = tmp_path_factory.mktemp("found") / "out"
    return command(place.bad, *QUICK, clean=place.clean, inputs=place.clean, out=out, json=True), out


def command(file: Path, *defenses: str, **options: Any) -> Result:
    words = [word for spec in defenses for word in ("--defense", spec)]
    for key, value in {"device": "cpu", **options}.items():
        name = key.replace("_", "-")
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return CliRunner().invoke(cli, ["inspect", str(file), *words])


def quickly(file: Path, **options: Any) -> bdbench.Inspection:
    return bdbench.inspect(file, **{"defenses": [Says()], "device": "cpu", **options})


@dataclass(frozen=True, kw_only=True)
class Says(ModelDetector):
    """Says what it is told to say."""

    name = "says"
    assumption = "None at all."
    targets: tuple[float, ...] = ()
    p: float | None = None

    def inspect(self, tools: Tools) -> Verdict:
        return Verdict(1.0, bool(self.targets), tuple(int(t) for t in self.targets), self.p)


@dataclass(frozen=True, kw_only=True)
class AlsoSays(Says):
    name = "also-says"


@dataclass(frozen=True, kw_only=True)
class Breaks(ModelDetector):
    name = "breaks"

    def inspect(self, tools: Tools) -> Verdict:
        raise ValueError("it is broken\nin two lines")


@dataclass(frozen=True, kw_only=True)
class Told(ModelDetector):
    name = "told"
    oracles = ("target_labels",)

    def inspect(self, tools: Tools) -> Verdict:
        raise AssertionError("it is not asked")


@dataclass(frozen=True, kw_only=True)
class Bright(InputDetector):
    name = "bright"

    def score(self, images: np.ndarray, state: State, tools: Tools) -> np.ndarray:
        return images.mean((1, 2, 3))


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


def test_what_it_leaves_is_valid_and_whole(found: tuple[Result, Path]) -> None:
    _, out = found
    told = json.loads((out / "inspect.json").read_text())
    validate = fastjsonschema.compile(result.schema())
    validate(told)
    with pytest.raises(fastjsonschema.JsonSchemaException):
        validate({**told, "verdict": "perhaps"})
    named = [t["file"] for d in told["detectors"] for t in d["triggers"]]
    assert len(named) == 10 * 2 + 10 and sorted(named) == sorted(f"triggers/{p.name}" for p in out.glob("triggers/*"))
    for name in named:
        with Image.open(out / name) as picture:
            assert picture.format == "PNG" and min(picture.size) >= 160


class Page(HTMLParser):
    """The pictures of a page with their texts, and everything it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.pictures: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.pictures += [values.get("alt") or ""] if tag == "img" else []
        self.fetched += [v for k, v in values.items() if k in ("src", "href") and v and not v.startswith("data:")]


def test_the_report_is_one_file_whose_pictures_have_texts(found: tuple[Result, Path]) -> None:
    _, out = found
    text = (out / "report.html").read_text()
    page = Page(text)
    assert page.fetched == [] and "url(" not in text
    assert len(page.pictures) == 30 + 12 and all(page.pictures)
    assert page.pictures[0].startswith("3 (suspected): mask, norm ")
    assert "class &#39;3&#39; looks like a target of a backdoor" in text


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium, or set CHROMIUM")
def test_the_report_is_readable_on_a_phone(found: tuple[Result, Path]) -> None:
    api = pytest.importorskip("playwright.sync_api")
    asked: list[str] = []
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.on("request", lambda request: asked.append(request.url[:5]))
        page.goto((found[1] / "report.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate("Math.min(...[...document.images].map(i => i.naturalWidth && i.clientWidth))") >= 120
        browser.close()
    assert set(asked) <= {"file:", "data:"}


def test_inputs_are_scored_in_cells_that_no_spreadsheet_computes(place: Place, tmp_path: Path) -> None:
    inputs = tmp_path / "inputs"
    (inputs / "deep").mkdir(parents=True)
    first = next(place.clean.rglob("*.png"))
    shutil.copy(first, inputs / "=1+1.png")
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(inputs / "deep" / "bright.png")
    (inputs / "broken.png").write_bytes(b"no image")
    (inputs / "notes.txt").write_text("no image by its name")
    out = tmp_path / "out"
    found = quickly(place.good, defenses=[Says(), Bright()], inputs=inputs, clean=place.clean, out=out)
    rows = list(csv.DictReader((out / "scores.csv").open()))
    assert [r["image"] for r in rows] == ["'=1+1.png", "deep/bright.png"]
    assert [r["flagged"] for r in rows] == ["false", "true"] and float(rows[1]["score"]) == 255
    assert found.subject.clean is not None and found.inputs is not None
    usual = found.subject.clean.images.mean((1, 2, 3))
    assert found.inputs.by[0].limit == metrics.refusal_threshold(usual)
    assert [p.name for p, _ in found.inputs.skipped] == ["broken.png"]
    # Without clean images nothing says what is suspicious; what an earlier inspection left is gone.
    again = quickly(place.good, defenses=[Says(), Bright()], inputs=inputs, out=out).to_dict()
    assert again["inputs"]["detectors"][0]["flagged"] is None
    assert {r["flagged"] for r in csv.DictReader((out / "scores.csv").open())} == {""}
    quickly(place.good, out=out)
    assert not (out / "scores.csv").exists() and not (out / "triggers").exists()


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
        "1 clean images do not read and are left out",
        "The clean images are in no folders of classes: the model's own answers are taken for their labels.",
    ]


def test_a_detector_asked_twice_is_one_witness_and_leaves_pictures_of_both(place: Place, tmp_path: Path) -> None:
    defenses = [f"mm-bd:images=1,steps={steps},significance=1" for steps in (1, 2)]
    told = quickly(place.good, defenses=defenses, out=tmp_path).to_dict()
    assert [d["flagged"] for d in told["detectors"]] == [True, True] and told["verdict"] == "cannot tell"
    files = [t["file"] for d in told["detectors"] for t in d["triggers"]]
    assert len(set(files)) == 20 == len(list(tmp_path.glob("triggers/*.png")))


def test_what_was_found_is_found_again(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {"defenses": ["mm-bd:images=2,steps=5"], "out": tmp_path}
    first = quickly(place.bad, **asked)
    monkeypatch.setattr("torch.autograd.grad", None)
    assert quickly(place.bad, **asked).findings[0].verdict == first.findings[0].verdict
    elsewhere = quickly(place.bad, **{**asked, "out": None}).findings[0]
    assert elsewhere.how == "failed" and "TypeError" in elsewhere.reason


def test_an_inspection_that_is_stopped_says_what_is_kept_and_how_it_goes_on(place: Place, tmp_path: Path) -> None:
    words = ["inspect", place.bad, "--clean", place.clean, "--defense", "neural-cleanse:steps=99999"]
    out = tmp_path / "out"
    code, said = stopped(signal.SIGINT, lambda: list(out.glob(".stages/*/*.lock")), *words, "--out", out)
    assert code == 130
    assert said.splitlines()[-1].startswith(
        f"bdbench: stopped: finished pieces are kept in {out}/.stages; to go on: bdbench inspect "
    )
    assert [path.name for path in out.iterdir()] == [".stages"]


def state(place: Place) -> dict[str, torch.Tensor]:
    return load_file(place.good)


Wrapped = Callable[[dict[str, torch.Tensor]], Any]


@pytest.mark.parametrize(
    "wrapped",
    [
        dict,
        lambda s: {"epoch": 3, "state_dict": s},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {"model": {f"_orig_mod.module.{k}": v.half() for k, v in s.items()}, "lr": 0.1},
        lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")},
    ],
    ids=["plain", "in a checkpoint", "of DataParallel", "compiled, in half precision", "without counters"],
)
@reads_pickles
def test_a_state_dict_of_torch_is_read_as_it_is_in_the_world(place: Place, tmp_path: Path, wrapped: Wrapped) -> None:
    file = tmp_path / "model.pt"
    torch.save(wrapped(state(place)), file)
    own, other = (
        quickly(f, model="convnet:width=4", classes=10, size=8, channels=1, normalise="half").subject
        for f in (place.good, file)
    )
    assert other.checkpoint.format == "torch" and own.checkpoint.format == "safetensors"
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1)).astype(np.uint8)
    assert other.victim.logits(images) == pytest.approx(own.victim.logits(images), rel=0.01, abs=0.01)


def test_a_network_of_torchvision_keeps_its_own_names(tmp_path: Path) -> None:
    from torchvision import models

    network = models.resnet18(num_classes=5).eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    subject = quickly(
        tmp_path / "model.safetensors", model="torchvision:net=resnet18,small=false", classes=5, size=32
    ).subject
    x = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    normal = torch.from_numpy((x / 255 - mean) / std).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        assert subject.victim.logits(x) == pytest.approx(network(normal).numpy(), abs=1e-4)


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("evil-was-run",)


@reads_pickles
def test_a_pickle_of_anything_else_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": torch.zeros(2), "evil": Evil()}, "zip.pt")
    Path("old.pt").write_bytes(pickle.dumps(Evil()))
    torch.save(torch.nn.Linear(2, 2), "module.pt")
    cases = {"zip.pt": "asks for posix.mkdir", "old.pt": "holds more than tensors", "module.pt": "asks for torch.nn."}
    for name, asks in cases.items():
        ended = CliRunner().invoke(cli, ["inspect", name, "--model", "convnet", "--classes", "10", "--size", "8"])
        assert ended.exit_code == 2 and not Path("evil-was-run").exists()
        (line,) = ended.stderr.splitlines()
        assert line.startswith(f"bdbench: {name} is refused: it is a pickle that {asks}")
        assert "expected a safetensors file" in line


def test_an_older_torch_reads_no_pickle(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(state(place), tmp_path / "model.pt")
    monkeypatch.setattr(torch, "__version__", "2.9.1")
    with pytest.raises(BdbenchError, match=r"expected safetensors, or torch >= 2\.10"):
        quickly(tmp_path / "model.pt", model="convnet", classes=10, size=8)


def test_without_safetensors_it_says_how_to_get_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    with pytest.raises(BdbenchError, match=r"needs safetensors: expected pip install 'bdbench\[safetensors\]'"):
        quickly(place.good)


@pytest.fixture
def odd(place: Place, tmp_path: Path) -> Iterator[dict[str, Path]]:
    """Files and folders that are not what they should be."""
    weights = state(place)
    save_file({**weights, "extra.weight": torch.zeros(2)}, tmp_path / "extra.safetensors")
    last = max(weights)
    save_file({k: v for k, v in weights.items() if k != last}, tmp_path / "missing.safetensors")
    save_file({**weights, last: torch.full_like(weights[last].float(), torch.nan)}, tmp_path / "nan.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(place.good.read_bytes()[:-100])
    (tmp_path / "text.pt").write_text("no weights")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"model": weights, "ema": weights}, tmp_path / "two.pt")
    (tmp_path / "twice.txt").write_text("a\nb\na\n")
    (tmp_path / "empty").mkdir()
    for name in ("text/a.txt", "mixed/a.png", "mixed/0/a.png", "named/zero/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    for name, side in (("sizes/0/a.png", 8), ("sizes/1/b.png", 9)):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("L", (side, side)).save(tmp_path / name)
    yield {path.name: path for path in (place.good, place.clean, *tmp_path.iterdir())}


OWN = {"model": "convnet:width=4"}
KNOWN = {**OWN, "classes": 10, "size": 8, "channels": 1}
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("gone.safetensors", {}, r"no file at .*gone\.safetensors: expected a safetensors file, or what torch.save"),
    ("cut.safetensors", {}, r"cannot read .*cut\.safetensors as safetensors: "),
    ("text.pt", {}, r"text\.pt is no checkpoint by its first bytes: expected a safetensors file"),
    ("list.pt", {}, r"list\.pt holds a list and no state dict: expected"),
    ("two.pt", OWN, r"two\.pt holds 2 state dicts, 'model', 'ema': expected one"),
    ("extra.safetensors", KNOWN, r"it has extra\.weight, which the mod"),
    ("missing.safetensors", KNOWN, r"it lacks .*expected the architecture"),
    ("nan.safetensors", KNOWN, r"holds NaN or infinite values: expected fin"),
    ("good.safetensors", {"model": "convnet"}, r"is not of model 'convnet:width=32' .*has the parameters width"),
    ("good.safetensors", {"model": "resnet9", "size": 16}, r"is not of model 'resnet9': it lacks .* and it has "),
    ("good.safetensors", {"model": "convnt"}, r"unknown model 'convnt': did you mean 'convnet'\?"),
    ("good.safetensors", {"classes": 12}, r"is of 10 classes .* and 12 are named: expected 10 classes"),
    ("good.safetensors", {"classes": 1}, r"1 classes are named: expected --classes"),
    ("good.safetensors", {"classes": "gone.txt"}, r"no file of classes at gone\.txt: expected a name a line"),
    ("good.safetensors", {"classes": "twice.txt"}, r"the class 'a' is named twice"),
    ("good.safetensors", {"channels": 3}, r"takes images of 1 channels .* and they have 3: expected channels=1"),
    ("good.safetensors", {"channels": 2}, r"channels=2 is not allowed: expected 1 or 3"),
    ("good.safetensors", {"size": 2}, r"size=2 is not allowed: expected 4\.\.4096"),
    ("good.safetensors", {"normalise": "imagnet"}, r"unknown normalisation 'imagnet': did you mean 'imagenet'\?"),
    ("good.safetensors", {"normalise": "imagenet"}, r"mean=\[0\.485.* is not allowed: expected 1 or 1 numbers"),
    ("good.safetensors", {"mean": [0.5]}, r"mean and std come together"),
    ("good.safetensors", {"mean": [0.5], "std": [0.0]}, r"std=\[0\.0\] is not allowed: expected numbers > 0"),
    ("good.safetensors", {"mean": [0.5], "std": [1.0], "normalise": "none"}, r"both given: expected either"),
    ("good.safetensors", {"seed": -1}, r"seed=-1 is not allowed: expected an integer >= 0"),
    ("good.safetensors", {"device": "gpu"}, r"device 'gpu' is not available"),
    ("good.safetensors", {"clean": "gone"}, r"gone is not there: expected image files"),
    ("good.safetensors", {"clean": "empty"}, r"empty holds no images: expected"),
    ("good.safetensors", {"clean": "text"}, r"text holds no images: expected"),
    ("good.safetensors", {"clean": "mixed"}, r"mixed has images beside folders of classes \(a\.png\): expected either"),
    ("good.safetensors", {"clean": "named"}, r"zero is no folder of a class: expected one of 0, 1, 2"),
    ("good.safetensors", {"inputs": "empty"}, r"empty holds no images: expected"),
    ("good.safetensors", {"defenses": ["spectral"]}, r"is of stage 'training set': expected a detector of "),
    ("good.safetensors", {"defenses": ["strip"]}, r"defense 'strip' scores inputs: expected --inputs DIR"),
    ("good.safetensors", {"defenses": ["mm-bd", "mm-bd"]}, r"'mm-bd' is given twice"),
    ("list.pt", {"defenses": ["mmbd"]}, r"unknown defense 'mmbd': did you mean 'mm-bd'\?"),
    ("plain.safetensors", {}, r"does not say of what architecture it is: expected --model"),
    ("plain.safetensors", OWN, r"does not name its classes: expected --classes"),
    ("plain.safetensors", {**OWN, "classes": 10}, r"nothing says how large the model's images are: expected --size N"),
    ("plain.safetensors", {**OWN, "clean": "sizes"}, r"images differ in size: .* is .*: expected --size N"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "asked", "told"),
    [pytest.param(*one, id=one[2], marks=[reads_pickles] if one[0].endswith(".pt") else []) for one in REFUSED],
)
def test_what_does_not_fit_is_refused_in_a_line(
    place: Place, odd: dict[str, Path], tmp_path: Path, file: str, asked: dict[str, Any], told: str
) -> None:
    save_file(state(place), tmp_path / "plain.safetensors")
    asked = {k: odd.get(v, v) if isinstance(v, str) else v for k, v in asked.items()}
    out = tmp_path / "out"
    with pytest.raises(BdbenchError, match=told) as caught:
        quickly(odd.get(file, tmp_path / file), out=out, **asked)
    assert "\n" not in str(caught.value) and not out.exists()


def test_inputs_of_which_none_reads_are_refused(place: Place, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(BdbenchError, match=r"holds no images that read: cannot read the image .*a\.png"):
        quickly(place.good, inputs=tmp_path)


def test_a_place_that_cannot_be_written_is_told_before_work(place: Place, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(BdbenchError, match="cannot write to .*out"):
        quickly(place.good, defenses=[Breaks()], out=tmp_path / "out")


def test_the_command_refuses_numbers_that_are_none(place: Place) -> None:
    ended = command(place.good, mean="a,b", std="1")
    assert (
        ended.exit_code == 2 and ended.stderr == "bdbench: --mean 'a,b': expected numbers such as 0.485,0.456,0.406\n"
    )


def test_what_a_file_of_ours_says_is_checked(place: Place, tmp_path: Path) -> None:
    for told in ("[]", '{"shape": [8, 8]}', '{"classes": "0123456789"}', "{"):
        save_file(state(place), tmp_path / "model.safetensors", {"bdbench": told})
        with pytest.raises(BdbenchError, match="damaged|cannot read"):
            quickly(tmp_path / "model.safetensors", model="convnet:width=4")
    assert inspecting.inspect is bdbench.inspect


def test_bti_dbf_shows_images_as_its_generator_changes_them(place: Place) -> None:
    quick = "bti-dbf:clean=8,mask_steps=2,steps=2,width=2"
    (finding,) = quickly(place.good, defenses=[quick], clean=place.clean).findings
    assert finding.how == "ran" and len(finding.triggers) == 16
    clean, made = finding.triggers[:2]
    assert clean.label == made.label and clean.picture.shape == made.picture.shape == (8, 8, 1)
    assert "as the generator changes it" in made.title


LAYERS = st.sets(st.from_regex(r"layer[0-9]\.[0-9]\.(conv|bn)\.(weight|bias)", fullmatch=True), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(LAYERS, st.sampled_from(["", "module.", "_orig_mod.module."]), st.sampled_from(["fc", "classifier.1", "linear"]))
def test_names_that_differ_by_what_stands_before_them_are_known(layers: set[str], before: str, head: str) -> None:
    own = {name: f"body.{name}" for name in sorted(layers)} | {f"{head}.{w}": f"linear.{w}" for w in ("weight", "bias")}
    tensors = {f"{before}{name}": torch.tensor(float(i)) for i, name in enumerate(own)}
    known = {name: torch.zeros(()) for name in own.values()}
    made = weights.named(tensors, known)
    assert {name: float(t) for name, t in made.items()} == {name: float(i) for i, name in enumerate(own.values())}
    # What is a stranger's is left under its own name, for the error to tell.
    strange = weights.named({**tensors, f"{before}stranger.weight": torch.zeros(2)}, known)
    assert any(name.endswith("stranger.weight") for name in strange) and strange.keys() != known.keys()


def test_a_dry_run_says_what_was_read_and_leaves_nothing(place: Place, tmp_path: Path) -> None:
    out, inputs = tmp_path / "out", place.clean / "3"
    ended = command(place.bad, clean=place.clean, inputs=inputs, dry_run=True, out=out)
    lines = dict(line.split(": ", 1) for line in ended.stderr.splitlines())
    assert ended.exit_code == 0 and ended.stdout == "" and not out.exists()
    assert lines["images"] == "8 x 8 x 1" and lines["classes"] == "10"
    count = len(list(inputs.iterdir()))
    assert lines["inputs"] == f"{count} image files in {inputs}"
    assert {lines[name] for name in ("neural-cleanse", "mm-bd", "strip")} == {"is to run"}
    alone = command(place.bad, *QUICK, dry_run=True, out=out)
    assert "neural-cleanse: is not run: it needs clean images: expected --clean DIR" in alone.stderr.splitlines()
    assert "mm-bd: is to run" in alone.stderr.splitlines()
