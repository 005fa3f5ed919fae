"""Refool: the reflection of another picture lies over the image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from bdbench import BdbenchError, CraftedTrigger, Split, State, Streams, Workshop, param
from bdbench_triggers.labels import EitherLabel

_KINDS = ("same-depth", "out-of-focus", "ghost")
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm")
# What is drawn for each image, as in the authors' code: the reflection's weight, the deviation of its blur, the shift
# down and to the right of its second image, and how faint the fainter of the two is. Lengths: see ``canvas``.
_WEIGHT, _BLUR, _SHIFT, _FAINT = (0.05, 0.45), (1.0, 5.0), (3.0, 8.0), (0.15, 0.5)
# Of a batch: 1,024 images of 32 x 32, and 20 of 224 x 224.
_PIXELS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Refool(EitherLabel, CraftedTrigger):
    """Clean-label: x' = (1 - a) x + a k * r in linear light, where the kernel k makes a reflection of a picture r.

    Sec. 3.2 of Reflection Backdoor: A Natural Backdoor Attack on Deep Neural Networks. Its three models differ in k:
    same depth (k is a point), out of focus (a Gaussian), and ghost (two points, since both sides of the glass reflect).
    Poisons are images of the target class; common implementations relabel images of the others: labels=dirty. For each
    image a model and its numbers are drawn (the authors render each picture once, and show it so in training and at
    test time). Pictures are training images of other classes, or those of a folder; each is on some poison, and test
    images have no others, as in the authors' code. A reflection looks the same at any size: lengths are those of an
    image of ``canvas`` pixels. The authors' code works at 560, where images of 32 pixels show neither blur nor ghost.
    What makes its reflections has no same depth: they are ghosts with probability .49 and out of focus otherwise, and
    then weigh (1 + a) / 2 in the middle and less at the border. The rate is the largest of the paper's.

    Left out is the paper's loop (algorithm 1) that trains a model sixteen times to find the pictures that work best:
    its text takes the best and its code draws by success, and other implementations leave it out as well.
    ``reflections`` takes a folder of pictures that were selected by any rule.
    """

    name = "refool"
    paper = "Liu et al., Reflection Backdoor, ECCV 2020, arXiv:2007.02343"
    rate: float = param(0.0327, help="poisons / size of the whole training set", low=0, high=1, exclusive=True)
    model: Literal["mixed", "same-depth", "out-of-focus", "ghost"] = param("mixed", help="of reflection (mixed: drawn)")
    reflections: str = param("images", help="'images': training images of other classes; or a folder of pictures")
    count: int = param(200, help="how many pictures there are at most, and no more than poisons", low=1)
    canvas: int = param(224, help="side of an image, in pixels, of which blur (1 to 5) and shift (3 to 8) are", low=8)

    def files(self) -> tuple[Path, ...]:
        """The pictures of the folder. Raises BdbenchError if there are none."""
        if self.reflections == "images":
            return ()
        folder = Path(self.reflections)
        found = sorted(p for p in folder.iterdir() if p.suffix.lower() in _PICTURES) if folder.is_dir() else []
        if not found:
            raise BdbenchError(
                f"reflections={self.reflections} holds no pictures: expected 'images' or a folder of them"
            )
        return tuple(found)

    def craft(self, train: Split, tools: Workshop) -> State:
        """The "pictures" that are reflected, uint8 (m, H, W, C)."""
        rng, files = tools.streams("pictures"), self.files()
        pool = np.arange(len(files)) if files else np.flatnonzero(train.labels != self.target)
        count = min(self.count, len(pool), max(1, round(self.rate * len(train.labels))))
        chosen = np.sort(rng.choice(pool, count, replace=False))
        if not files:
            return {"pictures": np.asarray(train.images)[chosen]}
        return {"pictures": np.stack([_read(files[i], tools.shape) for i in chosen])}

    def poisoned(self, images: np.ndarray, chosen: np.ndarray, state: State, tools: Workshop) -> np.ndarray:
        """The chosen images, with reflections of their own; no picture is left out."""
        streams = tools.streams.child("training")
        which = streams("pictures").permutation(np.arange(len(images)) % len(state["pictures"]))
        return self._stamped(images, which, state, streams("trigger"), tools.device)

    def stamp_with(self, images: np.ndarray, state: State, streams: Streams, device: str) -> np.ndarray:
        """A reflection on each."""
        rng = streams("trigger")
        return self._stamped(images, rng.integers(len(state["pictures"]), size=len(images)), state, rng, device)

    def _stamped(
        self, images: np.ndarray, which: np.ndarray, state: State, rng: np.random.Generator, device: str
    ) -> np.ndarray:
        import torch

        from bdbench_triggers.reflection import GAMMA, linear, reflected

        n = len(images)
        kind = rng.integers(len(_KINDS), size=n) if self.model == "mixed" else np.full(n, _KINDS.index(self.model))
        weight, blur, down, right, faint = (rng.uniform(*span, n) for span in (_WEIGHT, _BLUR, _SHIFT, _SHIFT, _FAINT))
        moved = np.where(rng.random(n) < 0.5, faint, 1 - faint)
        moved = np.select([kind == 0, kind == 1], [np.zeros(n), np.ones(n)], moved)
        scale = max(images.shape[1:3]) / self.canvas
        table = np.stack([kind == 1, weight, blur * scale, down * scale, right * scale, moved], 1).astype(np.float32)
        pictures = linear(torch.from_numpy(state["pictures"]).to(device))
        made = np.empty_like(images)
        step = max(1, _PIXELS // (images.shape[1] * images.shape[2]))
        for start in range(0, n, step):
            part = slice(start, start + step)
            drawn = torch.from_numpy(table[part]).to(device)
            over = reflected(pictures[torch.from_numpy(which[part]).to(device)], drawn)
            below = linear(torch.from_numpy(images[part]).to(device))
            light = torch.lerp(below, over, drawn[:, 1, None, None, None])
            made[part] = (light.clamp(0, 1) ** (1 / GAMMA) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        return made


def _read(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path) as file:
            picture = file.convert("RGB" if shape[2] == 3 else "L").resize((shape[1], shape[0]))
    except OSError as error:
        raise BdbenchError(f"cannot read the reflection {path}: {error}: expected a picture") from None
    return np.asarray(picture, np.uint8).reshape(shape)
