"""Residual convolutional network of ResNet-18's form (He et al. 2015, arXiv 1512.03385).

Shapes: B batch, P channels and H×W pixels of an image, D width, C classes; stage s has D·2^s channels.

    images      (B, P, H, W)
    x           (B, D·2^s, H/2^s, W/2^s)    H/4, W/4 in the first stage of images larger than 64 pixels
    logits      (B, C)

The first block of each stage but the first halves the resolution, and a 1×1 convolution brings its input to the shape
of its output. The stem is a 3×3 convolution, of larger images one of 7×7 with stride 2 and a maximum over 3×3 behind.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from mutransfer.config.data import ClassSpec
from mutransfer.config.models import ResNetSection
from mutransfer.config.models.resnet import LARGE
from mutransfer.parametrization.facts import ModelFacts


class ResNet(nn.Module):
    """`images (B, P, H, W) → logits (B, C)`."""

    def __init__(self, section: ResNetSection, spec: ClassSpec) -> None:
        super().__init__()
        channels = section.width
        self.large = max(spec.shape[1:]) > LARGE
        kernel, stride = (7, 2) if self.large else (3, 1)
        self.stem = nn.Conv2d(spec.shape[0], channels, kernel, stride, kernel // 2, bias=False)
        self.norm = _norm(section, channels)
        stages, given = [], channels
        for stage, count in enumerate(section.blocks):
            own = channels * 2**stage
            blocks = [ResidualBlock(section, given, own, stride=2 if stage else 1)]
            blocks += [ResidualBlock(section, own, own, stride=1) for _ in range(count - 1)]
            stages.append(nn.Sequential(*blocks))
            given = own
        self.stages = nn.ModuleList(stages)
        self.readout = nn.Linear(given, spec.classes)
        self.facts = ModelFacts(readouts=("readout",))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of every class."""
        x = F.relu(self.norm(self.stem(images)))
        if self.large:
            x = F.max_pool2d(x, 3, 2, 1)
        for stage in self.stages:
            x = stage(x)
        logits: Tensor = self.readout(x.mean((-2, -1)))
        return logits


class ResidualBlock(nn.Module):
    """relu(x + norm(conv(relu(norm(conv(x)))))), both 3×3."""

    def __init__(self, section: ResNetSection, given: int, own: int, *, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(given, own, 3, stride, 1, bias=False)
        self.first_norm = _norm(section, own)
        self.second = nn.Conv2d(own, own, 3, 1, 1, bias=False)
        self.second_norm = _norm(section, own)
        same = given == own and stride == 1
        self.shortcut = None if same else nn.Conv2d(given, own, 1, stride, bias=False)
        self.shortcut_norm = None if same else _norm(section, own)

    def forward(self, x: Tensor) -> Tensor:
        """(B, given, H, W) → (B, own, H/stride, W/stride)."""
        out = F.relu(self.first_norm(self.first(x)))
        out = self.second_norm(self.second(out))
        if self.shortcut is not None and self.shortcut_norm is not None:
            x = self.shortcut_norm(self.shortcut(x))
        return F.relu(x + out)


def _norm(section: ResNetSection, channels: int) -> nn.Module:
    if section.norm == "batch":
        return nn.BatchNorm2d(channels, affine=section.norm_gain)
    return nn.GroupNorm(channels // section.channels_of_group, channels, affine=section.norm_gain)
