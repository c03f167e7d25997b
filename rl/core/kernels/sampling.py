"""Choosing by chance, compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rl.core.kernels.library import address, kernels

__all__ = ["choose_largest", "sample_categories"]

Array = npt.NDArray[Any]


def sample_categories(logits: Array, noise: Array) -> tuple[Array, Array]:
    """One category a row of logits [N, k] float32 by noise [N] float32; with its log-probability.

    Both arrays may be parts of larger ones; the numbers of a row of logits lie close.
    """
    library = kernels()
    assert library is not None, "look at `kernels` first"
    rows, count = logits.shape
    actions, log_probs = np.empty(rows, np.int64), np.empty(rows, np.float32)
    if logits.strides[1] != 4:
        logits = np.ascontiguousarray(logits)
    library.sample_categories(
        *(rows, count, address(logits), logits.strides[0] // 4),
        *(address(noise), noise.strides[0] // 4, address(actions), address(log_probs)),
    )
    return actions, log_probs


def choose_largest(values: Array, noise: Array | None = None, epsilon: float = 0.0) -> Array:
    """Where each row of values [N, k] float32 is largest, [N] int64; with noise often elsewhere.

    Args:
        values: Numbers of a row lie close.
        noise: Uniform in [0, 1), [N] float32; below epsilon any of the k is taken.
        epsilon: A chance.
    """
    library = kernels()
    assert library is not None, "look at `kernels` first"
    rows, count = values.shape
    actions = np.empty(rows, np.int64)
    if values.strides[1] != 4:
        values = np.ascontiguousarray(values)
    explores = noise is not None and epsilon > 0
    library.choose_largest(
        *(rows, count, address(values), values.strides[0] // 4),
        *((address(noise), noise.strides[0] // 4) if explores and noise is not None else (None, 0)),
        *(epsilon, address(actions)),
    )
    return actions
