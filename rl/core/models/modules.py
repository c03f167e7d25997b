"""Networks: the Module contract and the actor-critic of the on-policy algorithms."""

from __future__ import annotations

import copy
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from rl.core.data.spaces import ActionLayout, ObservationLayout
from rl.core.data.tree import Array
from rl.core.data.weights import ParameterTable, Weights
from rl.core.models.actor import ActorFactory
from rl.core.models.distributions import Distribution, make_distribution
from rl.core.models.encoders import ObservationEncoder, TensorTree, make_encoder
from rl.core.models.images import NatureCNN
from rl.core.models.layers import ACTIVATIONS, initialize, mlp
from rl.core.models.memory import Memory, Packed
from rl.core.models.numpy_memory import NumpyRecurrentActor
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


class Module(nn.Module, ABC):
    """How to act. Everything acting needs, statistics included, is in its `state_dict`.

    An algorithm's own module adds what its loss needs (a value, Q-values).
    `rl.testing.check_module` checks an implementation.
    """

    observation_layout: ObservationLayout
    action_layout: ActionLayout
    parameter_noise: int = 0
    """Standard normals that `act` wants for each row, behind the noise of the action itself."""
    memory_size: int = 0
    """Numbers remembered from step to step for each environment (S); more than 0 asks for
    `act_with_memory`."""

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

    def act_with_memory(
        self, observations: TensorTree, noise: Tensor | None, memory: Tensor
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """`act` of a module with memory, which itself acts as at the first step of an episode.

        Args:
            observations: As with `act`.
            noise: As with `act`.
            memory: What is remembered, [B, S] float32; zeros at the first step of an episode.

        Returns:
            Actions and extras, and what is remembered at the next step [B, S].
        """
        raise NotImplementedError(f"{type(self).__name__} has memory_size, but no act_with_memory")

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

    def state_arrays(self) -> dict[str, Array]:
        """Parameters and buffers by name, on the host."""
        return {name: tensor.numpy(force=True) for name, tensor in self.state_dict().items()}

    def acting_weights(self, version: int) -> Weights:
        """A copy of what acting needs, under a number."""
        vector = torch.cat([parameter.detach().reshape(-1) for parameter in self.parameters()])
        buffers = {name: b.numpy(force=True).copy() for name, b in self.named_buffers()}
        return Weights(version, vector.numpy(force=True).copy(), buffers)

    @torch.no_grad()
    def set_weights(self, weights: Weights) -> None:
        """Takes over what `acting_weights` gave."""
        parameters, buffers = dict(self.named_parameters()), dict(self.named_buffers())
        for name, values in self.parameter_table().views(weights.parameters).items():
            parameters[name].copy_(torch.tensor(values))
        for name, values in weights.buffers.items():
            buffers[name].copy_(torch.tensor(values))

    def frozen(self) -> Self:
        """A copy on the CPU that acts, and that later learning does not change."""
        return copy.deepcopy(self).cpu().eval().requires_grad_(False)

    def describe(self) -> dict[str, Any] | None:
        """JSON from which a file rebuilds the module, `{"module": name, ...}`; None: it cannot."""
        return None


class ActorCritic(Module):
    """A policy and a value function over the same observations; the policy keeps to their mask.

    Separate torsos, each with a memory of its own where there is one, unless `spec.shared_torso`;
    convolutions are always shared. Heads are initialised with gain 0.01 (policy) and 1 (value), so
    that the first policy is close to uniform. A state is the policy's and behind it the value's.
    With memory, methods that are not told what is remembered see the first step of an episode.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.observation_layout = ObservationLayout(spec.observation_space)
        self.action_layout = ActionLayout(spec.action_space)
        orthogonal = spec.orthogonal_init
        self.encoder = make_encoder(spec, orthogonal)
        inputs = self.encoder.num_outputs
        self.memory_size = spec.state_size
        self.policy_memory = self.value_memory = None
        if spec.memory is not None:
            made = functools.partial(Memory, spec.memory, inputs, spec.memory_size, orthogonal)
            self.policy_memory = made()
            self.value_memory = None if spec.shared_torso else made()
            inputs = spec.memory_size
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

    def forward(
        self, observations: TensorTree, packed: Packed | None = None
    ) -> tuple[Distribution, Tensor]:
        """The policy and the values [...] of observations [..., *obs]; with memory, of n steps."""
        features, _ = self.remember(self.encoder(observations), packed)
        own, others = self._parts(features)
        hidden = self.policy_torso(own)
        seen = hidden if self.value_torso is None else self.value_torso(others)
        return self._policy(hidden, observations), self.value_head(seen).squeeze(-1)

    def remember(self, features: Tensor, packed: Packed | None) -> tuple[Tensor, Tensor]:
        """Features of n packed steps with what came before, [n, H] or 2H; states after [P, S].

        Without memory they stay what they are.
        """
        if self.policy_memory is None:
            return features, features.new_zeros(len(features), 0)
        if packed is None:
            packed = Packed.single(features.new_zeros(len(features), self.memory_size))
        memories = [self.policy_memory, *([self.value_memory] if self.value_memory else [])]
        states = packed.states.chunk(len(memories), -1)
        found = [
            memory(features, Packed(packed.batch_sizes, own))
            for memory, own in zip(memories, states, strict=True)
        ]
        outputs, after = zip(*found, strict=True)
        return torch.cat(outputs, -1), torch.cat(after, -1)

    def _parts(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """What policy and value see of what `remember` gave."""
        if self.value_memory is None:
            return features, features
        own, others = features.chunk(2, -1)
        return own, others

    def value_of(self, features: Tensor) -> Tensor:
        """The values [...] of what `remember` gave."""
        torso = self.policy_torso if self.value_torso is None else self.value_torso
        value: Tensor = self.value_head(torso(self._parts(features)[1])).squeeze(-1)
        return value

    def distribution(self, observations: TensorTree, memory: Tensor | None = None) -> Distribution:
        """The policy alone, given what is remembered [B, S]."""
        features, _ = self._seen(observations, memory)
        return self._policy(self.policy_torso(self._parts(features)[0]), observations)

    def _seen(self, observations: TensorTree, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        packed = None if memory is None else Packed.single(memory)
        return self.remember(self.encoder(observations), packed)

    def _policy(self, hidden: Tensor, observations: TensorTree) -> Distribution:
        mask = self.observation_layout.mask_of(observations)
        return make_distribution(self.action_layout, self.policy_head(hidden), self.log_std, mask)

    def value(self, observations: TensorTree, memory: Tensor | None = None) -> Tensor:
        """The values alone, [...], given what is remembered [B, S]."""
        return self.value_of(self._seen(observations, memory)[0])

    def act(
        self, observations: TensorTree, noise: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        features, _ = self._seen(observations, None)
        policy = self._policy(self.policy_torso(self._parts(features)[0]), observations)
        actions, extras = self._act(policy, noise)
        if noise is not None and self.acts_with_torch:
            extras["value"] = self.value_of(features)  # nearly free: the encoder is shared
        return actions, extras

    def act_with_memory(
        self, observations: TensorTree, noise: Tensor | None, memory: Tensor
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        features, after = self._seen(observations, memory)
        policy = self._policy(self.policy_torso(self._parts(features)[0]), observations)
        return (*self._act(policy, noise), after)

    def _act(self, policy: Distribution, noise: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        if noise is None:
            return policy.mode(), {}
        actions = policy.sample(noise if self.action_layout.shape else noise.squeeze(-1))
        return actions, {"log_prob": policy.log_prob(actions)}

    def observe(self, observations: TensorTree) -> None:
        self.encoder.observe(observations)

    @property
    def acts_with_torch(self) -> bool:
        """Whether there is no numpy form; then `act` tells values, too, without memory."""
        return self.observation_layout.has_images or self.spec.encoder is not None

    def actor_factory(self) -> ActorFactory | None:
        if self.acts_with_torch:
            return None
        kind = NumpyActor if self.policy_memory is None else NumpyRecurrentActor
        return functools.partial(kind, self.spec, self.parameter_table())

    def describe(self) -> dict[str, Any]:
        return {"module": "actor_critic", **self.spec.to_json()}
