"""SSBA: a message hidden in the image by a network, so that the change differs from image to image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bdbench import CraftedTrigger, Split, State, Streams, Workshop, param


@dataclass(frozen=True, kw_only=True)
class Ssba(CraftedTrigger):
    """Dirty-label, poisons data alone: an encoder hides one bit string, drawn from the seed, in every poison.

    Known as ISSBA as well. Encoder and decoder, of StegaStamp's kind, are trained on the training images with random
    bits, and the decoder is thrown away. The loss is the decoder's cross-entropy plus ``image_weight`` times the mean
    squared change (2 to 1.5, as in StegaStamp). The paper adds a perceptual distance (LPIPS) and a critic, for which
    networks would have to be downloaded or trained longer; without them the change is larger than it need be, and a
    weight of 20 hides it better. In the first ``message_steps`` the message alone counts, as in StegaStamp. Those are
    our own number: where they are too few for the bits, the change dies out, and with it the attack. Both networks are
    smaller than there, and trained for a minute on a CPU, not for 140,000 steps; there is no simulated printing between
    them. A message of 100 bits, the default, is what the authors' encoder takes: seven letters, their error-correcting
    code, and zeros. Here all are drawn. StegaStamp's code has 20 unless told otherwise.
    """

    name = "ssba"
    paper = "Li et al., Invisible Backdoor Attack with Sample-Specific Triggers, ICCV 2021"
    rate: float = param(0.1, help="poisons / size of the whole training set", low=0, high=1, exclusive=True)
    bits: int = param(100, help="length of the message", low=1)
    image_weight: float = param(4 / 3, help="weight of the mean squared change, of images in 0..1", low=0)
    steps: int = param(700, help="batches of 64 images that they are trained on, in whole epochs", low=1)
    message_steps: int = param(300, help="of which so many, the first, train for the message alone", low=0)
    lr: float = param(1e-3, help="learning rate of encoder and decoder", low=0, exclusive=True)
    width: int = param(8, help="channels of the encoder's first level", low=1)

    def craft(self, train: Split, tools: Workshop) -> State:
        """The encoder's weights."""
        from bdbench_triggers.generators import weights
        from bdbench_triggers.steganography import trained

        return weights(trained(self, train, tools)[0], "encoder")

    def stamp_with(self, images: np.ndarray, state: State, streams: Streams, device: str) -> np.ndarray:
        """Hide the message."""
        import torch

        from bdbench_triggers.generators import changed, with_weights
        from bdbench_triggers.steganography import Encoder

        encoder = with_weights(Encoder(images.shape[1:], self.bits, self.width), state, "encoder", device)
        message = torch.from_numpy(streams("trigger").integers(0, 2, self.bits)).float().to(device)
        return changed(lambda x: encoder(x, message.expand(len(x), -1)), device, images)
