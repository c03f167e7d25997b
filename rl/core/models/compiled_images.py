"""Convolutions of images on the compiled kernels, for torch: features, and gradients by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rl.core.kernels.convolutions import ConvolutionChain, Images
from rl.core.kernels.library import kernels

__all__ = ["CompiledConvolutions"]


class CompiledConvolutions:
    """What a sequence of `nn.Conv2d`, each with `nn.ReLU` behind it, and `nn.Flatten` computes.

    Only on the CPU and in float32, to 1e-5: sums run in another order than torch's.
    """

    def __init__(self, chain: ConvolutionChain, convolutions: Sequence[nn.Conv2d]) -> None:
        """Use `of`."""
        self._chain, self._convolutions = chain, convolutions

    @classmethod
    def of(cls, layers: nn.Sequential, height: int, width: int) -> CompiledConvolutions | None:
        """The compiled form of layers that take images of this size; None where they have none."""
        parts = list(layers)
        convolutions = [part for part in parts if type(part) is nn.Conv2d]
        expected = [kind for _ in convolutions for kind in (nn.Conv2d, nn.ReLU)]
        if [type(part) for part in parts] != [*expected, nn.Flatten]:
            return None
        shapes = [_shape_of(part) for part in convolutions]
        plain = [shape for shape in shapes if shape is not None]
        if len(plain) < len(shapes) or ConvolutionChain.obstacle(plain):
            return None
        return cls(ConvolutionChain(plain, height, width), convolutions)

    def takes(self, images: Tensor) -> bool:
        """Whether it computes what the layers make of these images [N, C, H, W], here and now."""
        return (
            images.device.type == "cpu"
            and images.dtype in (torch.uint8, torch.float32)
            and not images.requires_grad
            and kernels() is not None
            and all(
                part.weight.device.type == "cpu" and part.weight.dtype == torch.float32
                for part in self._convolutions
            )
        )

    def __call__(self, images: Tensor) -> Tensor:
        """Features [N, num_outputs] of images [N, C, H, W]; bytes are scaled to [0, 1]."""
        parameters = [p for part in self._convolutions for p in (part.weight, part.bias)]
        if torch.is_grad_enabled() and any(p is not None and p.requires_grad for p in parameters):
            features: Tensor = _Convolve.apply(self._chain, images, *parameters)  # type: ignore[no-untyped-call]
            return features
        features = torch.empty(images.shape[0], self._chain.num_outputs)
        self._chain.forward(_images(images), _pairs(parameters), features.data_ptr(), None)
        return features


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, chain: ConvolutionChain, images: Tensor, *parameters: Tensor) -> Tensor:
        features = torch.empty(images.shape[0], chain.num_outputs)
        ctx.values = chain.values(images.shape[0])
        chain.forward(_images(images), _pairs(parameters), features.data_ptr(), ctx.values)
        ctx.chain = chain
        ctx.save_for_backward(images, *parameters)
        return features

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, *parameters = ctx.saved_tensors
        values, ctx.values = ctx.values, None
        if values is None:
            raise RuntimeError("compiled convolutions go back once; call them again")
        gradients = [torch.empty_like(parameter) for parameter in parameters]
        gradient = gradient.contiguous()
        ctx.chain.backward(
            *(_images(images), _pairs(parameters), _pairs(gradients)),
            *(gradient.data_ptr(), values),
        )
        ctx.chain.give_back(values)
        return None, None, *gradients


def _shape_of(part: nn.Conv2d) -> tuple[int, int, int, int] | None:
    """Channels, outputs, size and stride of a convolution that has a compiled form."""
    (size, wide), (stride, across) = part.kernel_size, part.stride
    plain = part.padding == (0, 0) and part.dilation == (1, 1) and part.groups == 1
    if not plain or size != wide or stride != across or part.bias is None:
        return None
    return part.in_channels, part.out_channels, size, stride


def _images(tensor: Tensor) -> Images:
    steps = tensor.stride()
    return Images(
        tensor.data_ptr(),
        tensor.shape[0],
        (steps[0], steps[1], steps[2], steps[3]),
        tensor.dtype == torch.uint8,
    )


def _pairs(tensors: Sequence[Any]) -> list[tuple[int, int]]:
    """Addresses of weight and bias of each layer; they are views of one vector, contiguous."""
    at = [tensor.data_ptr() for tensor in tensors]
    return list(zip(at[::2], at[1::2], strict=True))
