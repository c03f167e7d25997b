"""Choosing by chance, compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rl.core.kernels.library import address, kernels

__all__ = ["sample_categories"]

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
