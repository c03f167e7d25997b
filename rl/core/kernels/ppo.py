"""The slopes of PPO's loss in one call, for one category or for independent normals."""

from __future__ import annotations

import ctypes
import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rl.core.kernels.library import address, kernels

__all__ = ["CompiledPPOLoss", "PPOSums", "PPOWeights", "normalize"]

Array = npt.NDArray[Any]


class PPOWeights(NamedTuple):
    """What the loss is made of; what is None takes no part."""

    clip_range: float
    value_clip_range: float | None
    dual_clip: float | None
    value_coef: float
    entropy_coef: float
    kl_coef: float


class PPOSums(ctypes.Structure):
    """Of the samples of a minibatch: what their means are reported of."""

    _fields_ = [
        (name, ctypes.c_double) for name in ("objective", "value_error", "entropy", "kl", "clipped")
    ]
    objective: float
    value_error: float
    entropy: float
    kl: float
    clipped: float


class _Weights(ctypes.Structure):
    _fields_ = [(name, ctypes.c_double) for name in PPOWeights._fields]


class _Samples(ctypes.Structure):
    _fields_ = [(str(name), ctypes.c_void_p) for name in range(4)]


class CompiledPPOLoss:
    """Gradients at what the policy's and the value's head give."""

    def __init__(self, outputs: int, log_std: Array | None, log_std_gradient: Array | None) -> None:
        """Takes views.

        Args:
            outputs: k, logits or means.
            log_std: [k]; None: the outputs are logits of one category.
            log_std_gradient: Like it, written.
        """
        library = kernels()
        assert library is not None, "look at `kernels` first"
        self._outputs, self._log_std = outputs, (log_std, log_std_gradient)
        self._room = np.empty(2 * outputs)
        self._last: tuple[int, ...] = ()
        self._weights: PPOWeights | None = None  # those that the settings hold
        self._settings = _Weights()
        if log_std is None:
            self._call = library.ppo_categorical
        else:
            assert log_std_gradient is not None
            self._call = library.ppo_gaussian
            self._last = address(log_std), address(log_std_gradient)
        self._gradients = np.empty((0, outputs), np.float32), np.empty((0, 1), np.float32)

    def gradients(
        self, weights: PPOWeights, outputs: Array, values: Array, actions: Array, columns: Array
    ) -> tuple[Array, Array, PPOSums]:
        """Gradients of the mean loss at outputs [M, k] and at values [M, 1], and sums of terms.

        Args:
            weights: Settings of the loss.
            outputs: Of the policy's head, [M, k] float32.
            values: [M, 1] float32.
            actions: [M] int64, or [M, k] float32.
            columns: Log-probabilities, advantages, value targets and values before the update,
                [4, M] float32.

        Returns:
            Arrays valid until the next call.

        Raises:
            IndexError: An action is none of the categories.
        """
        size = len(outputs)
        if len(self._gradients[0]) != size:
            shapes = (size, self._outputs), (size, 1)
            self._gradients = np.empty(shapes[0], np.float32), np.empty(shapes[1], np.float32)
        if weights != self._weights:
            self._weights = weights
            self._settings = _Weights(*(math.nan if value is None else value for value in weights))
        first, step = address(columns), columns.strides[0]
        samples = _Samples(*range(first, first + 4 * step, step))
        sums = PPOSums()
        if self._call(
            ctypes.addressof(self._settings),
            size,
            self._outputs,
            address(outputs),
            address(actions),
            ctypes.addressof(samples),
            address(values),
            *map(address, self._gradients),
            address(self._room),
            ctypes.addressof(sums),
            *self._last,
        ):
            raise IndexError(f"an action is none of 0 to {self._outputs - 1}")
        return *self._gradients, sums


def normalize(values: Array) -> None:
    """Takes the mean from values [M] float32 and divides by deviation + 1e-8, in place.

    They lie close. A single one is left as it is.
    """
    library = kernels()
    assert library is not None, "look at `kernels` first"
    if len(values) > 1:
        library.normalize(len(values), address(values))
