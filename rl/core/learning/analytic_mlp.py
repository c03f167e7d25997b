"""Plain MLPs with their gradients, in place: what the analytic learning engines run on.

Nothing is recorded and nothing allocated after the first call of a size: a forward pass leaves
the layers' outputs in preallocated arrays, the backward pass reads them and writes into the
learner's flat gradient vector. Parameters are views of the learner's flat vector, so both engines
see each other's steps at once. Shapes: N rows, layers of (outputs, inputs) as torch keeps them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from rl.core.data.tree import Array
from rl.core.kernels.by_size import BySize
from rl.core.kernels.mlp import CompiledMLP

__all__ = ["ACTIVATIONS", "MLP", "AnalyticMLP", "linear_names", "make_mlp"]

ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)


class Activation(Protocol):
    """A function between layers. `kept` [N, outputs] is its own from forward to backward."""

    def forward(self, x: Array, kept: Array) -> None:
        """Turns x into its values, in place."""

    def backward(self, gradient: Array, y: Array, kept: Array) -> None:
        """Multiplies the gradient by the slope at the values y, in place."""


class _Tanh:
    def forward(self, x: Array, kept: Array) -> None:
        np.tanh(x, x)

    def backward(self, gradient: Array, y: Array, kept: Array) -> None:
        np.multiply(y, y, kept)
        np.subtract(ONE, kept, kept)
        np.multiply(gradient, kept, gradient)


class _ReLU:
    def forward(self, x: Array, kept: Array) -> None:
        np.maximum(x, ZERO, out=x)

    def backward(self, gradient: Array, y: Array, kept: Array) -> None:
        np.sign(y, kept)  # 0 or 1, for y is not negative
        np.multiply(gradient, kept, gradient)


class _ELU:
    def forward(self, x: Array, kept: Array) -> None:
        np.minimum(x, ZERO, out=kept)
        np.expm1(kept, kept)
        np.maximum(x, ZERO, out=x)
        np.add(x, kept, x)

    def backward(self, gradient: Array, y: Array, kept: Array) -> None:
        np.minimum(y, ZERO, out=kept)  # exp(x) = y + 1 left of 0
        np.add(kept, ONE, kept)
        np.multiply(gradient, kept, gradient)


class _SiLU:
    """x s(x), s the logistic function; its slope s (1 + x (1 - s)) is made on the way forward."""

    def forward(self, x: Array, kept: Array) -> None:
        sigmoid = np.tanh(x * HALF)  # of half the argument: exp(-x) would overflow
        sigmoid += ONE
        sigmoid *= HALF
        np.subtract(ONE, sigmoid, kept)
        np.multiply(kept, x, kept)
        np.add(kept, ONE, kept)
        np.multiply(kept, sigmoid, kept)
        np.multiply(x, sigmoid, x)

    def backward(self, gradient: Array, y: Array, kept: Array) -> None:
        np.multiply(gradient, kept, gradient)


ACTIVATIONS: Mapping[str, Activation] = {
    "tanh": _Tanh(),
    "relu": _ReLU(),
    "elu": _ELU(),
    "silu": _SiLU(),
}
"""What has a form here. GELU has none: numpy has no error function."""


def linear_names(name: str, count: int) -> list[str]:
    """Names of the `count` linear layers in an `mlp`: activations stand between, hence even."""
    return [f"{name}.{2 * index}" for index in range(count)]


class MLP(Protocol):
    """A network and its gradient, whoever computes them; see `AnalyticMLP`."""

    def forward(self, inputs: Array) -> Array: ...

    def backward(
        self, gradient: Array, to_inputs: bool = False, parameters: bool = True
    ) -> Array: ...


def make_mlp(
    engine: str,
    names: Sequence[str],
    parameters: Mapping[str, Array],
    gradients: Mapping[str, Array] | None,
    activation: str,
    head: bool = False,
) -> MLP:
    """The MLP of a learning engine, `numpy` or `compiled`; arguments as of `AnalyticMLP`."""
    if engine == "numpy":
        return AnalyticMLP(names, parameters, gradients, activation, head)
    layers, slopes = (
        None if views is None else [(views[f"{n}.weight"], views[f"{n}.bias"]) for n in names]
        for views in (parameters, gradients)
    )
    assert layers is not None
    return CompiledMLP(layers, slopes, activation, head)


class _Rows:
    """The arrays of one number of rows."""

    def __init__(self, size: int, widths: Sequence[int], inputs: int) -> None:
        self.outputs = [np.empty((size, width), np.float32) for width in widths]
        self.kept = [np.empty((size, width), np.float32) for width in widths]
        # The gradient at the inputs of each layer.
        self.gradients = [np.empty((size, width), np.float32) for width in (inputs, *widths[:-1])]
        self.ones = np.ones(size, np.float32)
        self.inputs: Array | None = None


class AnalyticMLP:
    """Linear layers with an activation behind each, or behind all but the last.

    Without any layer it is the identity.
    """

    def __init__(
        self,
        names: Sequence[str],
        parameters: Mapping[str, Array],
        gradients: Mapping[str, Array] | None = None,
        activation: str = "tanh",
        head: bool = False,
    ) -> None:
        """Takes views; copies nothing.

        Args:
            names: Of the layers, first to last: `torso.0` stands for its weight and bias.
            parameters: Views by name; a layer's weight is [outputs, inputs].
            gradients: Where `backward` writes, like `parameters`; None: it is never called.
            activation: A name in `ACTIVATIONS`.
            head: The last layer has no activation.
        """
        self._layers = [(parameters[f"{n}.weight"].T, parameters[f"{n}.bias"]) for n in names]
        self._weights = [parameters[f"{n}.weight"] for n in names]
        self._gradients = (
            None
            if gradients is None
            else [(gradients[f"{n}.weight"], gradients[f"{n}.bias"]) for n in names]
        )
        self._activations: list[Activation | None] = [ACTIVATIONS[activation] for _ in names]
        if head:
            self._activations[-1] = None
        self._widths = [weight.shape[0] for weight in self._weights]
        inputs = self._weights[0].shape[1] if names else 0
        self._rows = BySize(lambda size: _Rows(size, self._widths, inputs))
        self._last: _Rows | None = None

    def forward(self, inputs: Array) -> Array:
        """Outputs [N, outputs] of inputs [N, inputs], both valid until the next `forward`.

        The inputs must stay as they are until `backward`.
        """
        if not self._layers:
            return inputs
        rows = self._rows(inputs.shape[0])
        rows.inputs, self._last = inputs, rows
        for (weight, bias), output, kept, activation in zip(
            self._layers, rows.outputs, rows.kept, self._activations, strict=True
        ):
            np.dot(inputs, weight, output)
            np.add(output, bias, output)
            if activation is not None:
                activation.forward(output, kept)
            inputs = output
        return inputs

    def backward(self, gradient: Array, to_inputs: bool = False, parameters: bool = True) -> Array:
        """Writes the gradient of every parameter, from that of the last forward's outputs.

        Args:
            gradient: [N, outputs], C-contiguous; it is overwritten.
            to_inputs: Whether the gradient at the inputs is wanted.
            parameters: Whether those of the parameters are; else nothing is written.

        Returns:
            The gradient at the inputs [N, inputs], valid until the next call; without `to_inputs`
            nothing of use.
        """
        if not self._layers:
            return gradient
        rows = self._last
        assert rows is not None, "backward before forward"
        for index in range(len(self._layers) - 1, -1, -1):
            activation = self._activations[index]
            if activation is not None:
                activation.backward(gradient, rows.outputs[index], rows.kept[index])
            if parameters:
                assert self._gradients is not None
                inputs = rows.outputs[index - 1] if index else rows.inputs
                weight, bias = self._gradients[index]
                np.dot(gradient.T, inputs, weight)  # type: ignore[arg-type]
                np.dot(rows.ones, gradient, bias)
            if index or to_inputs:
                gradient = np.dot(gradient, self._weights[index], rows.gradients[index])
        return gradient
