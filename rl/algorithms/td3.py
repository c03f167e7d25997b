"""Twin delayed deep deterministic policy gradient (Fujimoto et al. 2018, arXiv:1802.09477).

Deterministic policy gradients with the three repairs of the paper: the lesser of two critics, noise
on the action that makes the target, a policy that moves less often than the critics.

Read down: the order of sampling and learning, a round of updates, one update, its target as pure
functions. The settings stand in `rl/configs/td3.py`. Shapes: T steps per rollout, B environments, M
transitions of a batch, d numbers of an action; 2 is the critics.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from rl.algorithms.algorithm import Algorithm
from rl.configs.td3 import TD3Config
from rl.core.data.blocks import Part, Parts
from rl.core.data.rollout import Rollout
from rl.core.data.spaces import Spaces
from rl.core.learning.experience import Experience, ReplayBatch
from rl.core.learning.flat import FlatParameters, become_views, frozen_copy
from rl.core.learning.learner import Averages, Learner, Metrics
from rl.core.models.policy_network import DeterministicPolicy
from rl.core.models.spec import PolicySpec
from rl.core.models.twin_critics import TwinCritics
from rl.core.seeding import stream_seed

__all__ = ["TD3", "TD3Config", "TD3Learner", "smoothed"]


class TD3(Algorithm[TD3Config]):
    """Samples a little, learns in proportion from all it remembers, hands the weights back."""

    def make_learner(self) -> TD3Learner:
        return TD3Learner(self.config, self.spaces, self.config.num_environments)

    def training_step(self) -> Metrics:
        length = self.fragment_length(self.config.rollout_length, exact=True)
        rollouts = self.sample(length)  # one [T, B] from each runner
        if self.config.env_runners.overlap:
            self.publish_weights()  # before they learn: the next fragment lags by this update
            self.sample_ahead(self.fragment_length(self.config.rollout_length, exact=True))
            return self.learn_from(rollouts)
        metrics = self.learn_from(rollouts)
        self.publish_weights()
        return metrics


class TD3Learner(Learner[TD3Config]):
    """Remembers transitions; fits two critics, and more rarely a policy to the first of them.

    `module` is the policy, what acts. The critics are trained apart from it; both have targets.
    """

    module: DeterministicPolicy
    experience: Experience

    def __init__(self, config: TD3Config, spaces: Spaces, num_environments: int) -> None:
        super().__init__(config, spaces, num_environments)
        self.experience = Experience(self, config, spaces)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(config.seed, "critics"))
            self.critics = TwinCritics(
                self.module.spec,
                self.module.action_layout.num_columns,
                1,
                self.module.encoder.normalizer,
            ).to(self.device)
        self.others["critics"] = FlatParameters(self.critics.parameters(), config.learning_rate)
        vector = self.others["critics"].vector
        self.target, self.target_parameters = frozen_copy(self.critics, vector)
        self.target_policy, self.target_policy_parameters = frozen_copy(
            self.module, self.flat.vector
        )
        # The critics' own values, but without gradients: the policy's loss must not move them.
        self.judges, _ = frozen_copy(self.critics, vector)
        become_views(list(self.judges.parameters()), vector)
        self.module.exploration_noise.fill_(config.exploration_noise)
        self.module.warming_up.fill_(config.learning_starts > 0)

    @staticmethod
    def make_module(config: TD3Config, spaces: Spaces) -> DeterministicPolicy:
        return DeterministicPolicy(PolicySpec.of(config, spaces))

    def extra_state(self) -> dict[str, Tensor]:
        return super().extra_state() | {
            "target": self.target_parameters,
            "target_policy": self.target_policy_parameters,
            "credit": self.experience.credit,
        }

    def get_memory(self, known: Collection[str] = ()) -> Parts:
        return self.experience.replay.get_state(known)

    def set_memory(self, memory: Mapping[str, Part]) -> None:
        self.experience.replay.set_state(memory)

    def update(self, rollouts: Sequence[Rollout], env_steps: int) -> Metrics:
        rollout = Rollout.concatenate(rollouts)
        steps_now = env_steps + rollout.num_steps
        metrics = {"train/learning_rate": self.set_learning_rate(env_steps)}
        self.experience.remember(rollout, env_steps)
        critics, policy = Averages(self.ranks), Averages(self.ranks)
        for _ in range(self.experience.due_updates(env_steps, steps_now)):
            self.step(critics, policy)
        self.module.warming_up.fill_(steps_now < self.config.learning_starts)
        found = critics.result() | policy.result()
        metrics |= {f"train/{name}": value for name, value in found.items()}
        return metrics | self.experience.report(steps_now)

    def step(self, critics: Averages, policy: Averages) -> None:
        """One update on a batch of M transitions; adds its scalars to those of the iteration."""
        config, batch = self.config, self.experience.draw()
        critic_loss, q_value = self.fit_critics(batch)
        critics.add(critic_loss=critic_loss, q_value=q_value)
        self.num_updates += 1
        if self.num_updates % config.policy_delay == 0:
            policy.add(actor_loss=self.fit_policy(batch))
        if self.num_updates % config.target_update_interval == 0:
            self.target_parameters.lerp_(self.others["critics"].vector, config.tau)
            self.target_policy_parameters.lerp_(self.flat.vector, config.tau)

    def fit_critics(self, batch: ReplayBatch) -> tuple[Tensor, Tensor]:
        """A step of both critics towards the target; returns the loss and their mean value."""
        config = self.config
        with torch.no_grad():
            best = self.target_policy.best(batch.next_observations)
            noise = self.noise(best) * config.target_noise
            actions = smoothed(best, noise, config.target_noise_clip)
            following = self.target(batch.next_observations, actions).squeeze(-1)
            targets = batch.returns + batch.discounts * torch.minimum(*following)
        taken = self.module.bounds.from_env(batch.actions)
        values = self.critics(batch.observations, taken).squeeze(-1)
        errors = values - targets  # [2, M]
        squares = errors.square()
        if batch.weights is not None:
            squares = squares * batch.weights
            self.experience.note_errors(errors.detach().abs().mean(0))
        loss = squares.mean(-1).sum()
        self.others["critics"].backward(loss)
        self.others["critics"].step(config.max_grad_norm)
        return loss, values.mean()

    def fit_policy(self, batch: ReplayBatch) -> Tensor:
        """A step of the policy up the first critic; returns the loss, -Q1(s, mu(s))."""
        actions = self.module.best(batch.observations)
        loss = -self.judges.first(batch.observations, actions).mean()
        self.flat.backward(loss)
        self.flat.step(self.config.max_grad_norm)
        return loss


def smoothed(actions: Tensor, noise: Tensor, clip: float) -> Tensor:
    """Actions in [-1, 1] with noise of at most `clip`, kept in [-1, 1]; eq. 14 of the paper."""
    return (actions + noise.clamp(-clip, clip)).clamp(-1, 1)
