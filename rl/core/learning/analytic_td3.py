"""The gradients of TD3's losses by hand: the learning engines `numpy` and `compiled`.

`TD3Learner.critic_loss` and `policy_loss` are the definitions; tests hold these to their gradients,
to 1e-5. Shapes: M transitions of a batch, F features, d numbers of an action; 2 is the critics.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from rl.configs.td3 import TD3Config
from rl.core.data.replay import Transitions
from rl.core.data.tree import Array, Tree
from rl.core.data.weights import Weights
from rl.core.learning.analytic_critics import AnalyticTwinCritics, compiled_critics
from rl.core.learning.analytic_mlp import MLP, linear_names, make_mlp
from rl.core.learning.critics import Critics
from rl.core.learning.flat import FlatParameters
from rl.core.models.numpy_encoder import NumpyEncoder
from rl.core.models.plain import PlainNetwork

__all__ = ["AnalyticTD3"]

ONE = np.float32(1)


class AnalyticTD3:
    """Both losses of TD3 and where their gradients are written."""

    def __init__(
        self,
        config: TD3Config,
        policy: PlainNetwork,
        flat: FlatParameters,
        target: Array,
        critics: Critics,
        engine: str,
    ) -> None:
        """Takes views of a learner's vectors; it computes with whatever stands there.

        Args:
            config: Settings of the run.
            policy: Whose vector is that of `flat`.
            flat: Its `gradient_array` is written.
            target: Parameters of the target policy, [P].
            critics: Plain ones; the `gradient_array` of theirs is written.
            engine: Who passes through the networks, `numpy` or `compiled`.
        """
        spec, table = policy.spec, policy.parameter_table()
        activation = spec.activation
        names = [*linear_names("torso", len(spec.hidden_sizes)), "head"]
        own = table.views(flat.array), table.views(flat.gradient_array)
        self._policy = make_mlp(engine, names, *own, activation, head=True)
        own_target = table.views(target), None
        self._target_policy = make_mlp(engine, names, *own_target, activation, head=True)
        twins = AnalyticTwinCritics if engine == "numpy" else _CompiledTwinCritics
        values, slopes, followers = (
            critics.table.views(vector)
            for vector in (critics.flat.array, critics.flat.gradient_array, critics.slow.array)
        )
        self._critics: _Critics = twins(values, slopes, activation)
        self._target: _Critics = twins(followers, None, activation)
        self._first = _first_of(values, engine, activation)
        noise, clip = config.target_noise, config.target_noise_clip
        self._target_noise, self._target_noise_clip = np.float32(noise), np.float32(clip)
        buffers = policy.all_buffers
        self._middle, self._inverse = buffers["bounds.middle"], buffers["bounds.inverse"]
        self._live = Weights(0, flat.array, buffers)
        self._encode = NumpyEncoder(spec)

    def critic_gradient(
        self, batch: Transitions, noise: Array, weights: Array | None
    ) -> tuple[dict[str, float], Array]:
        """Writes the gradient of the critics' loss.

        Args:
            batch: M transitions.
            noise: Of the target's actions, standard normal [M, d].
            weights: Importance of each, [M]; None: all alike.

        Returns:
            Scalars under their public names, and errors [2, M].
        """
        self._encode.set_weights(self._live)
        targets = self._targets(batch, noise)
        taken = (batch.actions - self._middle) * self._inverse
        features = self._encode(batch.observations)
        values = self._critics.forward(np.concatenate((features, taken), 1))
        errors: Array = values - targets
        weighted = errors if weights is None else errors * weights
        size = errors.shape[1]
        loss = float((weighted * errors).sum()) / size
        terms = {"critic_loss": loss, "q_value": float(values.mean())}
        self._critics.backward(weighted * np.float32(2 / size), parameters=True)
        return terms, errors

    def _targets(self, batch: Transitions, noise: Array) -> Array:
        """R + gamma^m min Q'(s', clip(mu'(s') + clip(noise)), [M]; eq. 10 and 14 of the paper."""
        features = self._encode(batch.next_observations)
        clip = self._target_noise_clip
        actions = np.tanh(self._target_policy.forward(features))
        actions += (noise * self._target_noise).clip(-clip, clip)
        following = np.concatenate((features, actions.clip(-ONE, ONE)), 1)
        targets: Array = np.minimum(*self._target.forward(following))
        targets *= batch.discounts
        targets += batch.returns
        return targets

    def policy_gradient(self, observations: Tree) -> float:
        """Writes the gradient of the policy's loss at observations [M, *obs]; returns the loss."""
        self._encode.set_weights(self._live)
        features = self._encode(observations)
        actions = np.tanh(self._policy.forward(features))
        values = self._first.forward(np.concatenate((features, actions), 1))
        loss = -float(values.mean())
        share = np.full(values.shape, -1 / len(values), np.float32)
        at_inputs = self._first.backward(share, to_inputs=True, parameters=False)
        slopes = ONE - actions * actions  # of tanh
        slopes *= at_inputs[:, features.shape[1] :]
        self._policy.backward(slopes)
        return loss


class _Critics(Protocol):
    """See `AnalyticTwinCritics`."""

    def forward(self, inputs: Array) -> Array: ...

    def backward(self, gradient: Array, parameters: bool) -> Array: ...


class _CompiledTwinCritics:
    """`AnalyticTwinCritics` on compiled passes, one critic after the other."""

    def __init__(
        self,
        parameters: Mapping[str, Array],
        gradients: Mapping[str, Array] | None,
        activation: str,
    ) -> None:
        self._both = compiled_critics(parameters, gradients, activation)

    def forward(self, inputs: Array) -> Array:
        return np.stack([critic.forward(inputs)[:, 0] for critic in self._both])

    def backward(self, gradient: Array, parameters: bool) -> Array:
        for critic, own in zip(self._both, gradient, strict=True):
            critic.backward(own[:, np.newaxis], parameters=parameters)
        return gradient


def _first_of(views: Mapping[str, Array], engine: str, activation: str) -> MLP:
    """The first critic alone; its parameters are never given a gradient."""
    count = sum(name.startswith("weights.") for name in views)
    own = {f"{n}.weight": views[f"weights.{n}"][0].T for n in range(count)}
    own |= {f"{n}.bias": views[f"biases.{n}"][0, 0] for n in range(count)}
    return make_mlp(engine, [str(n) for n in range(count)], own, None, activation, head=True)
