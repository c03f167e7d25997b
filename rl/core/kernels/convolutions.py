"""Convolutions with a ReLU behind each, compiled: images to features, and gradients back.

Shapes: N images; a pixel of an image is `channels` numbers. See `convolutions.c`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rl.core.kernels.library import address, kernels, long_calls

__all__ = ["ConvolutionChain", "Images", "Values"]

Array = npt.NDArray[Any]
PANEL = 16
MOST_KEPT = 2
"""Sets of arrays that wait for the next batch; who learns has one under way at a time."""


class _Layer(ctypes.Structure):
    """`convolution` of `convolutions.c`, which says what each field is."""

    _fields_ = [
        *(
            (name, ctypes.c_void_p)
            for name in (
                *("weight", "bias", "weight_gradient", "bias_gradient"),
                *("packed", "packed_back", "sums", "output", "gradient"),
            )
        ),
        *(
            (name, ctypes.c_int64)
            for name in (
                *("channels", "outputs", "size", "stride"),
                *("in_height", "in_width", "height", "width"),
            )
        ),
    ]


class _Job(ctypes.Structure):
    """`images` of `convolutions.c`."""

    _fields_ = [
        ("layers", ctypes.c_void_p),
        ("depth", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("pixels", ctypes.c_void_p),
        ("steps", ctypes.c_int64 * 4),
        ("bytes", ctypes.c_int64),
        ("features", ctypes.c_void_p),
        ("keep", ctypes.c_int64),
        ("parts", ctypes.c_int64),
        ("failed", ctypes.c_int64),
    ]


class Images(NamedTuple):
    """Where N images lie."""

    at: int
    """Address of the first number."""
    rows: int
    steps: tuple[int, int, int, int]
    """From image to image, channel to channel, row to row, column to column, in numbers."""
    bytes: bool
    """Whether the numbers are bytes, which are scaled to [0, 1]; else float32."""


class Values:
    """What a forward pass leaves for the way back: values of all layers, and room for gradients."""

    def __init__(self, rows: int, sizes: Sequence[int]) -> None:
        self.rows = rows
        self.outputs = [np.empty((rows, size), np.float32) for size in sizes]
        self.gradients = [np.empty((rows, size), np.float32) for size in sizes]


class ConvolutionChain:
    """Convolutions of squares, without padding; weights come with each call.

    Calls may come from several threads.
    """

    def __init__(
        self, layers: Sequence[tuple[int, int, int, int]], height: int, width: int
    ) -> None:
        """Works out the sizes; `obstacle` must have found none.

        Args:
            layers: Channels, outputs, size and stride of each.
            height: Of the images.
            width: Of the images.
        """
        self._made_of = (layers, height, width)
        self._places: list[tuple[int, ...]] = []
        for channels, outputs, size, stride in layers:
            fitting = (height - size) // stride + 1, (width - size) // stride + 1
            self._places.append((channels, outputs, size, stride, height, width, *fitting))
            height, width = fitting
        self._sizes = [place[1] * place[6] * place[7] for place in self._places]
        self.num_outputs = self._sizes[-1]
        """Features of an image: outputs, rows and columns, in this order."""
        self._kept: list[Values] = []

    def __reduce__(self) -> Any:
        return ConvolutionChain, self._made_of

    @staticmethod
    def obstacle(layers: Sequence[tuple[int, int, int, int]]) -> str | None:
        """Why these layers have no compiled form, in words; None: they have."""
        if not layers:
            return "there is no convolution"
        if any(outputs % PANEL for _, outputs, _, _ in layers):
            return f"outputs come in panels of {PANEL}"
        return None

    def values(self, rows: int) -> Values:
        """Arrays for a pass over so many images: those of an earlier one, where it gave them back.

        New ones would cost more than to write to them.
        """
        while self._kept:
            values = self._kept.pop()
            if values.rows == rows:
                return values
        return Values(rows, self._sizes)

    def give_back(self, values: Values) -> None:
        """Nobody needs these any more."""
        if len(self._kept) < MOST_KEPT:
            self._kept.append(values)

    def forward(
        self,
        images: Images,
        parameters: Sequence[tuple[int, int]],
        features: int,
        values: Values | None,
    ) -> None:
        """Writes features [N, num_outputs] float32 to an address.

        Args:
            images: What is looked at.
            parameters: Addresses of the weight [outputs, channels, size, size] and the bias of
                each layer, float32, contiguous.
            features: Where they go.
            values: What is left for `backward`; None: nothing.
        """
        table = self._table(parameters)
        room = [np.empty(self._weights(index), np.float32) for index in range(len(table))]
        for index, layer in enumerate(table):
            layer.packed = address(room[index])
            if values is not None:
                layer.output = address(values.outputs[index])
        job = self._job(table, images, features)
        job.keep = values is not None
        if long_calls().convolve_images(ctypes.addressof(job)):
            raise MemoryError(f"no room to convolve {images.rows} images")

    def backward(
        self,
        images: Images,
        parameters: Sequence[tuple[int, int]],
        gradients: Sequence[tuple[int, int]],
        features: int,
        values: Values,
    ) -> None:
        """Writes the gradients of all parameters.

        Args:
            images: As they were given to `forward`.
            parameters: As there.
            gradients: Where those of each layer go, as `parameters`.
            features: Address of the gradient at the features, [N, num_outputs] float32.
            values: As `forward` left them.
        """
        table = self._table(parameters)
        room = []
        for index, (layer, at) in enumerate(zip(table, gradients, strict=True)):
            layer.weight_gradient, layer.bias_gradient = at
            layer.output = address(values.outputs[index])
            layer.gradient = address(values.gradients[index])
            sums, packed = (np.empty(self._weights(index), np.float32) for _ in range(2))
            layer.sums, layer.packed_back = address(sums), address(packed)
            room += [sums, packed]
        job = self._job(table, images, features)
        if long_calls().convolve_back(ctypes.addressof(job)):
            raise MemoryError(f"no room for the gradients of {images.rows} images")

    def _weights(self, index: int) -> int:
        channels, outputs, size, *_ = self._places[index]
        return channels * outputs * size * size

    def _table(self, parameters: Sequence[tuple[int, int]]) -> Any:
        table = (_Layer * len(self._places))()
        for layer, place, at in zip(table, self._places, parameters, strict=True):
            layer.weight, layer.bias = at
            layer.channels, layer.outputs, layer.size, layer.stride = place[:4]
            layer.in_height, layer.in_width, layer.height, layer.width = place[4:]
        return table

    def _job(self, table: Any, images: Images, features: int) -> _Job:
        assert kernels() is not None, "look at `kernels` first"
        return _Job(
            layers=ctypes.addressof(table),
            depth=len(table),
            rows=images.rows,
            pixels=images.at,
            steps=(ctypes.c_int64 * 4)(*images.steps),
            bytes=images.bytes,
            features=features,
        )
