"""Policies that stand alone, without a value: the actors of SAC and TD3.

They are what acts and what is published; critics stay with the learner. Continuous ones work in
units of their own, actions from -1 to 1, and hand the environment's units out. Whether actions are
still drawn evenly, to fill the replay, is a buffer: it travels with the weights.
"""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rl.core.data.action_range import ActionRange
from rl.core.data.spaces import ActionLayout, ObservationLayout
from rl.core.models.actor import Actor, ActorFactory
from rl.core.models.distributions import Categorical, Distribution, SquashedGaussian, masked_logits
from rl.core.models.encoders import make_encoder
from rl.core.models.modules import Module, TensorTree, mlp
from rl.core.models.numpy_policy import (
    NumpyCategoricalActor,
    NumpyDeterministicActor,
    NumpySquashedActor,
)
from rl.core.models.spec import LOG_STD_BOUNDS, PolicySpec

__all__ = ["CategoricalPolicy", "DeterministicPolicy", "PolicyNetwork", "SquashedPolicy"]


class PolicyNetwork(Module):
    """Encoder, hidden layers and one head; begins with torch's own weights, as its peers do."""

    kind: str
    """What a policy file calls it."""
    outputs_per_parameter: int = 1
    numpy_actor: Callable[..., Actor]
    warming_up: Tensor

    def __init__(self, spec: PolicySpec) -> None:
        super().__init__()
        self.spec = spec
        self.observation_layout = ObservationLayout(spec.observation_space)
        self.action_layout = ActionLayout(spec.action_space)
        self.encoder = make_encoder(spec, orthogonal=False)
        inputs = self.encoder.num_outputs
        self.torso = mlp(inputs, spec.hidden_sizes, spec.activation, orthogonal=False)
        width = spec.hidden_sizes[-1] if spec.hidden_sizes else inputs
        outputs = self.outputs_per_parameter * self.action_layout.num_parameters
        self.head = nn.Linear(width, outputs)
        self.register_buffer("warming_up", torch.zeros(()))

    def outputs(self, observations: TensorTree) -> Tensor:
        """What the head gives, [..., outputs]."""
        found: Tensor = self.head(self.torso(self.encoder(observations)))
        return found

    @abstractmethod
    def act(
        self, observations: TensorTree, noise: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]: ...

    def observe(self, observations: TensorTree) -> None:
        self.encoder.observe(observations)

    def actor_factory(self) -> ActorFactory | None:
        if self.observation_layout.has_images or self.spec.encoder is not None:
            return None
        return functools.partial(type(self).numpy_actor, self.spec, self.parameter_table())

    def describe(self) -> dict[str, Any]:
        return {"module": self.kind, **self.spec.to_json()}


class _Bounded(nn.Module):
    """Between the policy's units, [-1, 1], and the environment's; d dimensions."""

    middle: Tensor
    radius: Tensor
    inverse: Tensor

    def __init__(self, bounds: ActionRange) -> None:
        super().__init__()
        # Derived from the space, so no part of the state.
        for name in ("middle", "radius", "inverse"):
            self.register_buffer(name, torch.tensor(getattr(bounds, name)), persistent=False)

    def to_env(self, actions: Tensor) -> Tensor:
        """Actions [..., d] in [-1, 1] as the environment takes them."""
        return self.middle + self.radius * actions

    def from_env(self, actions: Tensor) -> Tensor:
        """The inverse of `to_env`."""
        return (actions - self.middle) * self.inverse


def evenly(noise: Tensor) -> Tensor:
    """Standard normal noise as numbers spread evenly over (-1, 1): 2 Phi(x) - 1."""
    return torch.erf(noise * math.sqrt(0.5))


class SquashedPolicy(PolicyNetwork):
    """A Gaussian whose mean and deviation depend on the observation, squashed by tanh."""

    kind = "squashed_policy"
    outputs_per_parameter = 2
    numpy_actor = NumpySquashedActor

    def __init__(self, spec: PolicySpec) -> None:
        super().__init__(spec)
        self.bounds = _Bounded(ActionRange.of(spec.action_space))

    def parameters_of(self, observations: TensorTree) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation before squashing, each [..., d]."""
        mean, log_std = self.outputs(observations).chunk(2, -1)
        return mean, log_std.clamp(*LOG_STD_BOUNDS)

    def distribution(self, observations: TensorTree) -> Distribution:
        """Over actions as the environment takes them."""
        mean, log_std = self.parameters_of(observations)
        return SquashedGaussian(mean, log_std, self.bounds.middle, self.bounds.radius)

    def act(
        self, observations: TensorTree, noise: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        mean, log_std = self.parameters_of(observations)
        if noise is None:
            return self.bounds.to_env(torch.tanh(mean)), {}
        drawn = torch.tanh(mean + torch.exp(log_std) * noise)
        return self.bounds.to_env(torch.where(self.warming_up > 0, evenly(noise), drawn)), {}


class DeterministicPolicy(PolicyNetwork):
    """One action for an observation; exploring adds Gaussian noise and clips."""

    kind = "deterministic_policy"
    numpy_actor = NumpyDeterministicActor
    exploration_noise: Tensor

    def __init__(self, spec: PolicySpec) -> None:
        super().__init__(spec)
        self.bounds = _Bounded(ActionRange.of(spec.action_space))
        self.register_buffer("exploration_noise", torch.zeros(()))

    def best(self, observations: TensorTree) -> Tensor:
        """The action in [-1, 1], [..., d]."""
        return torch.tanh(self.outputs(observations))

    def act(
        self, observations: TensorTree, noise: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        best = self.best(observations)
        if noise is None:
            return self.bounds.to_env(best), {}
        drawn = (best + self.exploration_noise * noise).clamp(-1, 1)
        return self.bounds.to_env(torch.where(self.warming_up > 0, evenly(noise), drawn)), {}


class CategoricalPolicy(PolicyNetwork):
    """A probability for each of n actions; 0 for those that the observation's mask forbids."""

    kind = "categorical_policy"
    numpy_actor = NumpyCategoricalActor

    def _mask(self, observations: TensorTree) -> Tensor | None:
        return self.observation_layout.mask_of(observations)

    def logits(self, observations: TensorTree) -> Tensor:
        """Of every action, [..., n]."""
        return masked_logits(self.outputs(observations), self._mask(observations))

    def log_probs(self, observations: TensorTree) -> Tensor:
        """Log pi of every action, [..., n]."""
        return F.log_softmax(self.logits(observations), -1)

    def distribution(self, observations: TensorTree) -> Distribution:
        """Over actions, counted from 0."""
        return Categorical(self.logits(observations))

    def act(
        self, observations: TensorTree, noise: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self.logits(observations)
        if noise is None:
            return logits.argmax(-1), {}
        even = masked_logits(torch.zeros_like(logits), self._mask(observations))
        logits = torch.where(self.warming_up > 0, even, logits)
        return Categorical(logits).sample(noise.squeeze(-1)), {}
