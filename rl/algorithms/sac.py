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

import gymnasium
import torch
from torch import Tensor, nn

from rl.algorithms.algorithm import Algorithm
from rl.configs.sac import SACConfig
from rl.core.data.blocks import Part, Parts
from rl.core.data.rollout import Rollout
from rl.core.data.spaces import Spaces
from rl.core.data.tree import Array
from rl.core.kernels.follow import follow
from rl.core.learning.analytic_sac import AnalyticSAC, NumpySAC, sac_obstacles
from rl.core.learning.compiled_sac import CompiledSAC
from rl.core.learning.experience import Experience, ReplayBatch
from rl.core.learning.flat import FlatParameters, become_views, frozen_copy
from rl.core.learning.learner import Averages, Learner, Metrics
from rl.core.models.distributions import squashed_sample
from rl.core.models.modules import TensorTree
from rl.core.models.policy_network import CategoricalPolicy, SquashedPolicy
from rl.core.models.spec import PolicySpec
from rl.core.models.twin_critics import TwinCritics
from rl.core.seeding import stream_seed

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
        actions = self.module.action_layout
        continuous = isinstance(self.module, SquashedPolicy)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(config.seed, "critics"))
            self.critics = TwinCritics(
                self.module.spec,
                actions.num_columns if continuous else 0,
                1 if continuous else actions.num_parameters,
                self.module.encoder.normalizer,
            ).to(self.device)
        self.others["critics"] = FlatParameters(self.critics.parameters(), config.learning_rate)
        vector = self.others["critics"].vector
        self.target, self.target_parameters = frozen_copy(self.critics, vector)
        # The critics' own values, but without gradients: the policy's loss must not move them.
        self.judges, _ = frozen_copy(self.critics, vector)
        become_views(list(self.judges.parameters()), vector)
        self.ent_coef = torch.full((), config.first_ent_coef, device=self.device)
        if config.learns_ent_coef:
            logarithm = nn.Parameter(self.ent_coef.log().view(1))
            self.others["temperature"] = FlatParameters([logarithm], config.learning_rate)
        self.target_entropy = (
            default_target_entropy(self.module)
            if isinstance(config.target_entropy, str)
            else config.target_entropy
        )
        self.module.warming_up.fill_(config.learning_starts > 0)
        self.set_up_engine()

    def set_up_engine(self) -> None:
        super().set_up_engine()
        if self.by_hand:
            assert isinstance(self.module, SquashedPolicy)
            kind = CompiledSAC if self.engine == "compiled" else NumpySAC
            target = self.target_parameters.numpy()
            critics = self.critics, self.others["critics"]
            self.analytic = kind(self.module, self.flat, *critics, target)

    def obstacles(self) -> Iterator[str]:
        if type(self) is SACLearner:
            yield from sac_obstacles(self.module)
        else:
            yield f"{type(self).__name__} may have other losses than SACLearner"

    @staticmethod
    def make_module(config: SACConfig, spaces: Spaces) -> SquashedPolicy | CategoricalPolicy:
        spec = PolicySpec.of(config, spaces)
        discrete = isinstance(spaces.action, gymnasium.spaces.Discrete)
        return CategoricalPolicy(spec) if discrete else SquashedPolicy(spec)

    def extra_state(self) -> dict[str, Tensor]:
        own = {"target": self.target_parameters, "credit": self.experience.credit}
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
        self.module.warming_up.fill_(steps_now < self.config.learning_starts)
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
        ent_coef = float(self.ent_coef) if temperature is None else math.exp(logarithm)
        _, batch, weights = self.experience.draw_arrays()
        shape = len(batch.returns), self.module.action_layout.num_columns
        metrics, errors = self.analytic.critic_gradient(
            batch, self.noise_array(shape), ent_coef, weights
        )
        if weights is not None:
            self.experience.note_errors(torch.from_numpy(errors).abs().mean(0))
        self.others["critics"].step_array(config.max_grad_norm, metrics["critic_loss"])
        metrics["actor_loss"], log_prob = self.analytic.policy_gradient(
            batch.observations, self.noise_array(shape), ent_coef
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

    def noise_array(self, shape: tuple[int, ...]) -> Array:
        """`noise` for a gradient by hand, of this rank's rows [m, d]."""
        if self.ranks.size > 1:
            return self.noise(torch.empty(shape)).numpy()
        return torch.randn(shape, generator=self.generator).numpy()

    def move_target(self) -> None:
        """Counts an update, and lets the target follow the critics where it is due."""
        self.num_updates += 1
        if self.num_updates % self.config.target_update_interval:
            return
        critics = self.others["critics"]
        if self.engine == "compiled":
            follow(self.target_parameters.numpy(), critics.array, self.config.tau)
        else:
            self.target_parameters.lerp_(critics.vector, self.config.tau)

    def temperature(self) -> Tensor:
        """alpha, a scalar on the device, without a gradient."""
        if not self.config.learns_ent_coef:
            return self.ent_coef
        return self.others["temperature"].vector.exp().squeeze(0)

    def fit_critics(self, batch: ReplayBatch, ent_coef: Tensor) -> tuple[Tensor, Tensor]:
        """A step of both critics towards the target; returns the loss and their mean value."""
        loss, values, errors = self.critic_loss(batch, ent_coef)
        if batch.weights is not None:
            self.experience.note_errors(errors.abs().mean(0))
        self.others["critics"].backward(loss)
        self.others["critics"].step(self.config.max_grad_norm)
        return loss, values.mean()

    def critic_loss(self, batch: ReplayBatch, ent_coef: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of both critics, a scalar; their values and errors, [2, M]."""
        with torch.no_grad():
            following = self.soft_values(self.target, batch.next_observations, ent_coef)[0]
            targets = batch.returns + batch.discounts * following  # eq. 5, 2 and 3 of the paper
        if isinstance(self.module, SquashedPolicy):
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
        loss, log_probs = self.policy_loss(batch, ent_coef)
        self.flat.backward(loss)
        self.flat.step(self.config.max_grad_norm)
        return loss, log_probs.detach().mean()

    def policy_loss(self, batch: ReplayBatch, ent_coef: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of the policy, a scalar, and log pi [M] of what it would do."""
        values, log_probs = self.soft_values(self.judges, batch.observations, ent_coef)
        return -values.mean(), log_probs  # eq. 9 of the paper, with the reparametrised action

    def fit_temperature(self, log_prob: Tensor) -> Tensor:
        """A step of log alpha down -log alpha (log pi + target entropy); returns that loss."""
        temperature = self.others["temperature"]
        gap = log_prob + self.target_entropy
        loss = -temperature.vector * gap
        temperature.gradient.copy_(-gap)
        temperature.step(None)
        return loss.squeeze(0)

    def soft_values(
        self, critics: TwinCritics, observations: TensorTree, ent_coef: Tensor
    ) -> tuple[Tensor, Tensor]:
        """E[min(Q1, Q2) - alpha log pi] and E[log pi] of the policy as it is, each [M].

        By one action, drawn anew, or exactly where actions are discrete.
        """
        if isinstance(self.module, SquashedPolicy):
            mean, log_std = self.module.parameters_of(observations)
            actions, log_probs = squashed_sample(mean, log_std, self.noise(mean))
            values = critics(observations, actions).squeeze(-1)
            return soft_value(values, log_probs, ent_coef), log_probs
        log_probs = self.module.log_probs(observations)  # [M, A]
        chances = log_probs.exp()
        values = soft_value(critics(observations), log_probs, ent_coef)
        return (chances * values).sum(-1), (chances * log_probs).sum(-1)


def soft_value(values: Tensor, log_probs: Tensor, ent_coef: Tensor) -> Tensor:
    """min(Q1, Q2) - alpha log pi; values [2, ...], log_probs [...]."""
    return torch.minimum(values[0], values[1]) - ent_coef * log_probs


def default_target_entropy(policy: SquashedPolicy | CategoricalPolicy) -> float:
    """-d in the units of [-1, 1]; of A discrete actions a share of log A."""
    if isinstance(policy, SquashedPolicy):
        return -float(policy.action_layout.num_columns)
    return DISCRETE_TARGET * math.log(policy.action_layout.num_parameters)
