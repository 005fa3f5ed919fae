"""How many surrogate networks an hour a device trains, as one JSON object on standard output.

    python docs/gpu/throughput.py --images cifar10.npz > throughput.json
    python docs/gpu/throughput.py --n 400 --epochs 1 --hidden 4 --chunks 4 --device cpu     # a try without a GPU

The file has ``images``, uint8 (n, H, W, C), and ``labels``, int (n,); without one, smooth random pictures of ten
classes. Every number is a median after a warm-up; seconds of a network count its training and all n margins.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F

from bdbench_datamodel.ensemble import SurrogateRecipe, draw_subsets, held_examples, train_margins, train_parameters
from bdbench_datamodel.resnet import ResNet9, ResNetTrainer, Session, tuned
from bdbench_datamodel.surrogates import BatchedPatchNet

_PATCH_EPOCHS = 20


@dataclass(frozen=True)
class Bench:
    """The data, where it is worked on, and how often."""

    images: np.ndarray
    labels: np.ndarray
    alpha: float
    device: str
    repeats: int

    @property
    def classes(self) -> int:
        """As many as there are labels."""
        return int(self.labels.max()) + 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    @property
    def targets(self) -> torch.Tensor:
        """The labels on the device."""
        return torch.from_numpy(self.labels).to(self.device)

    def masks(self, models: int) -> np.ndarray:
        """bool (models, n)."""
        return draw_subsets(len(self.labels), models, self.alpha, np.random.default_rng(0))

    def seconds(self, call: Callable[[], Any], repeats: int | None = None) -> float:
        """Median over calls that each end when the device is done."""
        taken = []
        for _ in range(repeats or self.repeats):
            self.wait()
            start = time.perf_counter()
            call()
            self.wait()
            taken.append(time.perf_counter() - start)
        return statistics.median(taken)

    def wait(self) -> None:
        """Until the device has done all that it was asked to."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)

    def peak(self) -> float | None:
        """GiB at most allocated since last asked."""
        if not self.device.startswith("cuda"):
            return None
        gib = torch.cuda.max_memory_allocated(self.device) / 2**30
        torch.cuda.reset_peak_memory_stats(self.device)
        return round(gib, 2)


def pictures(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Ten classes of 32 x 32 colour images: a coarse pattern each, shifted and under noise."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, n)
    patterns = rng.normal(size=(10, 8, 8, 3)).repeat(4, 1).repeat(4, 2)
    images = np.empty((n, 32, 32, 3), np.uint8)
    for image, label in zip(images, labels, strict=True):
        moved = np.roll(patterns[label], rng.integers(-4, 5, 2), (0, 1))
        image[:] = (128 + 25 * moved + 40 * rng.normal(size=moved.shape)).clip(0, 255)
    return images, labels


def numbers(seconds: float, models: int = 1) -> dict[str, float]:
    """What is reported of a time that so many networks took."""
    return {"seconds_per_network": round(seconds / models, 5), "networks_per_hour": round(3600 * models / seconds)}


def plain(bench: Bench, trainer: ResNetTrainer) -> dict[str, Any]:
    """The loop that one would write first: each step launched by Python, images on the device, not augmented."""
    recipe = replace(trainer.recipe, shift=0)
    inputs = replace(trainer, recipe=recipe).prepare(bench.images, bench.device).permute(0, 3, 1, 2)
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    labels, members = bench.targets, held_examples(bench.masks(1))[0]
    kind = torch.device(bench.device).type
    half = recipe.precision == "bfloat16"

    def one() -> None:
        network: torch.nn.Module = ResNet9(bench.shape[2], bench.classes, trainer.hidden).to(bench.device)
        network = network.to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(network.parameters(), recipe.lr, recipe.momentum, weight_decay=5e-4, nesterov=True)
        batches = len(members) // recipe.batch_size
        for epoch in range(recipe.epochs):
            order = members[torch.randperm(len(members))].to(bench.device)
            for number in range(batches):
                optimizer.param_groups[0]["lr"] = recipe.rate(epoch * batches + number + 1, recipe.epochs * batches)
                index = order[number * recipe.batch_size : (number + 1) * recipe.batch_size]
                with torch.autocast(kind, torch.bfloat16, enabled=half):
                    logits = network(inputs[index])
                optimizer.zero_grad()
                F.cross_entropy(logits, labels[index], label_smoothing=recipe.smoothing).backward()
                optimizer.step()
        network.eval()
        with torch.no_grad(), torch.autocast(kind, torch.bfloat16, enabled=half):
            for part in inputs.split(1000):
                network(part)

    with tuned(torch.device(bench.device)):
        one()
        return numbers(bench.seconds(one)) | {"peak_gib": bench.peak()}


def resnet(bench: Bench, trainer: ResNetTrainer) -> dict[str, Any]:
    """One network after another as the ensemble trains them, and how well one knows examples that it did not hold."""
    inputs, labels, masks = trainer.prepare(bench.images, bench.device), bench.targets, bench.masks(1)
    members, row = held_examples(masks)[0].to(bench.device), torch.empty(len(labels), device=bench.device)

    with tuned(torch.device(bench.device)):
        start = time.perf_counter()
        session = Session(trainer, inputs, labels, len(members))
        bench.wait()
        prepared = time.perf_counter() - start
        seeds = iter(range(10**6))

        def one() -> None:
            session.train(members, next(seeds))
            session.margins(row)

        one()
        seconds = bench.seconds(one)
        margins = bench.seconds(lambda: session.margins(row))
        unseen = torch.from_numpy(~masks[0]).to(bench.device)
        right = session.logits(inputs[unseen]).argmax(1) == labels[unseen]
    return numbers(seconds) | {
        "captured": session.captured,
        "seconds_before_the_first": round(prepared, 2),
        "seconds_of_margins": round(margins, 4),
        "steps": session.steps,
        "accuracy_unseen": round(float(right.float().mean()), 4),
        "peak_gib": bench.peak(),
    }


def patches(bench: Bench, models: int, recipe: SurrogateRecipe, inputs: torch.Tensor) -> dict[str, Any]:
    """So many patch networks at once: one epoch is timed, and counted as often as the recipe has epochs."""
    network, labels, masks = BatchedPatchNet(bench.shape, bench.classes, 64), bench.targets, bench.masks(models)
    few = masks & (masks.cumsum(1) <= 10 * recipe.batch_size)
    once = replace(recipe, epochs=1)
    train_margins(network, inputs, labels, few, once, 0)
    both = bench.seconds(lambda: train_margins(network, inputs, labels, few, once, 0))
    ten_steps = bench.seconds(lambda: train_parameters(network, inputs, labels, few, once, 0))
    epoch = bench.seconds(lambda: train_parameters(network, inputs, labels, masks, once, 0))
    margins = max(both - ten_steps, 0)
    return numbers(epoch * recipe.epochs + margins, models) | {
        "models": models,
        "precision": recipe.precision,
        "seconds_of_an_epoch": round(epoch, 4),
        "seconds_of_margins": round(margins, 4),
        "peak_gib": bench.peak(),
    }


@click.command(help=__doc__)
@click.option("--images", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="An .npz file.")
@click.option("--n", default=50_000, show_default=True, help="Examples: the first of the file, or so many made.")
@click.option("--alpha", default=0.5, show_default=True, help="Share of them that each network holds.")
@click.option("--hidden", type=int, help="First channels of ResNet-9.  [default: the detector's]")
@click.option("--epochs", type=int, help="Of ResNet-9.  [default: the detector's]")
@click.option("--flip/--no-flip", default=None, help="Mirror images or not.  [default: the detector's]")
@click.option("--shift", default=2, show_default=True, help="Pixels that images are shifted by at most.")
@click.option("--batch", type=int, help="Examples a step of ResNet-9.  [default: the detector's]")
@click.option("--lr", type=float, help="Of ResNet-9.  [default: the detector's]")
@click.option("--chunks", default="25,50,100,200,300", show_default=True, help="Patch networks at once; empty: none.")
@click.option("--compiled", is_flag=True, help="Also by torch.compile, which takes a minute.")
@click.option("--skip-plain", is_flag=True, help="Without the plain loop.")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default="bfloat16", show_default=True)
@click.option("--repeats", default=3, show_default=True, help="Of which the median is taken.")
def main(
    images: Path | None,
    n: int,
    alpha: float,
    hidden: int | None,
    epochs: int | None,
    flip: bool | None,
    shift: int,
    batch: int | None,
    lr: float | None,
    chunks: str,
    compiled: bool,
    skip_plain: bool,
    device: str,
    precision: Any,
    repeats: int,
) -> None:
    """Measure, and print."""
    if images is None:
        pixels, labels = pictures(n)
    else:
        with np.load(images) as file:
            pixels, labels = file["images"][:n], file["labels"][:n].astype(np.int64)
    bench = Bench(pixels, labels, alpha, device, repeats)
    default = ResNetTrainer.of(bench.shape, bench.classes, round(alpha * len(labels)), hidden, epochs, precision)
    asked: dict[str, Any] = {"shift": shift, "flip": flip, "batch_size": batch, "lr": lr}
    recipe = replace(default.recipe, **{name: value for name, value in asked.items() if value is not None})
    trainer = replace(default, recipe=recipe)
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "torch": torch.__version__,
        "n": len(labels),
        "alpha": alpha,
        "resnet9": trainer.config(),
    }

    def measure(name: str, call: Callable[[], Any]) -> None:
        start = time.perf_counter()
        found[name] = call()
        print(f"{name}: {time.perf_counter() - start:.1f} s", file=sys.stderr)

    # Whether a graph was captured is in the result.
    warnings.simplefilter("default")
    measure("graph", partial(resnet, bench, trainer))
    if not skip_plain:
        measure("plain", partial(plain, bench, trainer))
    if compiled:
        measure("compiled", partial(resnet, bench, replace(trainer, compiled=True)))
    if chunks:
        cut = BatchedPatchNet(bench.shape, bench.classes, 64).prepare(bench.images, device)
        recipes = [
            SurrogateRecipe(_PATCH_EPOCHS, 25, 0.1),
            SurrogateRecipe(_PATCH_EPOCHS, 25, 0.1, precision="bfloat16"),
        ]
        for models in map(int, chunks.split(",")):
            for own in recipes:
                measure(f"patches-{models}-{own.precision}", partial(patches, bench, models, own, cut))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
