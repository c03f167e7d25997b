"""The network of DQN: a value for each of the actions, and how to act on them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rl.core.data.spaces import ActionLayout, ObservationLayout
from rl.core.models.actor import ActorFactory
from rl.core.models.encoders import make_encoder
from rl.core.models.memory import Memory, Packed
from rl.core.models.modules import Module, TensorTree, mlp
from rl.core.models.noisy import LayerNoise, NoisyLinear, noise_size, through
from rl.core.models.numpy_memory import NumpyRecurrentQActor
from rl.core.models.numpy_mlp import NumpyQActor
from rl.core.models.spec import QNetworkSpec

__all__ = ["QNetwork", "allowed_values", "dueling_values", "epsilon_greedy"]


def dueling_values(value: Tensor, advantages: Tensor, actions: int = -1) -> Tensor:
    """Q = V + A - mean A (Wang et al. 2016, arXiv:1511.06581, eq. 9).

    Args:
        value: [..., 1].
        advantages: [..., A].
        actions: The axis of the A actions, where it is not the last.
    """
    return value + advantages - advantages.mean(actions, keepdim=True)


def allowed_values(values: Tensor, mask: Tensor | None) -> Tensor:
    """Values [..., A] with -inf for actions that a mask [..., A] forbids, to take the best of.

    A row that forbids all, as after an episode's end, forbids nothing: its best is finite.
    """
    if mask is None:
        return values
    return values.masked_fill(~(mask | ~mask.any(-1, keepdim=True)), -torch.inf)


def epsilon_greedy(
    values: Tensor, epsilon: Tensor, noise: Tensor, mask: Tensor | None = None
) -> Tensor:
    """For each row any action with probability epsilon, else its best; [N].

    Args:
        values: [N, A].
        epsilon: Scalar.
        noise: Uniform in [0, 1), [N]. Below epsilon a row explores, and where below, says which
            action it takes: noise / epsilon is then uniform once more.
        mask: Actions that are allowed, [N, A]; None: all.
    """
    share = noise / epsilon
    best = allowed_values(values, mask).argmax(-1)
    if mask is None:
        last = values.shape[-1] - 1
        anything = (share * (last + 1)).clamp(max=last).long()
    else:
        count = mask.sum(-1)
        nth = (share * count).minimum(count - 1).long()
        found = (mask.cumsum(-1) <= nth.unsqueeze(-1)).sum(-1)
        anything = found.clamp(max=values.shape[-1] - 1)  # where nothing is allowed
    return torch.where(share < 1, anything, best)


class QNetwork(Module):
    """Values of all actions. How much it explores, epsilon, is a buffer: it travels with it.

    With `spec.num_atoms` N > 1 it gives a distribution of returns for each action (Bellemare et al.
    2017, arXiv:1707.06887), whose mean is the value. With `spec.noisy_sigma` its linear layers have
    noise (arXiv:1706.10295) where noise is given, one draw for all rows or one each; without, they
    are their means. Weights begin as torch's own, which is what DQN has always been run with.
    """

    epsilon: Tensor
    support: Tensor

    def __init__(self, spec: QNetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.observation_layout = ObservationLayout(spec.observation_space)
        self.action_layout = ActionLayout(spec.action_space)
        self.encoder = make_encoder(spec, orthogonal=False)
        inputs = self.encoder.num_outputs
        self.memory_size = spec.state_size
        self.memory: Memory | None = None
        if spec.memory is not None:
            self.memory = Memory(spec.memory, inputs, spec.memory_size, orthogonal=False)
            inputs = spec.memory_size
        linear: Callable[[int, int], nn.Linear] = nn.Linear
        if spec.noisy_sigma > 0:
            linear = functools.partial(NoisyLinear, sigma=spec.noisy_sigma)
        layers = functools.partial(mlp, activation=spec.activation, orthogonal=False, linear=linear)
        self.torso = layers(inputs, spec.torso_sizes)
        shared = spec.torso_sizes[-1] if spec.torso_sizes else inputs
        width = spec.stream_sizes[-1] if spec.stream_sizes else shared
        # Without dueling there is no value apart, and the "advantages" are the values.
        self.advantage_stream = layers(shared, spec.stream_sizes)
        self.advantage_head = linear(width, self.action_layout.num_parameters * spec.num_atoms)
        self.value: nn.Module | None = None
        if spec.dueling:
            stream = layers(shared, spec.stream_sizes)
            self.value = nn.Sequential(stream, linear(width, spec.num_atoms))
        self.parameter_noise = noise_size(self)
        self.register_buffer("epsilon", torch.zeros(()))
        atoms = torch.linspace(spec.v_min, spec.v_max, spec.num_atoms)
        self.register_buffer("support", atoms, persistent=False)

    def q_values(
        self,
        observations: TensorTree,
        noise: Tensor | None = None,
        memory: Tensor | None = None,
    ) -> Tensor:
        """Q of every action, [..., A], also of those that a mask forbids.

        Args:
            observations: [..., *obs]; with memory [N, *obs].
            noise: On the parameters, standard normal [parameter_noise] or one of each row; None is
                their mean.
            memory: What is remembered, [N, S]; None: nothing, as at the first step of an episode.
        """
        packed = None if memory is None else Packed.single(memory)
        return self.values_of(self.remember(self.encoder(observations), packed)[0], noise)

    def features(self, observations: TensorTree) -> Tensor:
        """What the layers see, [..., F]; with memory, at the first step of an episode."""
        return self.remember(self.encoder(observations), None)[0]

    def remember(self, features: Tensor, packed: Packed | None) -> tuple[Tensor, Tensor]:
        """Features of n packed steps with what came before, [n, H]; states after, [P, S].

        Without memory they stay what they are.
        """
        if self.memory is None:
            return features, features.new_zeros(len(features), 0)
        if packed is None:
            packed = Packed.single(features.new_zeros(len(features), self.memory_size))
        outputs, after = self.memory(features, packed)
        return outputs, after

    def values_of(self, features: Tensor, noise: Tensor | None = None) -> Tensor:
        """`q_values` of what `features` or `remember` gave."""
        if self.spec.num_atoms > 1:
            return self.expected(self.logits_of(features, noise).softmax(-1))
        advantages, value = self._streams(features, noise)
        return advantages if value is None else dueling_values(value, advantages)

    def logits(self, observations: TensorTree, noise: Tensor | None = None) -> Tensor:
        """Logits of every action's distribution over the atoms, [..., A, N]."""
        return self.logits_of(self.features(observations), noise)

    def logits_of(self, features: Tensor, noise: Tensor | None = None) -> Tensor:
        """`logits` of what `features` or `remember` gave."""
        rows, value = self._streams(features, noise)
        advantages = rows.reshape(*rows.shape[:-1], -1, self.spec.num_atoms)
        if value is None:
            return advantages
        return dueling_values(value.unsqueeze(-2), advantages, actions=-2)

    def _streams(self, features: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Advantages [..., A * N], or with no value apart the values, and the value [..., N]."""
        parts = None if noise is None else LayerNoise(noise)
        hidden = through(self.torso, features, parts)
        advantages = through(self.advantage_stream, hidden, parts)
        advantages = through(self.advantage_head, advantages, parts)
        value = None if self.value is None else through(self.value, hidden, parts)
        return advantages, value

    def expected(self, probabilities: Tensor) -> Tensor:
        """The values that distributions [..., A, N] amount to, [..., A]."""
        return probabilities @ self.support

    def act(
        self, observations: TensorTree, noise: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return self._choose(self.features(observations), observations, noise), {}

    def act_with_memory(
        self, observations: TensorTree, noise: Tensor | None, memory: Tensor
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        outputs, after = self.remember(self.encoder(observations), Packed.single(memory))
        return self._choose(outputs, observations, noise), {}, after

    def _choose(self, features: Tensor, observations: TensorTree, noise: Tensor | None) -> Tensor:
        mask = self.observation_layout.mask_of(observations)
        if noise is None:
            return allowed_values(self.values_of(features), mask).argmax(-1)
        values = self.values_of(features, noise[:, 1:] if self.parameter_noise else None)
        return epsilon_greedy(values, self.epsilon, noise[:, 0], mask)

    def allowed(self, values: Tensor, observations: TensorTree) -> Tensor:
        """Values [..., A] of these observations, -inf where their mask forbids the action."""
        return allowed_values(values, self.observation_layout.mask_of(observations))

    def observe(self, observations: TensorTree) -> None:
        self.encoder.observe(observations)

    def actor_factory(self) -> ActorFactory | None:
        if self.observation_layout.has_images or self.spec.encoder is not None:
            return None
        kind = NumpyQActor if self.memory is None else NumpyRecurrentQActor
        return functools.partial(kind, self.spec, self.parameter_table())

    def describe(self) -> dict[str, Any]:
        return {"module": "q_network", **self.spec.to_json()}
