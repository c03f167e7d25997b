"""GRU and LSTM in numpy, one step at a time: what a runner needs of a network with memory.

They compute what `rl.core.models.memory` does, to 1e-5; tests compare the two.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rl.core.data.tree import Array, Tree, first_leaf
from rl.core.data.weights import ParameterTable, Weights
from rl.core.models.numpy_mlp import NumpyActor, NumpyQActor
from rl.core.models.spec import NetworkSpec, QNetworkSpec

__all__ = ["NumpyMemory", "NumpyRecurrentActor", "NumpyRecurrentQActor"]


def _sigmoid(x: Array) -> Array:
    y: Array = np.tanh(x * np.float32(0.5))  # exp would overflow
    y += 1
    y *= np.float32(0.5)
    return y


class NumpyMemory:
    """A GRU or LSTM of H units; a state is a row of outputs h, with the cells c of an LSTM."""

    def __init__(self, spec: NetworkSpec | QNetworkSpec, name: str) -> None:
        self._name, self._size = name, spec.memory_size
        self._step = self._gru if spec.memory == "gru" else self._lstm

    def set_weights(self, views: Mapping[str, Array]) -> None:
        """Keeps views, not copies: whoever publishes weights does not change them."""
        self._inputs, self._hidden = (
            (views[f"{self._name}.cell.weight_{part}"].T, views[f"{self._name}.cell.bias_{part}"])
            for part in ("ih_l0", "hh_l0")
        )

    def changed(self) -> None:
        """What the views show has other values from now on, and is seen."""

    def __call__(self, features: Array, memory: Array) -> tuple[Array, Array]:
        """Outputs [B, H] and the next state [B, S], of features [B, F] and a state [B, S]."""
        gates = np.dot(features, self._inputs[0])
        gates += self._inputs[1]
        back = np.dot(memory[:, : self._size], self._hidden[0])
        back += self._hidden[1]
        return self._step(gates, back, memory)

    def _gru(self, gates: Array, back: Array, hidden: Array) -> tuple[Array, Array]:
        split = 2 * self._size
        both = _sigmoid(gates[:, :split] + back[:, :split])  # reset, update
        reset, update = both[:, : self._size], both[:, self._size :]
        new = np.tanh(gates[:, split:] + reset * back[:, split:])
        after = new + update * (hidden - new)
        return after, after

    def _lstm(self, gates: Array, back: Array, memory: Array) -> tuple[Array, Array]:
        size = self._size
        gates += back  # input, forget, cell, output
        both, out = _sigmoid(gates[:, : 2 * size]), _sigmoid(gates[:, 3 * size :])
        cells = both[:, size:] * memory[:, size:]
        cells += both[:, :size] * np.tanh(gates[:, 2 * size : 3 * size])
        hidden = out * np.tanh(cells)
        return hidden, np.concatenate((hidden, cells), 1)


class NumpyRecurrentActor(NumpyActor):
    """Acts as an `ActorCritic` with memory would."""

    def __init__(self, spec: NetworkSpec, table: ParameterTable) -> None:
        super().__init__(spec, table)
        self.memory_size = spec.state_size
        names = ["policy_memory", *([] if spec.shared_torso else ["value_memory"])]
        self._memories = [NumpyMemory(spec, name) for name in names]

    def set_weights(self, weights: Weights) -> None:
        super().set_weights(weights)
        for memory in self._memories:
            memory.set_weights(self._views)

    def act(self, observations: Tree, noise: Array | None) -> tuple[Array, dict[str, Array]]:
        """As at the first step of an episode."""
        nothing = np.zeros((first_leaf(observations).shape[0], self.memory_size), np.float32)
        return self.act_with_memory(observations, noise, nothing)[:2]

    def act_with_memory(
        self, observations: Tree, noise: Array | None, memory: Array
    ) -> tuple[Array, dict[str, Array], Array]:
        """See `RecurrentActor.act_with_memory`."""
        features = self._parameters.encode(observations)
        states = np.split(memory, len(self._memories), 1)
        # The value's is not acted on, but the learner begins its sequences with it.
        found = [own(features, state) for own, state in zip(self._memories, states, strict=True)]
        after = found[0][1] if len(found) == 1 else np.concatenate([state for _, state in found], 1)
        parameters = self._parameters.decide(found[0][0])
        return (*self.choose(parameters, observations, noise), after)


class NumpyRecurrentQActor(NumpyQActor):
    """Acts as a `QNetwork` with memory would."""

    def __init__(self, spec: QNetworkSpec, table: ParameterTable) -> None:
        super().__init__(spec, table)
        self.memory_size = spec.state_size
        self._memory = NumpyMemory(spec, "memory")
        self._parts.append(self._memory)

    def act(self, observations: Tree, noise: Array | None) -> tuple[Array, dict[str, Array]]:
        """As at the first step of an episode."""
        nothing = np.zeros((first_leaf(observations).shape[0], self.memory_size), np.float32)
        return self.act_with_memory(observations, noise, nothing)[:2]

    def act_with_memory(
        self, observations: Tree, noise: Array | None, memory: Array
    ) -> tuple[Array, dict[str, Array], Array]:
        """See `RecurrentActor.act_with_memory`."""
        outputs, after = self._memory(self._encoder(observations), memory)
        return self.choose(outputs, observations, noise), {}, after
