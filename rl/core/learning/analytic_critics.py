"""Both critics of SAC with their gradients by hand.

Shapes: M transitions of a batch, F features, d numbers of an action; 2 is the critics.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rl.core.data.tree import Array
from rl.core.kernels.mlp import CompiledMLP
from rl.core.learning.analytic_mlp import ACTIVATIONS

__all__ = ["AnalyticTwinCritics", "compiled_critics"]


class AnalyticTwinCritics:
    """`TwinCritics` and its gradient: every layer one product over both critics."""

    def __init__(
        self,
        parameters: Mapping[str, Array],
        gradients: Mapping[str, Array] | None,
        activation: str,
    ) -> None:
        """Takes views: weights [2, inputs, outputs], biases [2, 1, outputs]."""
        names = range(sum(name.startswith("weights.") for name in parameters))
        self._layers = [(parameters[f"weights.{n}"], parameters[f"biases.{n}"]) for n in names]
        self._gradients = (
            None
            if gradients is None
            else [(gradients[f"weights.{n}"], gradients[f"biases.{n}"]) for n in names]
        )
        self._activation = ACTIVATIONS[activation]
        self._size = -1

    def _allocate(self, size: int) -> None:
        self._size = size
        shapes = [(2, size, weight.shape[2]) for weight, _ in self._layers]
        self._outputs = [np.empty(shape, np.float32) for shape in shapes]
        self._kept = [np.empty(shape, np.float32) for shape in shapes[:-1]]
        inputs = [(2, size, weight.shape[1]) for weight, _ in self._layers]
        self._back = [np.empty(shape, np.float32) for shape in inputs]

    def forward(self, inputs: Array) -> Array:
        """Values [2, M] of inputs [M, F + d]; valid until the next call."""
        if inputs.shape[0] != self._size:
            self._allocate(inputs.shape[0])
        self._inputs = hidden = inputs
        for index, (weight, bias) in enumerate(self._layers):
            output = self._outputs[index]
            np.matmul(hidden, weight, out=output)
            output += bias
            if index < len(self._kept):
                self._activation.forward(output, self._kept[index])
            hidden = output
        return hidden[..., 0]

    def backward(self, gradient: Array, parameters: bool) -> Array:
        """From the gradient at the values [2, M], writes that of all parameters, or leaves them.

        Returns:
            Without `parameters`, the gradient at the inputs [2, M, F + d]; else nothing of use.
        """
        gradient = gradient[..., None]
        for index in range(len(self._layers) - 1, -1, -1):
            if index < len(self._kept):
                self._activation.backward(gradient, self._outputs[index], self._kept[index])
            if parameters:
                assert self._gradients is not None
                weight, bias = self._gradients[index]
                hidden = self._outputs[index - 1].swapaxes(1, 2) if index else self._inputs.T
                np.matmul(hidden, gradient, out=weight)
                np.add.reduce(gradient, 1, out=bias, keepdims=True)
            if index or not parameters:
                weight = self._layers[index][0]
                gradient = np.matmul(gradient, weight.swapaxes(1, 2), out=self._back[index])
        return gradient


def compiled_critics(
    parameters: Mapping[str, Array], gradients: Mapping[str, Array] | None, activation: str
) -> list[CompiledMLP]:
    """Both critics on compiled passes; arguments as of `AnalyticTwinCritics`."""
    return [
        CompiledMLP(
            _layers_of(parameters, critic),
            None if gradients is None else _layers_of(gradients, critic),
            activation,
            head=True,
        )
        for critic in range(2)
    ]


def _layers_of(views: Mapping[str, Array], critic: int) -> list[tuple[Array, Array]]:
    """Weight [outputs, inputs], transposed views, and bias of each layer of a critic."""
    count = sum(name.startswith("weights.") for name in views)
    return [
        (views[f"weights.{n}"][critic].T, views[f"biases.{n}"][critic, 0]) for n in range(count)
    ]
