"""The gradient of PPO's loss in one call, for one category or for independent normals.

Shapes: M samples, F features, k logits or means.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rl.core.kernels.by_size import BySize
from rl.core.kernels.library import address, close, kernels
from rl.core.kernels.mlp import CompiledMLP

__all__ = ["CompiledPPOLoss", "PPONetworks", "PPOSums", "PPOWeights", "normalize"]

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
    """`ppo_samples` of `ppo.c`."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("features", "actions")),
        *((name, ctypes.c_void_p) for name in ("log_probs", "advantages", "targets", "values")),
    ]


class _PPO(ctypes.Structure):
    """`ppo` of `ppo.c`, which says what each field is."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("torso", "policy", "value")),
        *((name, ctypes.c_void_p) for name in ("log_std", "log_std_gradient")),
        *((name, ctypes.c_void_p) for name in ("at_outputs", "at_values")),
        *((name, ctypes.c_void_p) for name in ("slopes", "terms", "precision")),
        *((name, ctypes.c_int64) for name in ("size", "features", "outputs")),
    ]


@dataclass(frozen=True)
class PPONetworks:
    """What the loss passes through."""

    torso: CompiledMLP | None
    """F features to what both others begin with; None: they begin with the features."""
    policy: CompiledMLP
    """To logits or means, [M, k]."""
    value: CompiledMLP
    """To values, [M, 1]."""
    log_std: tuple[Array, Array] | None
    """[k] each, log-deviations and where their gradient goes; None: one category of k."""

    @property
    def num_features(self) -> int:
        """F."""
        return (self.torso or self.policy).num_inputs


class _Room:
    """Arrays of one number of samples, and the structure that tells where all lie."""

    def __init__(self, networks: PPONetworks, size: int) -> None:
        outputs = networks.policy.num_outputs
        own = (
            *(np.empty((size, width), np.float32) for width in (outputs, 1)),
            *(np.empty(size, np.float64), np.empty((size, len(PPOSums._fields_)), np.float64)),
            np.empty(outputs, np.float64),
        )
        passes = networks.torso, networks.policy, networks.value
        rooms = [None if network is None else network.room(size) for network in passes]
        log_std = networks.log_std or (None, None)
        self.structure = _PPO(
            *(None if room is None else room.described for room in rooms),
            *(None if array is None else address(array) for array in (*log_std, *own)),
            *(size, networks.num_features, outputs),
        )
        self.owned = networks, own, rooms  # what the structure points to
        self.at = ctypes.addressof(self.structure)


class CompiledPPOLoss:
    """The gradient of the loss; it is written where the networks' gradients are."""

    def __init__(self, networks: PPONetworks) -> None:
        """Allocates nothing yet."""
        library = kernels()
        assert library is not None, "look at `kernels` first"
        self._call = library.ppo_gradient
        self._rooms = BySize(lambda size: _Room(networks, size))
        self._features, self._outputs = networks.num_features, networks.policy.num_outputs
        self._numbers = 1 if networks.log_std is None else self._outputs  # of an action
        self._weights: PPOWeights | None = None  # those that the settings hold
        self._settings = _Weights()

    def gradient(
        self, weights: PPOWeights, features: Array, actions: Array, columns: Array
    ) -> PPOSums:
        """Writes the gradient of the mean loss of M samples; returns sums of its terms.

        Args:
            weights: Settings of the loss.
            features: [M, F] float32.
            actions: [M] int64 or [M, 1], or [M, k] float32.
            columns: Log-probabilities, advantages, value targets and values before the update,
                [4, M] float32.

        Raises:
            IndexError: An action is none of the categories.
            ValueError: An array has another shape.
        """
        size = len(features)
        numbers = size * self._numbers
        if features.shape[1] != self._features or actions.size != numbers:
            raise ValueError(
                f"features {features.shape} and {actions.size} numbers of actions instead of"
                f" {(size, self._features)} and {numbers}"
            )
        if weights != self._weights:
            self._weights = weights
            self._settings = _Weights(*(math.nan if value is None else value for value in weights))
        features, actions = close(features), close(actions)
        first, step = address(columns), columns.strides[0]
        samples = _Samples(
            address(features), address(actions), *range(first, first + 4 * step, step)
        )
        sums = PPOSums()
        if self._call(
            self._rooms(size).at,
            *map(ctypes.addressof, (self._settings, samples, sums)),
        ):
            raise IndexError(f"an action is none of 0 to {self._outputs - 1}")
        return sums


def normalize(values: Array) -> None:
    """Takes the mean from values [M] float32 and divides by deviation + 1e-8, in place.

    They lie close. A single one is left as it is.
    """
    library = kernels()
    assert library is not None, "look at `kernels` first"
    if len(values) > 1:
        library.normalize(len(values), address(values))
