"""Twin delayed deep deterministic policy gradient (Fujimoto et al. 2018, arXiv:1802.09477).

Deterministic policy gradients with the three repairs of the paper: the lesser of two critics, noise
on the action that makes the target, a policy that moves less often than the critics.

Read down: the order of sampling and learning, a round of updates, one update, its target as pure
functions. The settings stand in `rl/configs/td3.py`. Shapes: T steps per rollout, B environments, M
transitions of a batch, d numbers of an action; 2 is the critics.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rl.algorithms.algorithm import Algorithm
from rl.configs.td3 import TD3Config
from rl.core.data.blocks import Part, Parts
from rl.core.data.replay import Transitions
from rl.core.data.rollout import Rollout
from rl.core.data.spaces import Spaces
from rl.core.data.tree import Array, Tree
from rl.core.lazy import LazyModule, torch
from rl.core.learning.analytic_td3 import AnalyticTD3
from rl.core.learning.critics import Critics
from rl.core.learning.engines import network_obstacles, recording_obstacles
from rl.core.learning.experience import Experience, ReplayBatch
from rl.core.learning.learner import Averages, Learner, Metrics
from rl.core.learning.target import TargetNetwork
from rl.core.models.plain import PlainNetwork, plain_obstacles, set_number
from rl.core.models.spec import PolicySpec
from rl.core.seeding import random_generator

if TYPE_CHECKING:  # who learns plain MLPs with analytic gradients imports none of these
    from torch import Tensor

    from rl.core.models import policy_network
    from rl.core.models.modules import Module, TensorTree
    from rl.core.models.policy_network import DeterministicPolicy
    from rl.core.models.twin_critics import TwinCritics
else:
    policy_network = LazyModule("rl.core.models.policy_network")

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
    analytic: AnalyticTD3
    """There with analytic gradients alone."""

    def __init__(self, config: TD3Config, spaces: Spaces, num_environments: int) -> None:
        super().__init__(config, spaces, num_environments)
        self.experience = Experience(self, config, spaces)
        self.twins = Critics(self, self.network.action_layout.num_columns, 1)
        self.others["critics"] = self.twins.flat
        self.slow_policy = TargetNetwork(self.flat, lambda: self.module)
        set_number(self.network, "exploration_noise", config.exploration_noise)
        set_number(self.network, "warming_up", config.learning_starts > 0)
        self.set_up_engine()

    def set_up_engine(self) -> None:
        super().set_up_engine()
        self.score_critics = self.played(self._score_critics) or self._score_critics
        self.score_policy = self.played(self._score_policy) or self._score_policy
        if self.by_hand:
            assert isinstance(self.network, PlainNetwork)
            policy = self.network, self.flat, self.slow_policy.array
            self.analytic = AnalyticTD3(self.config, *policy, self.twins, self.engine)

    @classmethod
    def make_network(cls, config: TD3Config, spaces: Spaces) -> PlainNetwork | Module:
        spec = PolicySpec.of(config, spaces)
        if cls.make_module is not TD3Learner.make_module or any(plain_obstacles(spec)):
            return super().make_network(config, spaces)
        generator = random_generator(config.seed, "module")
        return PlainNetwork("deterministic_policy", spec, generator)

    @staticmethod
    def make_module(config: TD3Config, spaces: Spaces) -> DeterministicPolicy:
        return policy_network.DeterministicPolicy(PolicySpec.of(config, spaces))

    @property
    def critics(self) -> TwinCritics:
        """Both, as torch has them."""
        return self.twins.module

    @property
    def judges(self) -> TwinCritics:
        """The critics as the policy's loss sees them: it must not move them."""
        return self.twins.judges

    @property
    def target(self) -> TwinCritics:
        """The slower copy of the critics."""
        return self.twins.slow.module

    @property
    def target_parameters(self) -> Tensor:
        """Of the slower copy of the critics, [P]."""
        return self.twins.slow.vector

    @property
    def target_policy(self) -> DeterministicPolicy:
        """The slower copy of the policy."""
        return self.slow_policy.module

    @property
    def target_policy_parameters(self) -> Tensor:
        """Of the slower copy of the policy, [P]."""
        return self.slow_policy.vector

    def obstacles(self) -> Iterator[str]:
        if type(self) is TD3Learner:
            yield from network_obstacles(self.network)
        else:
            yield f"{type(self).__name__} may have other losses than TD3Learner"

    def recording_obstacles(self) -> Iterator[str]:
        if type(self) is TD3Learner:
            yield from recording_obstacles(self.network)
        else:
            yield f"{type(self).__name__} may have other losses than TD3Learner"

    def extra_state(self) -> dict[str, Any]:
        return super().extra_state() | {
            "target": self.twins.slow.state,
            "target_policy": self.slow_policy.state,
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
        set_number(self.network, "warming_up", steps_now < self.config.learning_starts)
        found = critics.result() | policy.result()
        metrics |= {f"train/{name}": value for name, value in found.items()}
        return metrics | self.experience.report(steps_now)

    def step(self, critics: Averages, policy: Averages) -> None:
        """One update on a batch of M transitions; adds its scalars to those of the iteration."""
        config = self.config
        turn = (self.num_updates + 1) % config.policy_delay == 0
        if self.by_hand:
            _, found, weights = self.experience.draw_arrays()
            critics.add(**self.fit_critics_by_hand(found, weights))
            if turn:
                policy.add(actor_loss=self.fit_policy_by_hand(found.observations))
        else:
            batch = self.experience.draw()
            critic_loss, q_value = self.fit_critics(batch)
            critics.add(critic_loss=critic_loss, q_value=q_value)
            if turn:
                policy.add(actor_loss=self.fit_policy(batch))
        self.num_updates += 1
        if self.num_updates % config.target_update_interval == 0:
            for network in (self.twins.slow, self.slow_policy):
                network.follow(config.tau, self.by_hand)

    def fit_critics_by_hand(self, batch: Transitions, weights: Array | None) -> dict[str, float]:
        """`fit_critics` by the analytic gradient of M transitions; weights [M] or none."""
        columns = self.network.action_layout.num_columns
        noise = self.noise((len(batch.returns), columns))
        terms, errors = self.analytic.critic_gradient(batch, noise, weights)
        if weights is not None:
            self.experience.note_errors(np.abs(errors).mean(0))
        self.others["critics"].step_array(self.config.max_grad_norm, terms["critic_loss"])
        return terms

    def fit_policy_by_hand(self, observations: Tree) -> float:
        """`fit_policy` by the analytic gradient at observations [M, *obs]."""
        loss = self.analytic.policy_gradient(observations)
        self.flat.step_array(self.config.max_grad_norm, loss)
        return loss

    def fit_critics(self, batch: ReplayBatch) -> tuple[Tensor, Tensor]:
        """A step of both critics towards the target; returns the loss and their mean value."""
        columns = self.network.action_layout.num_columns
        noise = self.tensor(self.noise((len(batch.returns), columns)))
        scored = self.score_critics([noise, *batch.columns()])
        if batch.weights is not None:
            self.experience.note_errors(scored["errors"])
        self.others["critics"].step(self.config.max_grad_norm)
        return scored["loss"], scored["q_value"]

    def _score_critics(self, inputs: Sequence[Any]) -> dict[str, Tensor]:
        """Loss and mean value of both critics, and where draws are uneven mean errors [M].

        It leaves their gradient.

        Args:
            inputs: Noise of the target's actions [M, d] and the columns of a batch.
        """
        noise, *columns = inputs
        batch = ReplayBatch.of(columns)
        loss, values, errors = self.critic_loss(batch, noise)
        self.others["critics"].backward(loss)
        scored = {"loss": loss, "q_value": values.mean()}
        if batch.weights is not None:
            scored["errors"] = errors.abs().mean(0)
        return scored

    def critic_loss(self, batch: ReplayBatch, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of both critics, a scalar; their values and errors, [2, M].

        Args:
            batch: M transitions.
            noise: Standard normal [M, d], of the target's actions.
        """
        config = self.config
        with torch.no_grad():
            best = self.target_policy.best(batch.next_observations)
            actions = smoothed(best, noise * config.target_noise, config.target_noise_clip)
            following = self.target(batch.next_observations, actions).squeeze(-1)
            targets = batch.returns + batch.discounts * torch.minimum(*following)
        taken = self.module.bounds.from_env(batch.actions)
        values = self.critics(batch.observations, taken).squeeze(-1)
        errors = values - targets  # [2, M]
        squares = errors.square()
        if batch.weights is not None:
            squares = squares * batch.weights
        return squares.mean(-1).sum(), values, errors.detach()

    def fit_policy(self, batch: ReplayBatch) -> Tensor:
        """A step of the policy up the first critic; returns the loss, -Q1(s, mu(s))."""
        loss = self.score_policy([batch.observations])["loss"]
        self.flat.step(self.config.max_grad_norm)
        return loss

    def _score_policy(self, inputs: Sequence[Any]) -> dict[str, Tensor]:
        """The policy's loss at observations [M, *obs]; leaves its gradient."""
        (observations,) = inputs
        loss = self.policy_loss(observations)
        self.flat.backward(loss)
        return {"loss": loss}

    def policy_loss(self, observations: TensorTree) -> Tensor:
        """-Q1(s, mu(s)), a scalar: the mean over observations [M, *obs]."""
        return -self.judges.first(observations, self.module.best(observations)).mean()


def smoothed(actions: Tensor, noise: Tensor, clip: float) -> Tensor:
    """Actions in [-1, 1] with noise of at most `clip`, kept in [-1, 1]; eq. 14 of the paper."""
    return (actions + noise.clamp(-clip, clip)).clamp(-1, 1)
