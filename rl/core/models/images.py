"""Images as features: the convolutions of DQN, and the deeper residual ones of IMPALA."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn

from rl.core.data.spaces import Leaf
from rl.core.models.compiled_images import CompiledConvolutions
from rl.core.models.layers import initialize

__all__ = ["ImageEncoder", "ImpalaCNN", "NatureCNN", "image_encoder"]


MOST_PLANES = 8
"""Channels up to which images are turned plane by plane.

Measured with bytes of 84 x 84 on one core, the median of three runs, against one general copy: 4
planes take 0.58 of its time in batches of 8 and 0.57 in batches of 256, 8 take 0.70 and 0.89, and
12 take 0.81 and 1.20.
"""


class ImageEncoder(nn.Module):
    """Convolutions, then one layer of units; images [H, W, C], [C, H, W] or [H, W]."""

    num_outputs: int

    def __init__(self, leaf: Leaf, orthogonal: bool = True) -> None:
        super().__init__()
        self.leaf = leaf
        init = functools.partial(initialize, gain=math.sqrt(2), orthogonal=orthogonal)
        shape = self._channels_first(torch.zeros(1, *leaf.shape)).shape
        self.convolutions = self.make_convolutions(shape[1], orthogonal)
        with torch.no_grad():
            size = self.convolutions(torch.zeros(shape)).shape[1]  # measured, not derived
        self._compiled = CompiledConvolutions.of(self.convolutions, *shape[2:])
        self.linear = nn.Sequential(init(nn.Linear(size, self.num_outputs)), nn.ReLU())

    def make_convolutions(self, channels: int, orthogonal: bool) -> nn.Sequential:
        """From [N, channels, H, W] to [N, anything]."""
        raise NotImplementedError

    def _channels_first(self, pixels: Tensor) -> Tensor:
        if len(self.leaf.shape) == 2:
            return pixels.unsqueeze(1)
        return pixels.permute(0, 3, 1, 2) if self.leaf.channels_last else pixels

    def forward(self, pixels: Tensor) -> Tensor:
        """[..., *image] -> [..., num_outputs]; uint8 is scaled to [0, 1]."""
        leading = pixels.shape[: pixels.dim() - len(self.leaf.shape)]
        images = self._channels_first(pixels.reshape(-1, *self.leaf.shape))
        if self._compiled is not None and self._compiled.takes(images):
            seen = self._compiled(images)
        else:
            seen = self.convolutions(self._prepared(images))
        features: Tensor = self.linear(seen)
        return features.reshape(*leading, self.num_outputs)

    @staticmethod
    def _prepared(images: Tensor) -> Tensor:
        """Images [N, C, H, W] of any kind as torch's convolutions take them fastest, float32."""
        # Convolutions take this layout faster, forwards and backwards: measured 1.1 times for the
        # network of DQN and 1.3 times for that of IMPALA on one core. Turned while they are bytes,
        # pixels cost a fifth of what they cost as floats.
        scaled = _channels_last(images).to(torch.float32)
        if images.dtype == torch.uint8:
            scaled = scaled.div_(255.0)  # in place: the floats are our own
        return scaled


def _channels_last(images: Tensor) -> Tensor:
    """Images [N, C, H, W] that lie in memory as [N, H, W, C]."""
    few_planes = images.shape[1] <= MOST_PLANES and not images.is_cuda
    if few_planes and images.is_contiguous():
        images = torch.stack(images.unbind(1), -1).permute(0, 3, 1, 2)
    return images.contiguous(memory_format=torch.channels_last)


class NatureCNN(ImageEncoder):
    """Mnih et al. 2015 (Nature 518): convolutions 32 8x8/4, 64 4x4/2, 64 3x3/1, then 512 units."""

    num_outputs = 512

    def make_convolutions(self, channels: int, orthogonal: bool) -> nn.Sequential:
        init = functools.partial(initialize, gain=math.sqrt(2), orthogonal=orthogonal)
        return nn.Sequential(
            init(nn.Conv2d(channels, 32, 8, 4)),
            nn.ReLU(),
            init(nn.Conv2d(32, 64, 4, 2)),
            nn.ReLU(),
            init(nn.Conv2d(64, 64, 3, 1)),
            nn.ReLU(),
            nn.Flatten(),
        )


class Residual(nn.Module):
    """x + convolution(relu(convolution(relu(x)))), 3x3, as many channels out as in."""

    def __init__(self, channels: int, orthogonal: bool) -> None:
        super().__init__()
        init = functools.partial(initialize, gain=math.sqrt(2), orthogonal=orthogonal)
        self.change = nn.Sequential(
            nn.ReLU(),
            init(nn.Conv2d(channels, channels, 3, padding=1)),
            nn.ReLU(),
            init(nn.Conv2d(channels, channels, 3, padding=1)),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        changed: Tensor = inputs + self.change(inputs)
        return changed


class ImpalaCNN(ImageEncoder):
    """Espeholt et al. 2018 (arXiv:1802.01561, figure 3, the large one), without its LSTM.

    Three sections of 16, 32 and 32 channels, each a 3x3 convolution, a maximum over 3x3 with stride
    2 and two residual blocks; then 256 units.
    """

    num_outputs = 256

    def make_convolutions(self, channels: int, orthogonal: bool) -> nn.Sequential:
        layers: list[nn.Module] = []
        for width in (16, 32, 32):
            convolution = nn.Conv2d(channels, width, 3, padding=1)
            layers += [initialize(convolution, math.sqrt(2), orthogonal)]
            layers += [nn.MaxPool2d(3, 2, padding=1)]
            layers += [Residual(width, orthogonal), Residual(width, orthogonal)]
            channels = width
        return nn.Sequential(*layers, nn.ReLU(), nn.Flatten())


ENCODERS: dict[str, type[ImageEncoder]] = {"nature": NatureCNN, "impala": ImpalaCNN}


def image_encoder(name: str, leaf: Leaf, orthogonal: bool) -> ImageEncoder:
    """The encoder of this name, `nature` or `impala`, for images of this kind."""
    return ENCODERS[name](leaf, orthogonal)
