"""How each model is trained on each data set: one flat table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bdbench import Recipe

_RESIDUAL: dict[str, Any] = {"optimizer": "sgd", "momentum": 0.9, "flip": True, "crop_padding": 4}
_FLIPLESS = {"mnist", "fashionmnist", "svhn", "gtsrb", "gtsrb-full", "digits"}

# (model, data set) -> recipe; "*" is any other data set. Digits, house numbers and traffic signs are never
# flipped: a mirrored one is another class or none.
_TABLE: dict[tuple[str, str], Recipe] = {
    ("convnet", "digits"): Recipe(epochs=20, batch_size=64, lr=2e-3, optimizer="adamw", weight_decay=5e-3),
    ("convnet", "*"): Recipe(
        epochs=20, batch_size=128, lr=3e-3, optimizer="adamw", weight_decay=5e-2, reduced=True
    ),
    ("resnet9", "*"): Recipe(
        epochs=16, batch_size=512, lr=0.5, label_smoothing=0.1, reduced=True, **_RESIDUAL
    ),
    ("preact-resnet18", "*"): Recipe(
        epochs=60, batch_size=128, lr=0.1, reduced=True, **_RESIDUAL
    ),
}  # fmt: skip


def recipe_for(model: str, dataset: str) -> Recipe:
    """The table's row; images are mirrored only where their class survives it."""
    recipe = _TABLE.get((model, dataset), _TABLE.get((model, "*")))
    assert recipe is not None, model
    return replace(recipe, flip=False) if dataset in _FLIPLESS else recipe
