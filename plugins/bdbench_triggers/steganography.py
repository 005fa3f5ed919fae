"""An encoder that hides a bit string in an image, and the decoder that it is trained with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from bdbench import Split, Workshop
from bdbench_triggers.crafting import pixels
from bdbench_triggers.generators import Generator, seeded
from bdbench_triggers.loops import Part, shuffled, stepped

if TYPE_CHECKING:
    from bdbench_triggers.ssba import Ssba

_BATCH = 64
_AT = (0.75,)


class Encoder(nn.Module):
    """Images float (b, C, H, W) in 0..1 and bits float (b, bits) -> images in which they are hidden.

    As in StegaStamp, a linear layer turns the bits into an image, which goes into a U-Net beside the other; what comes
    out of it is added.
    """

    def __init__(self, shape: tuple[int, ...], bits: int, width: int) -> None:
        super().__init__()
        height, across, channels = shape
        self._shape = (channels, height, across)
        self.dense = nn.Linear(bits, height * across * channels)
        self.residual = Generator(2 * channels, channels, width, 2, skips=True)

    def forward(self, x: torch.Tensor, message: torch.Tensor) -> torch.Tensor:
        """In 0..1."""
        spread = F.relu(self.dense(message - 0.5)).unflatten(1, self._shape)
        made: torch.Tensor = self.residual(torch.cat([spread, x - 0.5], 1))
        return (x + made).clamp(0, 1)


class Decoder(nn.Module):
    """Images float (b, C, H, W) in 0..1 -> logits of the bits (b, bits)."""

    def __init__(self, channels: int, bits: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((channels, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.head = nn.Sequential(nn.Linear(64 * width, 16 * width), nn.ReLU(inplace=True), nn.Linear(16 * width, bits))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The logits."""
        made: torch.Tensor = self.head(self.body(x - 0.5))
        return made


def trained(attack: Ssba, train: Split, tools: Workshop) -> tuple[Encoder, Decoder]:
    """Both, trained on the images with random bits; what they say of the images is not used."""
    shape = tools.shape
    encoder = seeded(tools, "encoder", lambda: Encoder(shape, attack.bits, attack.width))
    decoder = seeded(tools, "decoder", lambda: Decoder(shape[2], attack.bits, 2 * attack.width))
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=attack.lr)
    images = torch.from_numpy(np.array(train.images)).to(tools.device)
    each = -(-len(images) // _BATCH)
    epochs = -(-attack.steps // each)

    def epoch(number: int, generator: torch.Generator) -> None:
        encoder.train(), decoder.train()
        for step, index in enumerate(shuffled(len(images), _BATCH, generator), number * each):
            optimizer.param_groups[0]["lr"] = attack.lr * stepped(step / (epochs * each), _AT)
            weight = attack.image_weight if step >= attack.message_steps else 0.0
            x = pixels(images[index.to(images.device)])
            message = torch.randint(2, (len(x), attack.bits), generator=generator).to(x)
            hidden = encoder(x, message)
            loss = F.binary_cross_entropy_with_logits(decoder(hidden), message) + weight * F.mse_loss(hidden, x)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    parts: dict[str, Part] = {"encoder": encoder, "decoder": decoder, "optimizer": optimizer}
    tools.loop("encoder", parts, epochs, epoch)
    return encoder, decoder
