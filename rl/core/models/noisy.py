"""Linear layers with learnt noise (Fortunato et al. 2018, arXiv:1706.10295), factorised.

y = (mu_w + sigma_w * eps_w) x + mu_b + sigma_b * eps_b (eq. 9) with eps_w[i, j] = f(e_i) f(e_j) and
eps_b = f(e_i), f(x) = sign(x) sqrt|x| (eq. 10 and 11), where e has one standard normal for each
input j and each output i. The noise comes in, as actions' noise does: nothing here draws.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["LayerNoise", "NoisyLinear", "noise_size", "scaled", "through"]


def scaled(noise: Tensor) -> Tensor:
    """f(x) = sign(x) sqrt|x|, of each."""
    return noise.sign() * noise.abs().sqrt()


class NoisyLinear(nn.Linear):
    """Weight and bias are the means mu; `weight_sigma` and `bias_sigma` what noise is times.

    mu begins uniform in +-1/sqrt(p) for p inputs, which is torch's own, sigma as sigma_0 / sqrt(p).
    """

    def __init__(self, inputs: int, outputs: int, sigma: float) -> None:
        super().__init__(inputs, outputs)
        begin = sigma / math.sqrt(inputs)
        self.weight_sigma = nn.Parameter(torch.full((outputs, inputs), begin))
        self.bias_sigma = nn.Parameter(torch.full((outputs,), begin))

    def forward(self, inputs: Tensor, noise: Tensor | None = None) -> Tensor:
        """[..., inputs] -> [..., outputs].

        Args:
            inputs: Of the layer.
            noise: f of a standard normal for each input, then each output, [inputs + outputs] for
                all rows alike or [..., inputs + outputs]; None is no noise.
        """
        mean = super().forward(inputs)
        if noise is None:
            return mean
        # (sigma * f_out f_in^T) x = f_out * (sigma (f_in * x)): no matrix for each row.
        of_inputs, of_outputs = noise[..., : self.in_features], noise[..., self.in_features :]
        spread: Tensor = F.linear(inputs * of_inputs, self.weight_sigma, self.bias_sigma)
        return mean + of_outputs * spread


class LayerNoise:
    """Noise [..., n] that layers take their parts of, one behind the other."""

    def __init__(self, noise: Tensor) -> None:
        self._scaled = scaled(noise)
        self._used = 0

    def take(self, size: int) -> Tensor:
        """Takes f of the next `size` numbers, [..., size]."""
        part = self._scaled[..., self._used : self._used + size]
        self._used += size
        return part


def through(module: nn.Module, hidden: Tensor, noise: LayerNoise | None) -> Tensor:
    """What a module makes of its inputs, its noisy layers with noise, in order."""
    if isinstance(module, nn.Sequential):
        for part in module:
            hidden = through(part, hidden, noise)
        return hidden
    if noise is not None and isinstance(module, NoisyLinear):
        return module(hidden, noise.take(module.in_features + module.out_features))  # type: ignore[no-any-return]
    return module(hidden)  # type: ignore[no-any-return]


def noise_size(module: nn.Module) -> int:
    """Standard normals that its noisy layers take."""
    layers = [layer for layer in module.modules() if isinstance(layer, NoisyLinear)]
    return sum(layer.in_features + layer.out_features for layer in layers)
