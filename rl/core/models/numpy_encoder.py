"""Observations as feature vectors in numpy: acting without torch, and learning without it."""

from __future__ import annotations

import numpy as np

from rl.core.data.spaces import Leaf, ObservationLayout
from rl.core.data.tree import Array, Tree
from rl.core.data.weights import Weights
from rl.core.models.spec import PolicySpec
from rl.core.models.statistics import CLIP, EPSILON

__all__ = ["NumpyEncoder"]


class NumpyEncoder:
    """Any observation without images as one feature vector: `ObservationEncoder` in numpy."""

    def __init__(self, spec: PolicySpec) -> None:
        self._spec = spec
        self._observations = ObservationLayout(spec.observation_space)
        self._plain = not self._observations.nested and not self._observations.leaves[0].sizes
        self._shift: Array | None = None
        self._scale: Array | None = None

    def set_weights(self, weights: Weights) -> None:
        """Takes the statistics of observations, where the network has any."""
        if self._spec.normalize_observations and self._observations.num_features:
            var = weights.buffers["encoder.normalizer.var"]
            self._shift = weights.buffers["encoder.normalizer.mean"].astype(np.float32)
            self._scale = (1 / np.sqrt(var + EPSILON)).astype(np.float32)

    def __call__(self, observations: Tree) -> Array:
        """Features [B, num_features] float32 of observations [B, *obs]."""
        if self._plain and not isinstance(observations, dict):
            features = observations.reshape(observations.shape[0], -1)
            if features.dtype != np.float32:
                features = features.astype(np.float32)
        else:
            leaves = observations if isinstance(observations, dict) else {"": observations}
            features = np.concatenate(
                [_encode_leaf(leaf, leaves[leaf.path]) for leaf in self._observations.features],
                axis=1,
            )
        if self._shift is None:
            return features
        normalized: Array = (features - self._shift) * self._scale
        return normalized.clip(-CLIP, CLIP)


def _encode_leaf(leaf: Leaf, values: Array) -> Array:
    if not leaf.sizes:
        return values.reshape(values.shape[0], -1).astype(np.float32)
    rows = values.reshape(values.shape[0], -1)
    hot = np.zeros((rows.shape[0], leaf.num_features), np.float32)
    offset = 0
    for column, (start, size) in enumerate(zip(leaf.starts, leaf.sizes, strict=True)):
        hot[np.arange(rows.shape[0]), offset + rows[:, column] - start] = 1
        offset += size
    return hot
