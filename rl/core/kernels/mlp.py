"""Plain MLPs on the compiled passes: with gradients for a learner, without for acting.

Shapes: N rows; weights [outputs, inputs] as torch keeps them, or a transposed view of them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rl.core.kernels.by_size import BySize
from rl.core.kernels.library import Layer, Pass, address, kernels

__all__ = ["COMPILED_ACTIVATIONS", "CompiledLayers", "CompiledMLP", "Room"]

Array = npt.NDArray[Any]
COMPILED_ACTIVATIONS = {"tanh": 1, "relu": 2, "elu": 3, "silu": 4}
"""What has a form in `passes.c`, by its number there; 0 is none."""
PANEL = 16
ALIGNMENT = 64


class CompiledMLP:
    """Linear layers with an activation behind each, or behind all but the last; and back.

    What a pass leaves for the next stands in arrays of its own. Without any layer it is the
    identity.
    """

    def __init__(
        self,
        layers: Sequence[tuple[Array, Array]],
        gradients: Sequence[tuple[Array, Array]] | None,
        activation: str,
        head: bool,
    ) -> None:
        """Takes views; copies nothing.

        Args:
            layers: Weight [outputs, inputs] and bias [outputs] of each, first to last.
            gradients: Where `backward` writes, like `layers`; None: it is never called.
            activation: A name in `COMPILED_ACTIVATIONS`.
            head: The last layer has no activation.
        """
        self._layers = layers
        self._gradients = gradients
        self._depth = len(layers)
        self.num_inputs = layers[0][0].shape[1] if layers else 0
        self.num_outputs = len(layers[-1][1]) if layers else 0
        kind = COMPILED_ACTIVATIONS[activation]
        self._activations = [kind] * self._depth
        if head:
            self._activations[-1] = 0
        self._packed = [_packed_array(weight) for weight, _ in layers]
        self.room = BySize(self._room)
        """The arrays of a number of rows, for who calls other functions of C on them."""
        self._last: Room | None = None
        library = kernels()
        assert library is not None, "choose an engine by `kernels_obstacle`"
        self._forward, self._backward = library.forward, library.backward

    def forward(self, inputs: Array) -> Array:
        """Outputs [N, outputs] of inputs [N, inputs] float32, valid until the next `forward`.

        The inputs must stay as they are until `backward`.
        """
        if not self._depth:
            return inputs
        rows = self._last = self.room(inputs.shape[0])
        inputs = _with_rows(inputs, self.num_inputs)
        rows.inputs = inputs
        rows.at = address(inputs), inputs.strides[0] // 4
        self._forward(rows.described, *rows.at)
        return rows.outputs

    def backward(self, gradient: Array, to_inputs: bool = False, parameters: bool = True) -> Array:
        """Writes the gradient of every parameter, from that of the last forward's outputs.

        Args:
            gradient: [N, outputs] float32.
            to_inputs: Whether the gradient at the inputs is wanted.
            parameters: Whether those of the parameters are; else nothing is written.

        Returns:
            The gradient at the inputs [N, inputs], valid until the next call; without `to_inputs`
            nothing of use.
        """
        if not self._depth:
            return gradient
        rows = self._last
        assert rows is not None, "backward before forward"
        row, step = gradient.strides
        self._backward(
            rows.described,
            *rows.at,
            *(address(gradient), row // 4, step // 4, to_inputs, parameters),
        )
        return rows.at_inputs

    def _room(self, size: int) -> Room:
        widths = [bias.shape[0] for _, bias in self._layers]
        inputs = [weight.shape[1] for weight, _ in self._layers]
        silu = COMPILED_ACTIVATIONS["silu"]
        # Hidden values in whole panels; those of a head stand close, as who takes them expects.
        strides = [
            _padded(width) if activation else width
            for width, activation in zip(widths, self._activations, strict=True)
        ]
        outputs = [_array(size, stride) for stride in strides]
        kept = [
            _array(size, stride) if activation == silu else None
            for stride, activation in zip(strides, self._activations, strict=True)
        ]
        backs = [_array(size, _padded(width)) for width in inputs]
        packed = [
            (_array(width, _padded(taken)), _array(size, _padded(max(width, taken))))
            for width, taken in zip(widths, inputs, strict=True)
        ]
        table = (Layer * self._depth)()
        for index, (weight, bias) in enumerate(self._layers):
            layer = table[index]
            layer.weight, layer.bias = address(weight), address(bias)
            if self._gradients is not None:
                layer.weight_gradient, layer.bias_gradient = map(address, self._gradients[index])
            layer.packed, layer.output = address(self._packed[index]), address(outputs[index])
            own = kept[index]
            layer.kept = None if own is None else address(own)
            layer.gradient = address(backs[index])
            layer.packed_back, layer.packed_side = map(address, packed[index])
            layer.outputs, layer.inputs = weight.shape
            layer.out_step, layer.in_step = (step // 4 for step in weight.strides)
            layer.output_stride, layer.activation = strides[index], self._activations[index]
        top = _array(size, _padded(widths[-1]))
        described = Pass(ctypes.addressof(table), address(top), self._depth, size)
        return Room(
            described,
            outputs[-1][:, : widths[-1]],
            backs[0][:, : inputs[0]],
            (table, outputs, kept, backs, packed, top),
        )


class Room:
    """The arrays of one number of rows, and the `pass` of `passes.c` that tells where they lie."""

    def __init__(self, described: Pass, outputs: Array, at_inputs: Array, owned: object) -> None:
        self.structure = described
        self.described = ctypes.addressof(described)  # alive as long as this is
        self.outputs = outputs  # of the last layer
        self.at_inputs = at_inputs  # the gradient there
        self.owned = owned  # what the structure points to
        self.inputs: Array | None = None
        self.at = 0, 0  # address and stride of the inputs


class CompiledLayers:
    """Linear layers with an activation behind each but the heads; forward alone.

    Calls may come from several threads; each gets an array of its own.
    """

    def __init__(self, layers: Sequence[tuple[Array, Array]], activations: Sequence[str]) -> None:
        """Takes views, which must not change.

        Args:
            layers: Weight [outputs, inputs], rows close to each other, and bias [outputs] of each.
            activations: Of each layer, a name in `COMPILED_ACTIVATIONS` or nothing.
        """
        library = kernels()
        assert library is not None, "look at `kernels` first"
        self._act, self._pack = library.act, library.pack_layers
        self._layers = layers
        self._packed: list[Array] = []  # from the first call with several rows on
        self._table = (Layer * len(layers))()
        self._inputs, self._outputs = layers[0][0].shape[1], layers[-1][1].shape[0]
        for layer, (weight, bias), name in zip(self._table, layers, activations, strict=True):
            layer.weight, layer.bias = address(weight), address(bias)
            layer.outputs, layer.inputs = weight.shape
            layer.out_step, layer.in_step = weight.shape[1], 1
            layer.activation = COMPILED_ACTIVATIONS.get(name, 0)
        self._at, self._depth = ctypes.addressof(self._table), len(layers)
        self._is_packed = False

    def changed(self) -> None:
        """The weights have other values from now on."""
        self._is_packed = False

    def __call__(self, inputs: Array) -> Array:
        """[N, inputs] -> [N, outputs] float32; raises `ValueError` for another shape."""
        size = inputs.shape[0]
        several = size != 1
        # A row alone is done with before the weights would be packed.
        if several and not self._is_packed:
            self._pack_all()
        inputs = _with_rows(inputs, self._inputs)
        outputs = np.empty((size, self._outputs), np.float32)
        if self._act(
            self._at,
            self._depth,
            size,
            address(inputs),
            inputs.strides[0] // 4,
            address(outputs),
            several,
        ):
            raise MemoryError(f"no room to act on {size} observations")
        return outputs

    def _pack_all(self) -> None:
        if not self._packed:
            self._packed = [_packed_array(weight) for weight, _ in self._layers]
            for layer, packed in zip(self._table, self._packed, strict=True):
                layer.packed = address(packed)
        self._pack(self._at, self._depth)
        self._is_packed = True


def _padded(columns: int) -> int:
    return -(-columns // PANEL) * PANEL


def _packed_array(weight: Array) -> Array:
    """Room for a layer's biases and weights in panels."""
    outputs, inputs = weight.shape
    return _array(1 + inputs, _padded(outputs))


def _array(rows: int, columns: int) -> Array:
    """Empty [rows, columns] float32, where a line of the cache begins."""
    raw = np.empty(rows * columns + ALIGNMENT // 4, np.float32)
    shift = -(raw.__array_interface__["data"][0] // 4) % (ALIGNMENT // 4)
    return raw[shift : shift + rows * columns].reshape(rows, columns)


def _with_rows(array: Array, columns: int) -> Array:
    """The array [N, columns], or a copy, as the passes take it; they look no further.

    Raises:
        ValueError: It has another shape.
    """
    if array.ndim != 2 or array.shape[1] != columns:
        raise ValueError(f"inputs of shape {array.shape} instead of [N, {columns}]")
    plain = array.dtype == np.float32 and array.strides[1] == 4
    return array if plain else np.ascontiguousarray(array, np.float32)
