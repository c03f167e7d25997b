"""How the weights of plain networks begin, drawn by numpy: the same for whoever learns them."""

from __future__ import annotations

import math

import numpy as np

from rl.core.data.tree import Array
from rl.core.models.blas import BlasThreads

__all__ = ["orthogonal", "uniform"]


def orthogonal(generator: np.random.Generator, shape: tuple[int, int], gain: float) -> Array:
    """An orthogonal matrix, drawn evenly from all of them, times `gain`.

    As in Saxe et al. 2014, arXiv:1312.6120, and `torch.nn.init.orthogonal_`: Q of the QR of a
    normal matrix, with the signs of R's diagonal, without which some matrices would be likelier
    than others (Mezzadri 2007, arXiv:math-ph/0609050).

    Args:
        generator: What it is drawn from.
        shape: (outputs, inputs).
        gain: Of the layer.
    """
    rows, columns = shape
    tall = generator.standard_normal((max(shape), min(shape)), np.float32)
    with BlasThreads().limited(1):  # the same bits wherever a learner is made
        q, r = np.linalg.qr(tall)
    q *= np.where(np.diagonal(r) < 0, np.float32(-gain), np.float32(gain))
    return np.ascontiguousarray(q if rows >= columns else q.T)


def uniform(generator: np.random.Generator, shape: tuple[int, ...], num_inputs: int) -> Array:
    """Numbers spread evenly over ±1/sqrt(inputs), as weights and biases of torch's Linear begin."""
    bound = np.float32(1 / math.sqrt(num_inputs))
    drawn = generator.random(shape, np.float32)
    return (2 * drawn - np.float32(1)) * bound
