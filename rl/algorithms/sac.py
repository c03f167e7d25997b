"""Soft actor-critic (Haarnoja et al. 2018, arXiv:1801.01290 and arXiv:1812.05905).

For continuous actions with a squashed Gaussian, twin critics and a temperature that keeps an
entropy; for discrete ones with expectations in place of samples (Christodoulou 2019,
arXiv:1910.07207).

Read down: the order of sampling and learning, a round of updates, one update, its three losses as
pure functions. The settings stand in `rl/configs/sac.py`. Shapes: T steps per rollout, B
environments, M transitions of a batch, d numbers of a continuous action, A discrete actions; 2 is
the critics.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np

from rl.algorithms.algorithm import Algorithm
from rl.configs.sac import SACConfig
from rl.core.data.blocks import Part, Parts
from rl.core.data.rollout import Rollout
from rl.core.data.spaces import Spaces
from rl.core.lazy import LazyModule, torch
from rl.core.learning.analytic_sac import AnalyticSAC, NumpySAC, sac_obstacles
from rl.core.learning.compiled_sac import CompiledSAC
from rl.core.learning.critics import Critics
from rl.core.learning.engines import recording_obstacles
from rl.core.learning.experience import Experience, ReplayBatch
from rl.core.learning.flat import FlatParameters
from rl.core.learning.learner import Averages, Learner, Metrics
from rl.core.models.plain import PlainNetwork, plain_obstacles, set_number
from rl.core.models.spec import PolicySpec
from rl.core.seeding import random_generator

if TYPE_CHECKING:  # who learns plain MLPs with analytic gradients imports none of these
    from torch import Tensor

    from rl.core.models import distributions, policy_network
    from rl.core.models.modules import Module, TensorTree
    from rl.core.models.policy_network import CategoricalPolicy, SquashedPolicy
    from rl.core.models.twin_critics import TwinCritics
else:
    distributions = LazyModule("rl.core.models.distributions")
    policy_network = LazyModule("rl.core.models.policy_network")

__all__ = [
    "SAC",
    "SACConfig",
    "SACLearner",
    "default_target_entropy",
    "soft_value",
]

DISCRETE_TARGET = 0.89
"""Share of the largest entropy that `target_entropy: auto` keeps with discrete actions."""


class SAC(Algorithm[SACConfig]):
    """Samples a little, learns in proportion from all it remembers, hands the weights back."""

    def make_learner(self) -> SACLearner:
        return SACLearner(self.config, self.spaces, self.config.num_environments)

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


class SACLearner(Learner[SACConfig]):
    """Remembers transitions; fits two critics, a policy to the lesser of them, a temperature.

    `module` is the policy, what acts. The critics and the temperature are trained apart from it.
    """

    module: SquashedPolicy | CategoricalPolicy
    experience: Experience
    analytic: AnalyticSAC
    """There with analytic gradients alone."""

    def __init__(self, config: SACConfig, spaces: Spaces, num_environments: int) -> None:
        super().__init__(config, spaces, num_environments)
        self.experience = Experience(self, config, spaces)
        self.continuous = not isinstance(spaces.action, gymnasium.spaces.Discrete)
        actions = self.network.action_layout
        self.num_columns = actions.num_columns if self.continuous else 0
        self.twins = Critics(
            self, self.num_columns, 1 if self.continuous else actions.num_parameters
        )
        self.others["critics"] = self.twins.flat
        if config.learns_ent_coef:
            logarithm = np.log(np.full(1, config.first_ent_coef, np.float32))
            own = logarithm if self.on_cpu else [torch.nn.Parameter(self.tensor(logarithm))]
            self.others["temperature"] = FlatParameters(own, config.learning_rate)
        self.target_entropy = (
            default_target_entropy(self.network)
            if isinstance(config.target_entropy, str)
            else config.target_entropy
        )
        set_number(self.network, "warming_up", config.learning_starts > 0)
        self.set_up_engine()

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
        """Of the slower copy, [P]."""
        return self.twins.slow.vector

    def set_up_engine(self) -> None:
        super().set_up_engine()
        self.score_critics = self.played(self._score_critics) or self._score_critics
        self.score_policy = self.played(self._score_policy) or self._score_policy
        if self.by_hand:
            assert isinstance(self.network, PlainNetwork)
            kind = CompiledSAC if self.engine == "compiled" else NumpySAC
            self.analytic = kind(self.network, self.flat, self.twins)

    def obstacles(self) -> Iterator[str]:
        if type(self) is SACLearner:
            yield from sac_obstacles(self.network)
        else:
            yield f"{type(self).__name__} may have other losses than SACLearner"

    def recording_obstacles(self) -> Iterator[str]:
        if type(self) is SACLearner:
            yield from recording_obstacles(self.network)
        else:
            yield f"{type(self).__name__} may have other losses than SACLearner"

    @classmethod
    def make_network(cls, config: SACConfig, spaces: Spaces) -> PlainNetwork | Module:
        spec = PolicySpec.of(config, spaces)
        if cls.make_module is not SACLearner.make_module or any(plain_obstacles(spec)):
            return super().make_network(config, spaces)
        discrete = isinstance(spaces.action, gymnasium.spaces.Discrete)
        kind = "categorical_policy" if discrete else "squashed_policy"
        return PlainNetwork(kind, spec, random_generator(config.seed, "module"))

    @staticmethod
    def make_module(config: SACConfig, spaces: Spaces) -> SquashedPolicy | CategoricalPolicy:
        spec = PolicySpec.of(config, spaces)
        if isinstance(spaces.action, gymnasium.spaces.Discrete):
            return policy_network.CategoricalPolicy(spec)
        return policy_network.SquashedPolicy(spec)

    def extra_state(self) -> dict[str, Any]:
        own = {"target": self.twins.slow.state, "credit": self.experience.credit}
        return super().extra_state() | own

    def get_memory(self, known: Collection[str] = ()) -> Parts:
        return self.experience.replay.get_state(known)

    def set_memory(self, memory: Mapping[str, Part]) -> None:
        self.experience.replay.set_state(memory)

    def update(self, rollouts: Sequence[Rollout], env_steps: int) -> Metrics:
        rollout = Rollout.concatenate(rollouts)
        steps_now = env_steps + rollout.num_steps
        metrics = {"train/learning_rate": self.set_learning_rate(env_steps)}
        self.experience.remember(rollout, env_steps)
        averages = Averages(self.ranks)
        for _ in range(self.experience.due_updates(env_steps, steps_now)):
            averages.add(**self.step())
        set_number(self.network, "warming_up", steps_now < self.config.learning_starts)
        metrics |= {f"train/{name}": value for name, value in averages.result().items()}
        return metrics | self.experience.report(steps_now)

    def step(self) -> dict[str, Tensor] | dict[str, float]:
        """One update on a batch of M transitions. Returns scalars under their public names.

        First the critics, then the policy by the new critics, then the temperature, then the
        target; all three losses use the temperature from before.
        """
        if self.by_hand:
            return self.step_by_hand()
        ent_coef = self.temperature()
        batch = self.experience.draw()
        critic_loss, q_value = self.fit_critics(batch, ent_coef)
        actor_loss, log_prob = self.fit_policy(batch, ent_coef)
        metrics = {"critic_loss": critic_loss, "actor_loss": actor_loss, "q_value": q_value}
        metrics |= {"ent_coef": ent_coef, "entropy": -log_prob}
        if self.config.learns_ent_coef:
            metrics["ent_coef_loss"] = self.fit_temperature(log_prob)
        self.move_target()
        return metrics

    def step_by_hand(self) -> dict[str, float]:
        """`step` by analytic gradients, on arrays."""
        config, temperature = self.config, self.others.get("temperature")
        logarithm = 0.0 if temperature is None else float(temperature.array[0])
        ent_coef = config.first_ent_coef if temperature is None else math.exp(logarithm)
        _, batch, weights = self.experience.draw_arrays()
        shape = len(batch.returns), self.num_columns
        metrics, errors = self.analytic.critic_gradient(batch, self.noise(shape), ent_coef, weights)
        if weights is not None:
            self.experience.note_errors(np.abs(errors).mean(0))
        self.others["critics"].step_array(config.max_grad_norm, metrics["critic_loss"])
        metrics["actor_loss"], log_prob = self.analytic.policy_gradient(
            batch.observations, self.noise(shape), ent_coef
        )
        self.flat.step_array(config.max_grad_norm, metrics["actor_loss"])
        metrics |= {"ent_coef": ent_coef, "entropy": -log_prob}
        if temperature is not None:
            gap = log_prob + self.target_entropy
            temperature.gradient_array[0] = -gap
            temperature.step_array(None)
            metrics["ent_coef_loss"] = -logarithm * gap
        self.move_target()
        return metrics

    def move_target(self) -> None:
        """Counts an update, and lets the target follow the critics where it is due."""
        self.num_updates += 1
        if self.num_updates % self.config.target_update_interval:
            return
        self.twins.slow.follow(self.config.tau, self.by_hand)

    def temperature(self) -> Tensor:
        """alpha, a scalar on the device, without a gradient."""
        if not self.config.learns_ent_coef:
            return torch.full((), self.config.first_ent_coef, device=self.device)
        return self.others["temperature"].vector.exp().squeeze(0)

    def fit_critics(self, batch: ReplayBatch, ent_coef: Tensor) -> tuple[Tensor, Tensor]:
        """A step of both critics towards the target; returns the loss and their mean value."""
        scored = self.score_critics([ent_coef, self.noise_for(batch), *batch.columns()])
        if batch.weights is not None:
            self.experience.note_errors(scored["errors"])
        self.others["critics"].step(self.config.max_grad_norm)
        return scored["loss"], scored["q_value"]

    def _score_critics(self, inputs: Sequence[Any]) -> dict[str, Tensor]:
        """Loss and mean value of both critics, and where draws are uneven mean errors [M].

        It leaves their gradient.

        Args:
            inputs: Temperature, noise and the columns of a batch: all that differs between calls.
        """
        ent_coef, noise, *columns = inputs
        batch = ReplayBatch.of(columns)
        loss, values, errors = self.critic_loss(batch, ent_coef, noise)
        self.others["critics"].backward(loss)
        scored = {"loss": loss, "q_value": values.mean()}
        if batch.weights is not None:
            scored["errors"] = errors.abs().mean(0)
        return scored

    def critic_loss(
        self, batch: ReplayBatch, ent_coef: Tensor, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of both critics, a scalar; their values and errors, [2, M].

        Args:
            batch: M transitions.
            ent_coef: The temperature, a scalar.
            noise: Of the successors' actions, see `noise_for`.
        """
        with torch.no_grad():
            following = self.soft_values(self.target, batch.next_observations, ent_coef, noise)[0]
            targets = batch.returns + batch.discounts * following  # eq. 5, 2 and 3 of the paper
        if isinstance(self.module, policy_network.SquashedPolicy):
            actions = self.module.bounds.from_env(batch.actions)
            values = self.critics(batch.observations, actions).squeeze(-1)
        else:
            taken = batch.actions.view(1, -1, 1).expand(2, -1, 1)
            values = self.critics(batch.observations).gather(-1, taken).squeeze(-1)
        errors = values - targets  # [2, M]
        squares = errors.square()
        if batch.weights is not None:
            squares = squares * batch.weights
        return 0.5 * squares.mean(-1).sum(), values, errors.detach()

    def fit_policy(self, batch: ReplayBatch, ent_coef: Tensor) -> tuple[Tensor, Tensor]:
        """A step of the policy towards the soft values; returns the loss and mean log pi."""
        scored = self.score_policy([ent_coef, self.noise_for(batch), batch.observations])
        self.flat.step(self.config.max_grad_norm)
        return scored["loss"], scored["log_prob"]

    def _score_policy(self, inputs: Sequence[Any]) -> dict[str, Tensor]:
        """Loss and mean log pi of the policy; leaves its gradient.

        Args:
            inputs: Temperature, noise and observations [M, *obs].
        """
        ent_coef, noise, observations = inputs
        loss, log_probs = self.policy_loss(observations, ent_coef, noise)
        self.flat.backward(loss)
        return {"loss": loss, "log_prob": log_probs.detach().mean()}

    def policy_loss(
        self, observations: TensorTree, ent_coef: Tensor, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The loss of the policy, a scalar, and log pi [M] of what it would do."""
        values, log_probs = self.soft_values(self.judges, observations, ent_coef, noise)
        return -values.mean(), log_probs  # eq. 9 of the paper, with the reparametrised action

    def fit_temperature(self, log_prob: Tensor) -> Tensor:
        """A step of log alpha down -log alpha (log pi + target entropy); returns that loss."""
        temperature = self.others["temperature"]
        gap = log_prob + self.target_entropy
        loss = -temperature.vector * gap
        temperature.gradient.copy_(-gap)
        temperature.step(None)
        return loss.squeeze(0)

    def noise_for(self, batch: ReplayBatch) -> Tensor | None:
        """What actions of M states are drawn by, [M, d]; none where actions are discrete."""
        if not self.continuous:
            return None
        return self.tensor(self.noise((len(batch.returns), self.num_columns)))

    def soft_values(
        self,
        critics: TwinCritics,
        observations: TensorTree,
        ent_coef: Tensor,
        noise: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """E[min(Q1, Q2) - alpha log pi] and E[log pi] of the policy as it is, each [M].

        By one action, drawn by the noise, or exactly where actions are discrete.
        """
        if isinstance(self.module, policy_network.SquashedPolicy):
            assert noise is not None
            mean, log_std = self.module.parameters_of(observations)
            actions, log_probs = distributions.squashed_sample(mean, log_std, noise)
            values = critics(observations, actions).squeeze(-1)
            return soft_value(values, log_probs, ent_coef), log_probs
        log_probs = self.module.log_probs(observations)  # [M, A]
        chances = log_probs.exp()
        values = soft_value(critics(observations), log_probs, ent_coef)
        return (chances * values).sum(-1), (chances * log_probs).sum(-1)


def soft_value(values: Tensor, log_probs: Tensor, ent_coef: Tensor) -> Tensor:
    """min(Q1, Q2) - alpha log pi; values [2, ...], log_probs [...]."""
    return torch.minimum(values[0], values[1]) - ent_coef * log_probs


def default_target_entropy(policy: PlainNetwork | Module) -> float:
    """-d in the units of [-1, 1]; of A discrete actions a share of log A."""
    actions = policy.action_layout
    if isinstance(actions.space, gymnasium.spaces.Discrete):
        return DISCRETE_TARGET * math.log(actions.num_parameters)
    return -float(actions.num_columns)
