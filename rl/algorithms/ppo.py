"""Proximal policy optimization with a clipped surrogate (Schulman et al. 2017, arXiv:1707.06347).

With the details Huang et al. 2022 ("The 37 implementation details of PPO") found to matter:
orthogonal initialisation, advantages normalised per minibatch, gradients clipped by their global
norm, Adam epsilon 1e-5.

Read down: the order of sampling and learning, one update, the loss, its terms as pure functions.
The settings stand in `rl/configs/ppo.py`. Shapes: T steps per rollout, B environments, N = T * B
samples, M a minibatch, K episode ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from rl.algorithms.algorithm import Algorithm
from rl.configs.ppo import PPOConfig
from rl.core.data.batch import TensorBatch, on_host
from rl.core.data.returns import explained_variance, generalized_advantages, successor_values
from rl.core.data.rollout import Rollout
from rl.core.data.spaces import Spaces
from rl.core.data.tree import first_leaf, tree_map
from rl.core.lazy import LazyModule, torch
from rl.core.learning.analytic_ppo import AnalyticPPO, PPOArrays, ScoredSteps, ppo_obstacles
from rl.core.learning.engines import recording_obstacles
from rl.core.learning.learner import Averages, Learner, Metrics
from rl.core.learning.schedules import linear
from rl.core.models.plain import PlainNetwork, plain_obstacles
from rl.core.models.spec import NetworkSpec
from rl.core.seeding import random_generator

if TYPE_CHECKING:  # who learns a plain MLP with analytic gradients imports none of these
    from torch import Tensor

    from rl.core.learning import recurrent as sequences
    from rl.core.models import modules
    from rl.core.models.memory import Packed
    from rl.core.models.modules import TensorTree
else:
    sequences = LazyModule("rl.core.learning.recurrent")
    modules = LazyModule("rl.core.models.modules")

__all__ = [
    "PPO",
    "PPOBatch",
    "PPOConfig",
    "PPOLearner",
    "adapted_kl_coef",
    "clipped_surrogate",
    "clipped_value_error",
    "kl_estimates",
    "normalized",
]

VALUE_ROWS = 256
"""Rows valued at once: bounds the memory of convolutions over a whole rollout."""


class PPO(Algorithm[PPOConfig]):
    """Samples with the newest weights, learns from the sample once, hands the weights back."""

    def make_learner(self) -> PPOLearner:
        return PPOLearner(self.config, self.spaces, self.config.num_environments)

    def training_step(self) -> Metrics:
        length = self.fragment_length(self.config.rollout_length)
        rollouts = self.sample(length)  # one [T, B] from each runner
        if self.config.env_runners.overlap:
            self.publish_weights()  # before they learn: the next rollout lags by this update
            self.sample_ahead(self.fragment_length(self.config.rollout_length))
            return self.learn_from(rollouts)
        metrics = self.learn_from(rollouts)
        self.publish_weights()
        return metrics


@dataclass(frozen=True)
class PPOBatch(TensorBatch):
    """Scored steps, side by side."""

    observations: TensorTree  # [N, *obs]
    actions: Tensor  # [N, *act]
    log_probs: Tensor  # [N] under the policy that sampled
    advantages: Tensor  # [N]
    value_targets: Tensor  # [N]
    values: Tensor  # [N] before the update
    packed: Packed | None = None  # of a minibatch with memory: how its steps follow each other


class PPOLearner(Learner[PPOConfig]):
    """Several epochs of minibatch steps on the clipped objective."""

    reads_on_device = True

    def __init__(self, config: PPOConfig, spaces: Spaces, num_environments: int) -> None:
        self.adam_epsilon = config.adam_epsilon
        super().__init__(config, spaces, num_environments)
        self.kl_coef = np.array(config.kl_coef)  # [], float64
        self.set_up_engine()

    def set_up_engine(self) -> None:
        super().set_up_engine()
        self.recorded = self.played(self._score)
        if self.by_hand:
            assert isinstance(self.network, PlainNetwork)
            self.analytic = AnalyticPPO(self.config, self.network, self.flat, self.engine)

    @classmethod
    def make_network(cls, config: PPOConfig, spaces: Spaces) -> PlainNetwork | modules.Module:
        spec = NetworkSpec.of(config, spaces)
        if cls.make_module is not PPOLearner.make_module or any(plain_obstacles(spec)):
            return super().make_network(config, spaces)
        return PlainNetwork("actor_critic", spec, random_generator(config.seed, "module"))

    @staticmethod
    def make_module(config: PPOConfig, spaces: Spaces) -> modules.ActorCritic:
        return modules.ActorCritic(NetworkSpec.of(config, spaces))

    module: modules.ActorCritic
    analytic: AnalyticPPO
    """There with analytic gradients alone."""
    recurrent: sequences.RecurrentSteps
    """Of the steps that `prepare` scored last; there with memory alone."""

    def obstacles(self) -> Iterator[str]:
        if type(self) is PPOLearner:
            yield from ppo_obstacles(self.network)
        else:
            yield f"{type(self).__name__} may have another loss than PPOLearner"

    def recording_obstacles(self) -> Iterator[str]:
        if type(self) is PPOLearner:
            yield from recording_obstacles(self.network)
        else:
            yield f"{type(self).__name__} may have another loss than PPOLearner"

    def extra_state(self) -> dict[str, Any]:
        return super().extra_state() | {"kl_coef": self.kl_coef}

    def update(self, rollouts: Sequence[Rollout], env_steps: int) -> Metrics:
        config = self.config
        learning_rate = self.set_learning_rate(env_steps)
        clip_range = linear(
            config.clip_range, config.clip_range_final, env_steps, config.total_steps
        )
        batch = self.prepare(Rollout.concatenate(rollouts))
        averages = Averages(self.ranks)
        stop = False
        for _ in range(config.num_epochs):
            for minibatch in self.minibatches(batch):
                terms = self.gradient(minibatch, clip_range)
                # Measured before stepping: a step that starts too far away is not taken.
                if config.target_kl is not None and self.moved(terms) > 1.5 * config.target_kl:
                    stop = True
                    break
                averages.add(**terms, grad_norm=self.descend(terms["loss"]))
            if stop:
                break
        metrics = {f"train/{name}": value for name, value in averages.result().items()}
        if config.kl_target is not None and metrics:
            kl = metrics["train/approx_kl"]
            self.kl_coef.fill(adapted_kl_coef(float(self.kl_coef), kl, config.kl_target))
        self.observe(batch.observations)
        return metrics | self._report(batch, learning_rate, clip_range)

    def minibatches(self, batch: PPOBatch | ScoredSteps) -> Iterator[PPOBatch | PPOArrays]:
        """This rank's rows of each minibatch of an epoch, in random order.

        Advantages are normalised over the whole minibatch, as if one learner had it all.
        """
        size = self.config.minibatch_size
        if isinstance(batch, ScoredSteps):
            order = self.numbers.permutation(len(batch.values))
            yield from self.analytic.minibatches(order, size, self.ranks)
            return
        if self.network.memory_size:
            yield from self._sequence_minibatches(batch, size // self.config.sequence_length)
            return
        order = self.numbers.permutation(len(batch))
        for minibatch in batch.take(self.tensor(order)).minibatches(size):
            own = self.ranks.part(len(minibatch))
            if not self.config.normalize_advantages:
                yield minibatch.part(own)
            else:
                yield replace(minibatch, advantages=normalized(minibatch.advantages)).part(own)

    def _sequence_minibatches(self, batch: PPOBatch, num_chunks: int) -> Iterator[PPOBatch]:
        """As `minibatches`, each of whole sequences."""
        scaled = normalized if self.config.normalize_advantages else torch.clone
        for steps, packed, advantages in self.recurrent.minibatches(
            num_chunks, self.generator, self.ranks, batch.advantages, scaled
        ):
            yield replace(batch.take(steps), advantages=advantages, packed=packed)

    def gradient(
        self, minibatch: PPOBatch | PPOArrays, clip_range: float
    ) -> dict[str, Tensor] | dict[str, float]:
        """Leaves the gradient of the loss on M samples where `descend` takes it; returns terms."""
        if isinstance(minibatch, PPOArrays):
            return self.analytic.gradient(minibatch, clip_range, float(self.kl_coef))
        if self.recorded is not None:
            return self.recorded(minibatch.columns(), clip_range, float(self.kl_coef))
        return self._score(minibatch.columns(), clip_range)

    def _score(self, columns: Sequence[Any], *numbers: Any) -> dict[str, Tensor]:
        """`gradient` of `PPOBatch.columns`, by clip_range, and kl_coef where it is recorded."""
        loss, terms = self.loss(PPOBatch(*columns), *numbers)
        self.flat.backward(loss)
        return {"loss": loss, **terms}

    def moved(self, terms: Mapping[str, Tensor | float]) -> float:
        """How far the policy is from the one that sampled, over the whole minibatch."""
        return float(self.ranks.average_(np.array(float(terms["approx_kl"]), np.float32)))

    def _report(
        self, batch: PPOBatch | ScoredSteps, learning_rate: float, clip_range: float
    ) -> Metrics:
        metrics = {
            "train/learning_rate": learning_rate,
            "train/clip_range": clip_range,
            "train/explained_variance": explained_variance(
                *map(on_host, (batch.values, batch.value_targets))
            ),
        }
        if self.network.action_layout.num_gaussian:
            metrics["train/std"] = float(np.exp(self.network.state_arrays()["log_std"]).mean())
        if self.config.kl_coef > 0:
            metrics["train/kl_coef"] = float(self.kl_coef)
        return metrics

    def prepare(self, rollout: Rollout) -> PPOBatch | ScoredSteps:
        """Scores every step of the rollout [T, B], then lays the steps side by side [N]."""
        rewards = self.reward_arrays(rollout)
        if self.by_hand:
            return self.analytic.score(rollout, rewards)
        with torch.no_grad():
            return self._prepare(rollout, self.tensor(rewards))

    def _prepare(self, rollout: Rollout, rewards: Tensor) -> PPOBatch:
        observations = rollout.on_device
        if observations is None:
            observations = self.tensors(rollout.observations)
        finals = self.tensors(rollout.final_observations)
        actions = self.tensor(rollout.actions)
        log_probs = self.tensor(rollout.extras["log_prob"])
        terminated = self.tensor(rollout.terminated)
        done = self.tensor(rollout.terminated | rollout.truncated)

        if not self.module.memory_size:
            values = self._values_of_rows(rollout, observations)
            final_values = self._in_pieces(self.module.value, finals)
        else:
            self.recurrent = sequences.RecurrentSteps(
                rollout, self.config.sequence_length, self.device
            )
            seen = [self._in_pieces(self.module.encoder, rows) for rows in (observations, finals)]
            values, final_values = self.recurrent.values(self.module, *seen)
        next_values = successor_values(values, final_values, self.tensor(rollout.final_steps))
        values = values[:-1]
        advantages = generalized_advantages(
            rewards,
            values,
            next_values,
            terminated,
            done,
            self.config.gamma,
            self.config.gae_lambda,
        )
        batch = PPOBatch(
            tree_map(lambda o: o[:-1].flatten(0, 1), observations),
            actions.flatten(0, 1),
            log_probs.flatten(),
            advantages.flatten(),
            (advantages + values).flatten(),
            values.flatten(),
        )
        if self.module.memory_size:
            return batch.take(self.recurrent.rows)
        if rollout.valid is None:
            return batch
        return batch.take(self.tensor(rollout.valid).flatten().nonzero().squeeze(-1))

    def _values_of_rows(self, rollout: Rollout, observations: TensorTree) -> Tensor:
        """V of every observation of a rollout, [T + 1, B]."""
        told = rollout.extras.get("value")
        if told is None or self.config.env_runners.overlap:  # there they lag behind these weights
            return self._in_pieces(self.module.value, observations)
        # The policy that acted saw their features anyway; it had these weights.
        last = self._in_pieces(self.module.value, tree_map(lambda o: o[-1:], observations))
        return torch.cat((self.tensor(told), last))

    def _in_pieces(self, function: Callable[[TensorTree], Tensor], rows: TensorTree) -> Tensor:
        """A function of observations [..., *obs], a few rows at a time."""
        pieces = tree_map(lambda o: torch.split(o, VALUE_ROWS), rows)
        count = len(first_leaf(pieces))
        parts = [tree_map(itemgetter(index), pieces) for index in range(count)]
        return torch.cat([function(part) for part in parts])

    def loss(
        self,
        batch: PPOBatch,
        clip_range: float | Tensor,
        kl_coef: float | Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective of the paper (eq. 9) with its sign turned, on M samples of `minibatches`.

        Looks at no number of the batch: on a GPU it can be recorded.

        Args:
            batch: M samples.
            clip_range: Of the ratio; a scalar tensor is float64.
            kl_coef: Worth of the divergence; none: that of now.

        Returns:
            The loss, a scalar, and its terms under their public names.
        """
        config = self.config
        policy, values = self.module(batch.observations, batch.packed)
        log_ratio = policy.log_prob(batch.actions) - batch.log_probs
        ratio = log_ratio.exp()  # 1 on the first minibatch of the first epoch
        objective = clipped_surrogate(ratio, batch.advantages, clip_range, config.dual_clip)
        errors = clipped_value_error(
            values, batch.values, batch.value_targets, config.value_clip_range
        )
        policy_loss, value_loss = -objective.mean(), errors.mean()
        loss = policy_loss + config.value_coef * value_loss
        with torch.set_grad_enabled(config.entropy_coef > 0):  # else only reported
            entropy = policy.entropy().mean()
        if config.entropy_coef > 0:
            loss = loss - config.entropy_coef * entropy
        with torch.set_grad_enabled(config.kl_coef > 0):
            kl = kl_estimates(log_ratio)[2].mean()
        if config.kl_coef > 0:
            worth = float(self.kl_coef) if kl_coef is None else kl_coef
            loss = loss + (worth * kl).to(loss.dtype)
        with torch.no_grad():
            clipped = ((ratio - 1).abs() > clip_range).to(torch.float32).mean()
        return loss, {
            "policy_gradient_loss": policy_loss,
            "value_loss": value_loss,
            "entropy_loss": -entropy,
            "approx_kl": kl,
            "clip_fraction": clipped,
        }


def clipped_surrogate(
    ratio: Tensor, advantages: Tensor, clip_range: float | Tensor, dual_clip: float | None = None
) -> Tensor:
    """min(r A, clip(r, 1 - e, 1 + e) A), eq. 7 of the paper, to be maximised; [M].

    With `dual_clip` c > 1 (Ye et al. 2020, arXiv:1912.09729, eq. 5) it is no less than c A where A
    < 0: an action that was bad and became very likely pulls no harder than that.
    """
    clipped = torch.clamp(ratio, 1 - clip_range, 1 + clip_range)  # type: ignore[arg-type]
    objective = torch.minimum(ratio * advantages, clipped * advantages)
    if dual_clip is None:
        return objective
    bounded = torch.maximum(objective, dual_clip * advantages)
    return torch.where(advantages < 0, bounded, objective)


def clipped_value_error(
    values: Tensor, old_values: Tensor, targets: Tensor, clip_range: float | None
) -> Tensor:
    """(V - R)^2, or the error of a value kept within `clip_range` of the old if larger; [M]."""
    error = (values - targets).square()
    if clip_range is None:
        return error
    kept = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return torch.maximum(error, (kept - targets).square())


def normalized(advantages: Tensor) -> Tensor:
    """(A - mean) / (std + 1e-8) over the minibatch; a single sample is left as it is."""
    if advantages.numel() < 2:
        return advantages
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)


def kl_estimates(log_ratio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """k1, k2, k3 of KL(old || new) per sample of the old policy; log_ratio = log new - log old.

    k1 = -log r is unbiased but may be negative, k2 = (log r)^2 / 2 is biased and positive, k3 = r -
    1 - log r is both unbiased and never negative (Schulman 2020, "Approximating KL divergence"); k3
    is what is reported.
    """
    return -log_ratio, 0.5 * log_ratio.square(), log_ratio.exp() - 1 - log_ratio


def adapted_kl_coef(coefficient: float, kl: float, target: float) -> float:
    """Halved below target / 1.5, doubled above 1.5 target (section 4 of the paper)."""
    if kl < target / 1.5:
        return coefficient / 2
    return coefficient * 2 if kl > 1.5 * target else coefficient
