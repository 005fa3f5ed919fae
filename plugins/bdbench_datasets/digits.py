"""scikit-learn's digits: real scanned digits that need no download."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bdbench import Dataset, ImageData, Source, Split

_TEST = 360


@dataclass(frozen=True, kw_only=True)
class Digits(Dataset):
    """1,797 scanned digits of 8 x 8 grey pixels; a fixed stratified split into 1,437 and 360."""

    name = "digits"
    paper = "Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI 1998"

    def read(self, source: Source) -> ImageData:
        """The set that comes with scikit-learn; pixels 0..16 become 0..255."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
        parts = train_test_split(images, digits.target, test_size=_TEST, random_state=0, stratify=digits.target)
        train_images, test_images, train_labels, test_labels = parts
        classes = tuple(str(c) for c in digits.target_names)
        return ImageData(Split(train_images, train_labels), Split(test_images, test_labels), classes)
