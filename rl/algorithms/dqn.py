"""Deep Q-learning with a target network (Mnih et al. 2015, Nature 518).

With what was added since, each by a setting of its own: double (van Hasselt et al. 2016,
arXiv:1509.06461), dueling (Wang et al. 2016, arXiv:1511.06581), n-step returns (Hessel et al. 2018,
arXiv:1710.02298), prioritised replay (Schaul et al. 2016, arXiv:1511.05952).

Read down: the order of sampling and learning, a round of updates, one update, its target as a pure
function. The settings stand in `rl/configs/dqn.py`. Shapes: T steps per rollout, B environments, M
transitions of a batch, A actions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rl.algorithms.algorithm import Algorithm
from rl.configs.dqn import DQNConfig
from rl.core.data.memory import check_replay_fits
from rl.core.data.prioritized import PrioritizedReplay
from rl.core.data.replay import ReplayBuffer
from rl.core.data.rollout import Rollout
from rl.core.data.spaces import Spaces
from rl.core.data.tree import Array, tree_map
from rl.core.learning.learner import Averages, Learner, Metrics
from rl.core.learning.schedules import linear
from rl.core.models.q_network import QNetwork
from rl.core.models.spec import QNetworkSpec
from rl.core.seeding import stream_seed

__all__ = ["DQN", "DQNConfig", "DQNLearner", "q_targets"]

ROUNDING = 1e-9
"""Fractions of an update may add up to one but for this."""


class DQN(Algorithm[DQNConfig]):
    """Samples a little, learns in proportion from all it remembers, hands the weights back."""

    def make_learner(self) -> DQNLearner:
        return DQNLearner(self.config, self.spaces, self.config.num_environments)

    def training_step(self) -> Metrics:
        length = self.fragment_length(self.config.rollout_length, exact=True)
        rollouts = self.sample(length)  # one [T, B] from each runner
        metrics = self.learn_from(rollouts)
        self.publish_weights()
        return metrics


class DQNLearner(Learner[DQNConfig]):
    """Remembers transitions and regresses Q on targets that a slower copy of it makes."""

    module: QNetwork

    def __init__(self, config: DQNConfig, spaces: Spaces, num_environments: int) -> None:
        kind = PrioritizedReplay if config.prioritized else ReplayBuffer
        check_replay_fits(kind, spaces, config.buffer_size)
        super().__init__(config, spaces, num_environments)
        seed = stream_seed(config.seed, "replay")
        self.replay = (
            PrioritizedReplay(
                spaces, num_environments, config.buffer_size, seed, config.priority_alpha
            )
            if config.prioritized
            else ReplayBuffer(spaces, num_environments, config.buffer_size, seed)
        )
        target, self.target_parameters = self.frozen_copy()
        assert isinstance(target, QNetwork)
        self.target = target
        self.credit = torch.zeros((), dtype=torch.float64)  # updates earned and not yet made
        self.module.epsilon.fill_(self.exploration_rate(0))

    @staticmethod
    def make_module(config: DQNConfig, spaces: Spaces) -> QNetwork:
        return QNetwork(
            QNetworkSpec(
                spaces.observation,
                spaces.action,
                config.hidden_sizes,
                config.activation,
                config.dueling,
                config.normalize_observations,
            )
        )

    def extra_state(self) -> dict[str, Tensor]:
        own = {"target": self.target_parameters, "credit": self.credit}
        return super().extra_state() | own

    def get_memory(self) -> dict[str, Array]:
        return self.replay.get_state()

    def set_memory(self, memory: dict[str, Array]) -> None:
        self.replay.set_state(memory)

    def exploration_rate(self, env_steps: int) -> float:
        """Epsilon of the fragment that begins at this step; 1 before learning starts."""
        config = self.config
        if env_steps < config.learning_starts:
            return 1.0
        span = round(config.exploration_fraction * config.total_steps)
        return linear(config.exploration_initial, config.exploration_final, env_steps, span)

    def update(self, rollouts: Sequence[Rollout], env_steps: int) -> Metrics:
        config = self.config
        rollout = Rollout.concatenate(rollouts)
        steps_now = env_steps + rollout.num_steps
        learning_rate = self.set_learning_rate(env_steps)
        beta = linear(config.priority_beta, 1.0, env_steps, config.total_steps)
        metrics = {
            "rollout/exploration_rate": float(self.module.epsilon),
            "train/learning_rate": learning_rate,
        }
        self.remember(rollout)
        self.move_target(env_steps, steps_now)
        averages = Averages()
        for _ in range(self.due_updates(env_steps, steps_now)):
            averages.add(**self.step(beta))
        self.module.epsilon.fill_(self.exploration_rate(steps_now))
        metrics |= {f"train/{name}": value for name, value in averages.result().items()}
        return metrics | self._report(beta, steps_now)

    def _report(self, beta: float, steps_now: int) -> Metrics:
        learnt = max(1, steps_now - self.config.learning_starts)
        metrics = {
            "train/replay_size": float(len(self.replay)),
            "train/updates_per_step": self.num_updates / learnt,
            "train/update_credit": float(self.credit),
        }
        if self.config.prioritized:
            metrics["train/priority_beta"] = beta
        return metrics

    def remember(self, rollout: Rollout) -> None:
        """Stores the rollout [T, B] as it is; only statistics learn from it at once."""
        self.replay.add(rollout)
        self.observe_rewards(rollout)
        if self.config.normalize_observations:
            steps = slice(None) if rollout.valid is None else np.flatnonzero(rollout.valid)
            self.observe(
                self.tensors(
                    tree_map(
                        lambda o: o[:-1].reshape(-1, *o.shape[2:])[steps], rollout.observations
                    )
                )
            )

    def move_target(self, before: int, now: int) -> None:
        """Moves the target once for each multiple of its interval in (before, now]."""
        interval = self.config.target_update_interval
        times = now // interval - before // interval
        if times:  # the network stands still meanwhile, so that many moves are one
            self.target_parameters.lerp_(
                self._parameters.detach(), 1 - (1 - self.config.tau) ** times
            )

    def due_updates(self, before: int, now: int) -> int:
        """Adds the credit of steps in (before, now] past learning_starts; takes whole updates."""
        learnt_from = max(0, now - max(before, self.config.learning_starts))
        self.credit += self.config.updates_per_step * learnt_from
        due = int(float(self.credit) + ROUNDING)
        self.credit -= due
        return due

    def step(self, beta: float) -> dict[str, Tensor]:
        """One update on a batch of M transitions. Returns scalars under their public names."""
        config, replay = self.config, self.replay
        indices = replay.draw(config.batch_size)
        scale = None if self.reward_scaler is None else self._scaled_rewards
        batch = replay.gather(indices, config.n_step, config.gamma, scale)
        observations, actions = self.tensors(batch.observations), self.tensor(batch.actions)
        with torch.no_grad():
            following = self.tensors(batch.next_observations)
            next_values = self.target.q_values(following)
            choosing = self.module.q_values(following) if config.double else next_values
            targets = q_targets(
                self.tensor(batch.returns), self.tensor(batch.discounts), next_values, choosing
            )
        values = self.module.q_values(observations).gather(1, actions.unsqueeze(1)).squeeze(1)
        losses = F.smooth_l1_loss(values, targets, reduction="none")  # Huber, quadratic within 1
        if isinstance(replay, PrioritizedReplay):
            losses = losses * self.tensor(replay.weights(indices, beta))
            errors = (targets - values.detach()).cpu().numpy()
            replay.set_priorities(indices, errors)
        loss = losses.mean()
        return {
            "loss": loss,
            "q_value": values.mean(),
            "grad_norm": self.apply_gradients(loss),
        }

    def _scaled_rewards(self, rewards: Array) -> Array:
        scaled: Array = self.scaled(self.tensor(rewards)).cpu().numpy()
        return scaled


def q_targets(
    returns: Tensor, discounts: Tensor, next_values: Tensor, choosing_values: Tensor
) -> Tensor:
    """R + gamma^m Q'(s_m, argmax_a Q(s_m, a)), without a gradient; [M].

    Q' is the target network and Q chooses: the network for double DQN (arXiv:1509.06461, eq. 4), Q'
    itself for DQN.

    Args:
        returns: Discounted rewards of m steps, [M].
        discounts: gamma^m, 0 where the episode terminated, [M].
        next_values: Q' of the successors, [M, A].
        choosing_values: Q of the successors, [M, A].
    """
    best = choosing_values.argmax(-1, keepdim=True)
    return returns + discounts * next_values.gather(-1, best).squeeze(-1)
