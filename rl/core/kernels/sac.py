"""Both gradients of SAC with a squashed Gaussian and two critics, each in one call.

Shapes: M samples, F features, d numbers of an action; 2 is the critics.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rl.core.kernels.by_size import BySize
from rl.core.kernels.library import address, close, kernels
from rl.core.kernels.mlp import CompiledMLP

__all__ = ["CompiledSACLosses", "SACNetworks"]

Array = npt.NDArray[Any]


class _SAC(ctypes.Structure):
    """`sac` of `sac.c`, which says what each field is."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("policy", "first", "second")),
        *((name, ctypes.c_void_p) for name in ("first_follower", "second_follower")),
        *((name, ctypes.c_void_p) for name in ("middle", "inverse", "done", "drawn")),
        *((name, ctypes.c_void_p) for name in ("log_probs", "spread", "inside")),
        *((name, ctypes.c_void_p) for name in ("errors", "slopes", "gradient")),
        *((name, ctypes.c_int64) for name in ("size", "features", "actions")),
        *((name, ctypes.c_double) for name in ("lowest", "highest")),
    ]


class _Transitions(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("observations", "actions", "returns")),
        *((name, ctypes.c_void_p) for name in ("following", "discounts", "weights")),
    ]


class _Sums(ctypes.Structure):
    _fields_ = [(name, ctypes.c_double) for name in ("loss", "value", "log_prob")]
    loss: float
    value: float
    log_prob: float


@dataclass(frozen=True)
class SACNetworks:
    """What the losses pass through, and what the engine knows of actions."""

    policy: CompiledMLP
    """F features to means and log-deviations, [M, 2 d]."""
    critics: Sequence[CompiledMLP]
    """F features and an action to a value, [M, 1]; two of them."""
    followers: Sequence[CompiledMLP]
    """The target networks, like `critics`."""
    middle: Array
    """[d] float32: critics see an action of the environment as (action - middle) inverse."""
    inverse: Array
    """[d] float32."""
    bounds: tuple[float, float]
    """Of log-deviations."""


class _Room:
    """Arrays of one number of samples, and the structure that tells where all lie."""

    def __init__(self, networks: SACNetworks, size: int) -> None:
        features, width = networks.policy.num_inputs, len(networks.middle)
        seen = features + width
        self.errors = np.empty((2, size), np.float32)
        owned = (
            *(np.empty((size, seen), np.float32) for _ in range(2)),
            np.empty(size, np.float64),
            *(np.empty((size, width), np.float32) for _ in range(2)),
            *(self.errors, np.empty((2, size), np.float32)),
            np.empty((size, 2 * width), np.float32),
        )
        passes = networks.policy, *networks.critics, *networks.followers
        rooms = [network.room(size) for network in passes]
        self.structure = _SAC(
            *(room.described for room in rooms),
            *(address(networks.middle), address(networks.inverse), *map(address, owned)),
            *(size, features, width, *networks.bounds),
        )
        self.owned = networks, owned, rooms  # what the structure points to
        self.at = ctypes.addressof(self.structure)


class CompiledSACLosses:
    """The gradients of both losses; they are written where the networks' gradients are."""

    def __init__(self, networks: SACNetworks) -> None:
        """Allocates nothing yet."""
        library = kernels()
        assert library is not None, "look at `kernels` first"
        self._critics, self._policy = library.sac_critics, library.sac_policy
        self._rooms = BySize(lambda size: _Room(networks, size))
        self._features, self._actions = networks.policy.num_inputs, len(networks.middle)

    def critic_gradient(
        self,
        transitions: tuple[Array, Array, Array, Array, Array],
        noise: Array,
        ent_coef: float,
        weights: Array | None,
    ) -> tuple[float, float, Array]:
        """Writes the gradient of both critics' loss.

        Args:
            transitions: Features [M, F], actions of the environment [M, d], returns [M], features
                of what followed [M, F], discounts [M]; all float32.
            noise: Of the actions that follow, standard normal [M, d] float32.
            ent_coef: alpha.
            weights: Importance of each, [M] float32; None: all alike.

        Returns:
            The loss of both, their mean value, and errors [2, M], valid until the next call.
        """
        size = len(noise)
        shapes = (size, self._features), (size, self._actions), (size,)
        room, sums = self._rooms(size), _Sums()
        given = [
            _close(array, shapes[at])
            for array, at in zip(transitions, (0, 1, 2, 0, 2), strict=True)
        ]
        noise = _close(noise, shapes[1])
        weights = None if weights is None else _close(weights, shapes[2])
        batch = _Transitions(*map(address, given), None if weights is None else address(weights))
        place = room.at, ctypes.addressof(batch), address(noise), ent_coef
        self._critics(*place, ctypes.addressof(sums))
        return sums.loss / size, sums.value / (2 * size), room.errors

    def policy_gradient(
        self, features: Array, noise: Array, ent_coef: float
    ) -> tuple[float, float]:
        """Writes the gradient of the policy's loss.

        Args:
            features: [M, F] float32.
            noise: Of the actions, standard normal [M, d] float32.
            ent_coef: alpha.

        Returns:
            The mean lesser value, and the mean log-density, of what the policy would do.
        """
        size, sums = len(noise), _Sums()
        features = _close(features, (size, self._features))
        noise = _close(noise, (size, self._actions))
        place = self._rooms(size).at, address(features), address(noise), ent_coef
        self._policy(*place, ctypes.addressof(sums))
        return sums.value / size, sums.log_prob / size


def _close(array: Array, shape: tuple[int, ...]) -> Array:
    """The array, or a copy of it, as C reads it; raises `ValueError` for another shape."""
    if array.shape != shape:
        raise ValueError(f"an array of shape {array.shape} instead of {shape}")
    return close(array.astype(np.float32, copy=False))
