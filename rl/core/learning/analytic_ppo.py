"""The gradient of PPO's loss by hand: the learning engines `numpy` and `compiled`.

`PPOLearner.loss` is the definition; tests hold this to its gradient, to 1e-5, for every setting.
Shapes: N samples of an iteration, M of a minibatch, F features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rl.configs.ppo import PPOConfig
from rl.core.data.returns import generalized_advantages, successor_values
from rl.core.data.rollout import Rollout
from rl.core.data.tree import Array, Tree, first_leaf, tree_map
from rl.core.data.weights import Weights
from rl.core.kernels.mlp import CompiledMLP
from rl.core.kernels.ppo import CompiledPPOLoss, PPONetworks, PPOSums, PPOWeights, normalize
from rl.core.learning.analytic_distributions import AnalyticDistribution
from rl.core.learning.analytic_mlp import MLP, linear_names, make_mlp
from rl.core.learning.engines import network_obstacles
from rl.core.learning.flat import FlatParameters
from rl.core.learning.ranks import Ranks
from rl.core.models.numpy_encoder import NumpyEncoder
from rl.core.models.plain import PlainNetwork
from rl.core.models.spec import NetworkSpec

if TYPE_CHECKING:
    from rl.core.models.modules import Module

__all__ = ["AnalyticPPO", "PPOArrays", "ScoredSteps", "ppo_obstacles"]

VALUE_ROWS = 1024
"""Rows valued at once, so that the arrays of a long rollout stay small."""
ONE = np.float32(1)


def ppo_obstacles(network: PlainNetwork | Module) -> Iterator[str]:
    """Yields what of a run has no form here."""
    yield from network_obstacles(network)
    if network.observation_layout.mask is not None:
        yield "action masks"
    if network.memory_size:
        spec: Any = network.spec
        yield f"memory ({spec.memory})"


class ScoredSteps(NamedTuple):
    """What `PPOBatch` is, in arrays: N scored steps, side by side."""

    observations: Tree  # [N, *obs]
    actions: Array  # [N, *act]
    log_probs: Array  # [N] under the policy that sampled
    advantages: Array  # [N]
    value_targets: Array  # [N]
    values: Array  # [N] before the update


class PPOArrays(NamedTuple):
    """Scored steps, side by side."""

    features: Array  # [M, F], encoded and normalised
    actions: Array  # [M, *act]
    columns: Array  # [4, M]: log-probabilities, advantages, value targets, old values

    def part(self, rows: slice) -> PPOArrays:
        """Consecutive rows, without a copy."""
        return PPOArrays(self.features[rows], self.actions[rows], self.columns[:, rows])

    def take(self, rows: Array) -> PPOArrays:
        """The rows of these indices."""
        return PPOArrays(
            self.features.take(rows, 0), self.actions.take(rows, 0), self.columns.take(rows, 1)
        )


class AnalyticPPO:
    """Values, minibatches and the gradient of the clipped objective."""

    def __init__(
        self, config: PPOConfig, network: PlainNetwork, flat: FlatParameters, engine: str
    ) -> None:
        """Takes views of a learner's vectors; it computes with whatever stands there.

        Args:
            config: Settings of the run.
            network: Whose parameters are those of `flat`.
            flat: Its `gradient_array` is written.
            engine: Who passes through the networks, `numpy` or `compiled`.
        """
        self._config, spec = config, network.spec
        assert isinstance(spec, NetworkSpec)
        table = network.parameter_table()
        parameters, gradients = table.views(flat.array), table.views(flat.gradient_array)
        views = parameters, gradients, spec.activation
        depth = len(spec.hidden_sizes)
        shared = linear_names("policy_torso", depth) if spec.shared_torso else []
        policy = [] if spec.shared_torso else linear_names("policy_torso", depth)
        value = [] if spec.shared_torso else linear_names("value_torso", depth)
        self._shares = bool(shared)
        self._torso = make_mlp(engine, shared, *views)
        self._policy = make_mlp(engine, [*policy, "policy_head"], *views, head=True)
        self._value = make_mlp(engine, [*value, "value_head"], *views, head=True)
        self._distribution = AnalyticDistribution(
            network.action_layout, parameters.get("log_std"), gradients.get("log_std")
        )
        torso = self._torso if self._shares else None
        self._compiled = _compiled_loss(
            network, (torso, self._policy, self._value), parameters, gradients
        )
        self._normalize = normalize if engine == "compiled" else normalize_array
        self._live = Weights(0, flat.array, network.buffers)
        self._encode = NumpyEncoder(spec)

    def values(self, rows: Tree, leading: int) -> Array:
        """V of observations [..., *obs] with so many leading axes, [...] float32."""
        shape = first_leaf(rows).shape[:leading]
        if 0 in shape:
            return np.zeros(shape, np.float32)
        features = self._features(tree_map(lambda o: o.reshape(-1, *o.shape[leading:]), rows))
        found = np.empty(len(features), np.float32)
        for start in range(0, len(found), VALUE_ROWS):
            few = slice(start, start + VALUE_ROWS)
            found[few] = self._value.forward(self._torso.forward(features[few]))[:, 0]
        return found.reshape(shape)

    def _features(self, observations: Tree) -> Array:
        """Features [N, F] of observations [N, *obs], by the statistics of now."""
        self._encode.set_weights(self._live)
        return self._encode(observations)

    def score(self, rollout: Rollout, rewards: Array) -> ScoredSteps:
        """`PPOLearner.prepare` in arrays; `minibatches` draws from these from now on.

        Args:
            rollout: Of T steps of B environments.
            rewards: [T, B], as they are learnt from.
        """
        config = self._config
        values = self.values(rollout.observations, 2)
        final_values = self.values(rollout.final_observations, 1)
        next_values = successor_values(values, final_values, rollout.final_steps)
        values = values[:-1]
        advantages = generalized_advantages(
            rewards,
            values,
            next_values,
            rollout.terminated,
            rollout.terminated | rollout.truncated,
            config.gamma,
            config.gae_lambda,
        )

        def rows(steps: Array) -> Array:
            flat = steps.reshape(-1, *steps.shape[2:])
            return flat if rollout.valid is None else flat[rollout.valid.reshape(-1)]

        columns = advantages, advantages + values, values
        steps = ScoredSteps(
            tree_map(lambda o: rows(o[:-1]), rollout.observations),
            *map(rows, (rollout.actions, rollout.extras["log_prob"], *columns)),
        )
        self.load(steps)
        return steps

    def load(self, steps: ScoredSteps) -> None:
        """Takes the N steps of an iteration, from which `minibatches` draws."""
        columns = steps.log_probs, steps.advantages, steps.value_targets, steps.values
        self._steps = PPOArrays(
            self._features(steps.observations), steps.actions, np.stack(columns)
        )

    def minibatches(self, order: Array, size: int, ranks: Ranks) -> Iterator[PPOArrays]:
        """A rank's rows of each minibatch of the loaded steps in this order [N].

        Advantages are normalised over the whole minibatch, where the config wants them so.
        """
        steps = self._steps.take(order)
        for start in range(0, len(order), size):
            whole = steps.part(slice(start, start + size))
            if self._config.normalize_advantages:
                self._normalize(whole.columns[1])
            rows = len(whole.features)
            own = ranks.part(rows)
            yield whole if ranks.size == 1 else whole.part(own)

    def gradient(
        self, batch: PPOArrays, clip_range: float, kl_coef: float = 0.0
    ) -> dict[str, float]:
        """Writes the gradient of the loss on M samples, advantages as the loss takes them.

        Returns:
            The loss and its terms under their public names.
        """
        propagate = self._propagate if self._compiled is None else self._propagate_compiled
        terms = propagate(batch, clip_range, kl_coef)
        config, size = self._config, len(batch.features)
        policy_loss, value_loss = -terms.objective / size, terms.value_error / size
        entropy, divergence = terms.entropy / size, terms.kl / size
        loss = policy_loss + config.value_coef * value_loss - config.entropy_coef * entropy
        return {
            "loss": loss + kl_coef * divergence,
            "policy_gradient_loss": policy_loss,
            "value_loss": value_loss,
            "entropy_loss": -entropy,
            "approx_kl": divergence,
            "clip_fraction": terms.clipped / size,
        }

    def _propagate(self, batch: PPOArrays, clip_range: float, kl_coef: float) -> PPOSums:
        """Writes the gradient; returns sums of terms."""
        hidden = self._torso.forward(batch.features)
        outputs, values = self._policy.forward(hidden), self._value.forward(hidden)
        at_outputs, at_values, terms = self._slopes(batch, outputs, values, clip_range, kl_coef)
        back = self._policy.backward(at_outputs, to_inputs=self._shares)
        other = self._value.backward(at_values, to_inputs=self._shares)
        if self._shares:
            back += other
            self._torso.backward(back)
        return terms

    def _propagate_compiled(self, batch: PPOArrays, clip_range: float, kl_coef: float) -> PPOSums:
        """`_propagate` in one call."""
        assert self._compiled is not None
        config = self._config
        weights = PPOWeights(
            clip_range,
            config.value_clip_range,
            config.dual_clip,
            config.value_coef,
            config.entropy_coef,
            kl_coef,
        )
        return self._compiled.gradient(weights, batch.features, batch.actions, batch.columns)

    def _slopes(
        self, batch: PPOArrays, outputs: Array, values: Array, clip_range: float, kl_coef: float
    ) -> tuple[Array, Array, PPOSums]:
        """Gradients at the policy's outputs [M, k] and at values [M, 1], and sums of terms."""
        config, size = self._config, len(outputs)
        old_log_probs, advantages, targets, old_values = batch.columns
        log_probs, entropies = self._distribution.forward(outputs, batch.actions)
        log_ratio = log_probs - old_log_probs
        ratio = np.exp(log_ratio)
        objective = ratio * advantages
        clipped = np.minimum(np.maximum(ratio, ONE - clip_range), ONE + clip_range)
        outside = clipped != ratio
        clipped *= advantages
        # The slope at log-probabilities is that of ratio * advantage, or 0 where a bound counts.
        slopes = np.where(objective <= clipped, objective, np.float32(0))
        np.minimum(objective, clipped, out=objective)
        if config.dual_clip is not None:
            bound = np.float32(config.dual_clip) * advantages
            bounded = (advantages < 0) & (objective < bound)
            objective[bounded] = bound[bounded]
            slopes[bounded] = 0
        slopes *= np.float32(-1 / size)
        kl = ratio - ONE
        if kl_coef:
            slopes += kl * np.float32(kl_coef / size)
        kl -= log_ratio
        errors, value_slopes = self._value_errors(values[:, 0], old_values, targets)
        value_slopes *= np.float32(2 * config.value_coef / size)
        # Fortran order, and a column, as the layers take them.
        gradient = self._distribution.backward(slopes, -config.entropy_coef / size)
        sums = PPOSums(*map(_sum, (objective, errors, entropies, kl)), np.count_nonzero(outside))
        return gradient, value_slopes[:, None], sums

    def _value_errors(self, values: Array, old: Array, targets: Array) -> tuple[Array, Array]:
        """Squared errors [M] and half their slopes at the values [M]."""
        slopes = values - targets
        errors = slopes * slopes
        clip_range = self._config.value_clip_range
        if clip_range is not None:
            moved = values - old
            kept = old + moved.clip(-np.float32(clip_range), np.float32(clip_range))
            kept -= targets
            kept *= kept
            slopes[(np.abs(moved) > clip_range) & (kept > errors)] = 0
            np.maximum(errors, kept, out=errors)
        return errors, slopes


def normalize_array(advantages: Array) -> None:
    """`normalized` of `rl.algorithms.ppo` for an array [M], in place."""
    size = len(advantages)
    if size < 2:
        return
    advantages -= np.float32(np.add.reduce(advantages) / size)
    advantages *= np.float32(1 / (math.sqrt(advantages.dot(advantages) / (size - 1)) + 1e-8))


def _sum(values: Array) -> float:
    return float(np.add.reduce(values))


def _compiled_loss(
    network: PlainNetwork,
    passes: tuple[MLP | None, MLP, MLP],
    parameters: Mapping[str, Array],
    gradients: Mapping[str, Array],
) -> CompiledPPOLoss | None:
    """The gradient in one call, for one category or normals; several parts at once have none."""
    torso, policy, value = passes
    heads = network.action_layout.heads
    if not (isinstance(policy, CompiledMLP) and isinstance(value, CompiledMLP)):
        return None
    if len(heads) > 1 or heads[0].kind not in ("categorical", "gaussian"):
        return None
    normal = heads[0].kind == "gaussian"
    log_std = (parameters["log_std"], gradients["log_std"]) if normal else None
    assert torso is None or isinstance(torso, CompiledMLP)
    return CompiledPPOLoss(PPONetworks(torso, policy, value, log_std))
