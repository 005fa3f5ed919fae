"""The networks. ``features`` is the penultimate representation, ``forward`` the logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def _conv_block(inputs: int, outputs: int, pool: int = 1) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)]
    layers.append(nn.ReLU())
    if pool > 1:
        layers.append(nn.MaxPool2d(pool))
    return nn.Sequential(*layers)


class SmallConvNet(nn.Module):
    """Three blocks of width, 2 width and 4 width channels, each halving the image; features (b, 4 width)."""

    def __init__(self, channels: int, num_classes: int, width: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            _conv_block(channels, width, 2),
            _conv_block(width, 2 * width, 2),
            _conv_block(2 * width, 4 * width),
        )
        self.pool = nn.AdaptiveMaxPool2d(2)
        self.hidden = nn.Linear(16 * width, 4 * width)
        self.linear = nn.Linear(4 * width, num_classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(b, C, H, W) -> (b, 4 width)."""
        return F.relu(self.hidden(self.pool(self.blocks(x)).flatten(1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, C, H, W) -> (b, num_classes)."""
        return self.linear(self.features(x))


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv_block(channels, channels), _conv_block(channels, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class ResNet9(nn.Module):
    """Eight convolutions, two residual pairs, one linear layer; features (b, 512)."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv_block(channels, 64),
            _conv_block(64, 128, 2),
            _Residual(128),
            _conv_block(128, 256, 2),
            _conv_block(256, 512, 2),
            _Residual(512),
        )
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.linear = nn.Linear(512, num_classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(b, C, H, W) -> (b, 512)."""
        return self.pool(self.body(x)).flatten(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, C, H, W) -> (b, num_classes). Logits are scaled by 1/8, which keeps the high rate stable."""
        return self.linear(self.features(x)) / 8


class _PreActBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = F.relu(self.bn1(x))
        skipped = x if self.shortcut is None else self.shortcut(active)
        return skipped + self.conv2(F.relu(self.bn2(self.conv1(active))))


class PreActResNet18(nn.Module):
    """Names and order of the parameters are those BackdoorBench's weights have; features (b, 512)."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        self.layer1 = nn.Sequential(_PreActBlock(64, 64, 1), _PreActBlock(64, 64, 1))
        self.layer2 = nn.Sequential(_PreActBlock(64, 128, 2), _PreActBlock(128, 128, 1))
        self.layer3 = nn.Sequential(_PreActBlock(128, 256, 2), _PreActBlock(256, 256, 1))
        self.layer4 = nn.Sequential(_PreActBlock(256, 512, 2), _PreActBlock(512, 512, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(512, num_classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(b, C, H, W) -> (b, 512)."""
        return self.avgpool(self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))).flatten(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, C, H, W) -> (b, num_classes)."""
        return self.linear(self.features(x))
