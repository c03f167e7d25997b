"""A flat vector that follows another: target networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rl.core.kernels.library import address, kernels

__all__ = ["follow"]

Array = npt.NDArray[Any]


def follow(target: Array, values: Array, share: float) -> None:
    """Moves `target` a share of the way to `values`, in place; both [P] float32, side by side."""
    library = kernels()
    assert library is not None, "look at `kernels` first"
    assert target.shape == values.shape
    for array in (target, values):
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
    library.follow(len(target), address(target), address(values), share)
