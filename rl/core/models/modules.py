"""Networks: the Module contract and the actor-critic of the on-policy algorithms."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rl.core.data.spaces import ActionLayout, Leaf, ObservationLayout
from rl.core.data.weights import ParameterTable
from rl.core.models.actor import ActorFactory
from rl.core.models.distributions import Distribution, make_distribution
from rl.core.models.images import NatureCNN, image_encoder
from rl.core.models.layers import ACTIVATIONS, initialize, mlp
from rl.core.models.normalizer import Normalizer
from rl.core.models.numpy_mlp import NumpyActor
from rl.core.models.spec import NetworkSpec
from rl.errors import UsageError

__all__ = [
    "ACTIVATIONS",
    "ActorCritic",
    "Module",
    "NatureCNN",
    "ObservationEncoder",
    "TensorTree",
    "mlp",
]

TensorTree = Tensor | dict[str, Tensor]


class Module(nn.Module, ABC):
    """How to act. Everything acting needs, statistics included, is in its `state_dict`.

    An algorithm's own module adds what its loss needs (a value, Q-values).
    `rl.testing.check_module` checks an implementation.
    """

    observation_layout: ObservationLayout
    action_layout: ActionLayout
    parameter_noise: int = 0
    """Standard normals that `act` wants for each row, behind the noise of the action itself."""

    @abstractmethod
    def act(
        self, observations: TensorTree, noise: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Chooses actions.

        Args:
            observations: [B, *obs] in native dtype, or a dictionary of them.
            noise: [B, columns] float32 as `draw_noise` draws it; None asks for the greedy action.

        Returns:
            Actions [B, *act] and what else the algorithm wants to find in the rollout, each [B,
            ...]; nothing else when greedy.
        """

    def observe(self, observations: TensorTree) -> None:
        """Merges observations [N, *obs] into running statistics, in a module that keeps some."""
        raise UsageError(
            f"normalize_observations has no effect on {type(self).__name__}, which keeps no"
            " statistics; override observe() in it, or leave the setting off"
        )

    def parameter_table(self) -> ParameterTable:
        """Where each parameter lies in the flat vector."""
        return ParameterTable({name: tuple(p.shape) for name, p in self.named_parameters()})

    def actor_factory(self) -> ActorFactory | None:
        """What a runner builds to act without torch, where that is possible."""
        return None

    def describe(self) -> dict[str, Any] | None:
        """JSON from which a file rebuilds the module, `{"module": name, ...}`; None: it cannot."""
        return None


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

    def vector(self, observations: TensorTree) -> Tensor:
        """All features but images as they are, [..., layout.num_features]."""
        parts = [
            encode_leaf(leaf, _leaf_of(observations, leaf))
            for leaf in self.layout.features
            if leaf.kind != "image"
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def observe(self, observations: TensorTree) -> None:
        """Merges observations [N, *obs] into the statistics; raises `UsageError` without any."""
        if self.normalizer is None:
            raise UsageError(
                "normalize_observations has no effect on images, which are scaled to [0, 1] anyway;"
                " leave it off"
            )
        self.normalizer.update(self.vector(observations))

    def forward(self, observations: TensorTree) -> Tensor:
        features: list[Tensor] = []
        if self.layout.num_features:
            vector = self.vector(observations)
            features.append(vector if self.normalizer is None else self.normalizer(vector))
        pictures = [leaf for leaf in self.layout.features if leaf.kind == "image"]
        for leaf, convolutions in zip(pictures, self.images, strict=True):
            features.append(convolutions(_leaf_of(observations, leaf)))
        return features[0] if len(features) == 1 else torch.cat(features, dim=-1)


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


class ActorCritic(Module):
    """A policy and a value function over the same observations; the policy keeps to their mask.

    Separate torsos unless `spec.shared_torso`; convolutions are always shared. Heads are
    initialised with gain 0.01 (policy) and 1 (value), so that the first policy is close to uniform.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.observation_layout = ObservationLayout(spec.observation_space)
        self.action_layout = ActionLayout(spec.action_space)
        orthogonal = spec.orthogonal_init
        self.encoder = ObservationEncoder(
            self.observation_layout, spec.normalize_observations, orthogonal, spec.image_encoder
        )
        inputs = self.encoder.num_outputs
        torso: Callable[[], nn.Sequential] = functools.partial(
            mlp, inputs, spec.hidden_sizes, spec.activation, orthogonal
        )
        self.policy_torso = torso()
        self.value_torso = None if spec.shared_torso else torso()
        width = spec.hidden_sizes[-1] if spec.hidden_sizes else inputs
        outputs = self.action_layout.num_parameters
        self.policy_head = initialize(nn.Linear(width, outputs), 0.01, orthogonal)
        self.value_head = initialize(nn.Linear(width, 1), 1.0, orthogonal)
        num_gaussian = self.action_layout.num_gaussian
        self.log_std = (
            nn.Parameter(torch.full((num_gaussian,), spec.log_std_init)) if num_gaussian else None
        )

    def forward(self, observations: TensorTree) -> tuple[Distribution, Tensor]:
        """The policy and the values [...] of observations [..., *obs]."""
        features = self.encoder(observations)
        hidden = self.policy_torso(features)
        seen = hidden if self.value_torso is None else self.value_torso(features)
        return self._policy(hidden, observations), self.value_head(seen).squeeze(-1)

    def distribution(self, observations: TensorTree) -> Distribution:
        """The policy alone."""
        return self._policy(self.policy_torso(self.encoder(observations)), observations)

    def _policy(self, hidden: Tensor, observations: TensorTree) -> Distribution:
        mask = self.observation_layout.mask_of(observations)
        return make_distribution(self.action_layout, self.policy_head(hidden), self.log_std, mask)

    def value(self, observations: TensorTree) -> Tensor:
        """The values alone, [...]."""
        torso = self.policy_torso if self.value_torso is None else self.value_torso
        value: Tensor = self.value_head(torso(self.encoder(observations))).squeeze(-1)
        return value

    def act(
        self, observations: TensorTree, noise: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        policy = self.distribution(observations)
        if noise is None:
            return policy.mode(), {}
        actions = policy.sample(noise if self.action_layout.shape else noise.squeeze(-1))
        return actions, {"log_prob": policy.log_prob(actions)}

    def observe(self, observations: TensorTree) -> None:
        self.encoder.observe(observations)

    def actor_factory(self) -> ActorFactory | None:
        if self.observation_layout.has_images:
            return None
        return functools.partial(NumpyActor, self.spec, self.parameter_table())

    def describe(self) -> dict[str, Any]:
        return {"module": "actor_critic", **self.spec.to_json()}
