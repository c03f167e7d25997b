"""The network of DQN: a value for each of the actions, and how to act on them."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from rl.core.data.spaces import ActionLayout, ObservationLayout
from rl.core.models.actor import ActorFactory
from rl.core.models.modules import Module, ObservationEncoder, TensorTree, mlp
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
    2017, arXiv:1707.06887), whose mean is the value. Weights begin as torch's own, which is what
    DQN has always been run with.
    """

    epsilon: Tensor
    support: Tensor

    def __init__(self, spec: QNetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.observation_layout = ObservationLayout(spec.observation_space)
        self.action_layout = ActionLayout(spec.action_space)
        self.encoder = ObservationEncoder(
            self.observation_layout, spec.normalize_observations, orthogonal=False
        )
        inputs = self.encoder.num_outputs
        self.torso = mlp(inputs, spec.torso_sizes, spec.activation, orthogonal=False)
        shared = spec.torso_sizes[-1] if spec.torso_sizes else inputs
        width = spec.stream_sizes[-1] if spec.stream_sizes else shared
        outputs = self.action_layout.num_parameters * spec.num_atoms
        # Without dueling there is no value apart, and the "advantages" are the values.
        self.advantage_stream = mlp(shared, spec.stream_sizes, spec.activation, orthogonal=False)
        self.advantage_head = nn.Linear(width, outputs)
        self.value: nn.Module | None = None
        if spec.dueling:
            stream = mlp(shared, spec.stream_sizes, spec.activation, orthogonal=False)
            self.value = nn.Sequential(stream, nn.Linear(width, spec.num_atoms))
        self.register_buffer("epsilon", torch.zeros(()))
        atoms = torch.linspace(spec.v_min, spec.v_max, spec.num_atoms)
        self.register_buffer("support", atoms, persistent=False)

    def q_values(self, observations: TensorTree) -> Tensor:
        """Q of every action, [..., A], also of those that a mask forbids."""
        if self.spec.num_atoms > 1:
            return self.expected(self.logits(observations).softmax(-1))
        hidden = self.torso(self.encoder(observations))
        advantages: Tensor = self.advantage_head(self.advantage_stream(hidden))
        if self.value is None:
            return advantages
        return dueling_values(self.value(hidden), advantages)

    def logits(self, observations: TensorTree) -> Tensor:
        """Logits of every action's distribution over the atoms, [..., A, N]."""
        hidden = self.torso(self.encoder(observations))
        rows: Tensor = self.advantage_head(self.advantage_stream(hidden))
        advantages = rows.reshape(*rows.shape[:-1], -1, self.spec.num_atoms)
        if self.value is None:
            return advantages
        return dueling_values(self.value(hidden).unsqueeze(-2), advantages, actions=-2)

    def expected(self, probabilities: Tensor) -> Tensor:
        """The values that distributions [..., A, N] amount to, [..., A]."""
        return probabilities @ self.support

    def act(
        self, observations: TensorTree, noise: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        values, mask = self.q_values(observations), self.observation_layout.mask_of(observations)
        if noise is None:
            return allowed_values(values, mask).argmax(-1), {}
        return epsilon_greedy(values, self.epsilon, noise.squeeze(-1), mask), {}

    def allowed(self, values: Tensor, observations: TensorTree) -> Tensor:
        """Values [..., A] of these observations, -inf where their mask forbids the action."""
        return allowed_values(values, self.observation_layout.mask_of(observations))

    def observe(self, observations: TensorTree) -> None:
        self.encoder.observe(observations)

    def actor_factory(self) -> ActorFactory | None:
        if self.observation_layout.has_images:
            return None
        return functools.partial(NumpyQActor, self.spec, self.parameter_table())

    def describe(self) -> dict[str, Any]:
        return {"module": "q_network", **self.spec.to_json()}
