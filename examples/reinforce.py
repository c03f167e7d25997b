"""An algorithm of your own: REINFORCE with a baseline (Williams 1992), for discrete actions.

    train --algo examples.reinforce:ReinforceConfig --env CartPole-v1 --total-steps 200000

Four pieces: settings, a network, one update, the order of sampling and learning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from rl.algorithms.algorithm import Algorithm
from rl.configs.algorithm_config import ActionKind, AlgorithmConfig, AtLeastOne, Positive
from rl.configs.base import config
from rl.core.data.returns import generalized_advantages, successor_values
from rl.core.data.rollout import Rollout
from rl.core.data.spaces import Spaces
from rl.core.data.tree import tree_map
from rl.core.learning.learner import Learner, Metrics
from rl.core.models.modules import ActorCritic
from rl.core.models.spec import NetworkSpec


@config
class ReinforceConfig(AlgorithmConfig):
    """Settings of REINFORCE, besides those that every algorithm has."""

    supported_actions: ClassVar[frozenset[ActionKind]] = frozenset({"discrete"})

    learning_rate: Positive = 3e-3
    rollout_length: AtLeastOne = 128
    """Steps of each environment between two updates of the policy (T)."""

    def build(self) -> Reinforce:
        return Reinforce(self)


class ReinforceLearner(Learner[ReinforceConfig]):
    """One gradient step per batch."""

    module: ActorCritic

    @staticmethod
    def make_module(config: ReinforceConfig, spaces: Spaces) -> ActorCritic:
        return ActorCritic(
            NetworkSpec(
                spaces.observation,
                spaces.action,
                config.hidden_sizes,
                config.activation,
                normalize_observations=config.normalize_observations,
            )
        )

    def update(self, rollouts: Sequence[Rollout], env_steps: int) -> Metrics:
        """Makes actions likelier by how much better than the baseline they went."""
        rate = self.set_learning_rate(env_steps)
        rollout = Rollout.concatenate(rollouts)
        observations = self.tensors(rollout.observations)
        acted_on = tree_map(lambda o: o[:-1], observations)
        values = self.module.value(observations)
        with torch.no_grad():
            finals = self.module.value(self.tensors(rollout.final_observations))
            returns = values[:-1] + generalized_advantages(
                self.rewards(rollout),
                values[:-1],
                successor_values(values, finals, self.tensor(rollout.final_steps)),
                self.tensor(rollout.terminated),
                self.tensor(rollout.terminated | rollout.truncated),
                self.config.gamma,
                gae_lambda=1.0,  # the sampled return alone
            )
        advantages = returns - values[:-1]
        log_probs = self.module.distribution(acted_on).log_prob(self.tensor(rollout.actions))
        policy_loss = -(log_probs * advantages.detach()).mean()
        value_loss = advantages.square().mean()
        self.apply_gradients(policy_loss + value_loss)
        self.observe(tree_map(lambda o: o.flatten(0, 1), acted_on))
        return {
            "train/policy_gradient_loss": policy_loss.item(),
            "train/value_loss": value_loss.item(),
            "train/learning_rate": rate,
        }


class Reinforce(Algorithm[ReinforceConfig]):
    """Samples, learns once, hands the weights back."""

    def make_learner(self) -> ReinforceLearner:
        return ReinforceLearner(self.config, self.spaces, self.config.num_environments)

    def training_step(self) -> Metrics:
        rollouts = self.sample(self.fragment_length(self.config.rollout_length))
        metrics = self.learn_from(rollouts)
        self.publish_weights()
        return metrics
