"""What networks are put together from."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn

__all__ = ["ACTIVATIONS", "initialize", "mlp"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


def initialize(layer: nn.Linear | nn.Conv2d, gain: float, orthogonal: bool) -> nn.Module:
    """Orthogonal weights of this gain and zero biases, or torch's default."""
    if orthogonal:
        nn.init.orthogonal_(layer.weight, gain)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
    return layer


def mlp(
    num_inputs: int,
    hidden_sizes: tuple[int, ...],
    activation: str,
    orthogonal: bool = True,
    linear: Callable[[int, int], nn.Linear] = nn.Linear,
) -> nn.Sequential:
    """Linear layers, each followed by its activation."""
    layers: list[nn.Module] = []
    for size in hidden_sizes:
        layers += [
            initialize(linear(num_inputs, size), math.sqrt(2), orthogonal),
            ACTIVATIONS[activation](),
        ]
        num_inputs = size
    return nn.Sequential(*layers)
