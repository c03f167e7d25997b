"""Observations as features: the encoder that networks begin with, or one of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rl.configs.references import load_named
from rl.core.data.spaces import Leaf, ObservationLayout
from rl.core.models.images import image_encoder
from rl.core.models.normalizer import Normalizer
from rl.core.models.spec import EncoderClass, PolicySpec
from rl.errors import UsageError

__all__ = [
    "CustomEncoder",
    "ObservationEncoder",
    "TensorTree",
    "encode_leaf",
    "encoder_class",
    "feature_vector",
    "make_encoder",
]

TensorTree = Tensor | dict[str, Tensor]


class ObservationEncoder(nn.Module):
    """Any observation as one feature vector: categories one-hot, images through a CNN.

    An action mask is no feature.
    """

    def __init__(
        self, layout: ObservationLayout, normalize: bool, orthogonal: bool, images: str = "nature"
    ) -> None:
        super().__init__()
        self.layout = layout
        made = [
            image_encoder(images, leaf, orthogonal)
            for leaf in layout.features
            if leaf.kind == "image"
        ]
        self.images = nn.ModuleList(made)
        self.normalizer = (
            Normalizer(layout.num_features) if normalize and layout.num_features else None
        )
        self.num_outputs = layout.num_features + sum(encoder.num_outputs for encoder in made)

    def observe(self, observations: TensorTree) -> None:
        """Merges observations [N, *obs] into the statistics; raises `UsageError` without any."""
        _observe(self.normalizer, self.layout, observations)

    def forward(self, observations: TensorTree) -> Tensor:
        features: list[Tensor] = []
        if self.layout.num_features:
            vector = feature_vector(self.layout, observations)
            features.append(vector if self.normalizer is None else self.normalizer(vector))
        pictures = [leaf for leaf in self.layout.features if leaf.kind == "image"]
        for leaf, convolutions in zip(pictures, self.images, strict=True):
            features.append(convolutions(_leaf_of(observations, leaf)))
        return features[0] if len(features) == 1 else torch.cat(features, dim=-1)


class CustomEncoder(nn.Module):
    """A module of the user's own, made with the observation space; `rl.testing.check_module`.

    It sees rows [N, *shape], whatever axes the batch has; a dictionary of them by path where the
    space is a Dict or Tuple. Numbers come normalised where there is a normaliser, categories and
    images as the environment gave them. An action mask is no feature.
    """

    def __init__(
        self,
        layout: ObservationLayout,
        normalize: bool,
        network: EncoderClass,
        arguments: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.layout = layout
        self.normalizer = (
            Normalizer(layout.num_features) if normalize and layout.num_features else None
        )
        self.network = encoder_class(network)(layout.space, **arguments)
        sample = {
            leaf.path: torch.zeros(2, *leaf.shape, dtype=getattr(torch, leaf.dtype.name))
            for leaf in layout.features
        }
        for leaf in layout.features:
            if leaf.sizes:
                sample[leaf.path] += torch.tensor(leaf.starts).reshape(leaf.shape)
        with torch.no_grad():
            features = self(sample if layout.nested else sample[""])
        self.num_outputs = int(features.shape[-1])  # measured, not asked for

    def observe(self, observations: TensorTree) -> None:
        """Merges observations [N, *obs] into the statistics; raises `UsageError` without any."""
        _observe(self.normalizer, self.layout, observations)

    def forward(self, observations: TensorTree) -> Tensor:
        leaves = {leaf.path: _leaf_of(observations, leaf) for leaf in self.layout.features}
        first = self.layout.features[0]
        leading = leaves[first.path].shape[: leaves[first.path].dim() - len(first.shape)]
        rows = {
            leaf.path: leaves[leaf.path].reshape(-1, *leaf.shape) for leaf in self.layout.features
        }
        if self.normalizer is not None:
            rows |= self._normalized(self.normalizer(feature_vector(self.layout, rows)))
        features: Tensor = self.network(rows if self.layout.nested else rows[""])
        return features.reshape(*leading, features.shape[-1])

    def _normalized(self, vector: Tensor) -> dict[str, Tensor]:
        """The leaves that are numbers, [N, *shape], out of the normalised [N, num_features]."""
        found, at = {}, 0
        for leaf in self.layout.features:
            if leaf.kind == "image":
                continue
            if not leaf.sizes:
                part = vector[:, at : at + leaf.num_features]
                found[leaf.path] = part.reshape(-1, *leaf.shape)
            at += leaf.num_features
        return found


def encoder_class(network: EncoderClass) -> type[nn.Module]:
    """The class behind `encoder`. Raises `UsageError` where there is none."""
    found = load_named("the class", network) if isinstance(network, str) else network
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise UsageError(f"{network!r} is {found!r}, not a class that derives from torch.nn.Module")
    return found


def make_encoder(
    spec: PolicySpec, orthogonal: bool, normalize: bool | None = None
) -> ObservationEncoder | CustomEncoder:
    """The encoder that a spec asks for.

    Args:
        spec: Of the network.
        orthogonal: How the weights of convolutions begin.
        normalize: Where it is not as the spec says.
    """
    layout = ObservationLayout(spec.observation_space)
    wanted = spec.normalize_observations if normalize is None else normalize
    if spec.encoder is None:
        return ObservationEncoder(layout, wanted, orthogonal, spec.image_encoder)
    return CustomEncoder(layout, wanted, spec.encoder, spec.encoder_kwargs)


def feature_vector(layout: ObservationLayout, observations: TensorTree) -> Tensor:
    """All features but images as they are, [..., layout.num_features]."""
    parts = [
        encode_leaf(leaf, _leaf_of(observations, leaf))
        for leaf in layout.features
        if leaf.kind != "image"
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def _observe(
    normalizer: Normalizer | None, layout: ObservationLayout, observations: TensorTree
) -> None:
    if normalizer is None:
        raise UsageError(
            "normalize_observations has no effect on images, which are scaled to [0, 1] anyway;"
            " leave it off"
        )
    normalizer.update(feature_vector(layout, observations))


def _leaf_of(observations: TensorTree, leaf: Leaf) -> Tensor:
    return observations[leaf.path] if isinstance(observations, dict) else observations


def encode_leaf(leaf: Leaf, values: Tensor) -> Tensor:
    """One leaf [..., *shape] as float features [..., leaf.num_features]."""
    leading = values.shape[: values.dim() - len(leaf.shape)]
    if not leaf.sizes:
        return values.reshape(*leading, leaf.num_features).to(torch.float32)
    columns = values.reshape(*leading, len(leaf.sizes)).unbind(-1)
    hot = [
        nn.functional.one_hot(column.long() - start, size)
        for column, start, size in zip(columns, leaf.starts, leaf.sizes, strict=True)
    ]
    return torch.cat(hot, dim=-1).to(torch.float32)
