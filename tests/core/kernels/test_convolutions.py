"""Compiled convolutions compute what torch's do, and their gradients."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rl.core.data.spaces import ObservationLayout
from rl.core.kernels.library import kernels
from rl.core.kernels.threads import kernel_threads
from rl.core.models import compiled_images
from rl.core.models.compiled_images import CompiledConvolutions
from rl.core.models.images import ImageEncoder, ImpalaCNN, NatureCNN

pytestmark = pytest.mark.skipif(kernels() is None, reason="nothing was compiled here")

Shape = tuple[int, ...]
SHAPES: list[tuple[Shape, Any]] = [
    ((4, 84, 84), np.uint8),  # Atari: planes of bytes
    ((84, 84, 4), np.uint8),
    ((4, 37, 42), np.uint8),  # the last pixels belong to no patch
    ((3, 40, 52), np.uint8),
    ((40, 36, 3), np.float32),
    ((36, 41), np.uint8),
    ((12, 36, 36), np.float32),
]


def _encoder(shape: Shape, dtype: Any = np.uint8, kind: type[ImageEncoder] = NatureCNN) -> Any:
    (leaf,) = ObservationLayout(spaces.Box(0, 255, shape, dtype)).leaves
    torch.manual_seed(int(np.prod(shape)))
    encoder = kind(leaf)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1)
    return encoder


def _pixels(number: int, shape: Shape, dtype: Any = np.uint8) -> Tensor:
    generator = np.random.default_rng()
    if dtype == np.uint8:
        return torch.from_numpy(generator.integers(0, 256, (number, *shape), np.uint8))
    return torch.from_numpy(generator.standard_normal((number, *shape), np.float32))


def _by_torch(encoder: Any) -> Any:
    other = copy.deepcopy(encoder)
    other._compiled = None
    return other


def _gradients(encoder: Any, pixels: Tensor, upstream: Tensor) -> tuple[Tensor, list[Tensor]]:
    features = encoder(pixels)
    gradients = torch.autograd.grad(features, list(encoder.parameters()), upstream)
    return features.detach(), list(gradients)


@torch.no_grad()
def _clear(encoder: Any, pixels: Tensor) -> Tensor:
    """Images [N] no value of which is so close to 0 that rounding decides what a ReLU does."""
    near = torch.zeros(len(pixels), dtype=torch.bool)

    def look(_: Any, __: Any, values: Tensor) -> None:
        nonlocal near
        near |= (values.abs() < 3e-6 * values.abs().max()).flatten(1).any(1)

    reference = _by_torch(encoder)
    for part in reference.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            part.register_forward_hook(look)
    reference(pixels)
    return ~near


def _assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("number", [1, 9, 32])
@pytest.mark.parametrize(("shape", "dtype"), SHAPES)
def test_features_and_gradients_are_those_of_torch(shape: Shape, dtype: Any, number: int) -> None:
    encoder = _encoder(shape, dtype)
    assert encoder._compiled is not None
    pixels = _pixels(number, shape, dtype)
    clear = _clear(encoder, pixels)
    assert number == 1 or clear.any()
    upstream = torch.randn(number, 512) * clear[:, None]
    features, gradients = _gradients(encoder, pixels, upstream)
    expected, by_torch = _gradients(_by_torch(encoder), pixels, upstream)
    _assert_close(features, expected)
    for found, wanted in zip(gradients, by_torch, strict=True):
        _assert_close(found, wanted)
    with torch.no_grad():
        assert torch.equal(encoder(pixels), features), "with gradients and without"


def test_no_image_gives_no_features() -> None:
    encoder = _encoder((4, 84, 84))
    features, gradients = _gradients(encoder, _pixels(0, (4, 84, 84)), torch.zeros(0, 512))
    assert features.shape == (0, 512)
    assert all(not gradient.any() for gradient in gradients)


def test_parts_of_larger_tensors_are_seen_where_they_lie() -> None:
    encoder = _encoder((4, 84, 84))
    pixels = _pixels(6, (2, 5, 90, 100))[::2, 1, 1:, 3:87, 9:93]
    with torch.no_grad():
        _assert_close(encoder(pixels), _by_torch(encoder)(pixels))


def test_bits_depend_neither_on_threads_nor_on_the_images_beside() -> None:
    encoder, pixels = _encoder((4, 84, 84)), _pixels(21, (4, 84, 84))
    upstream = torch.randn(21, 512)
    alone = _gradients(encoder, pixels, upstream)
    for count in (2, 3):
        with kernel_threads(count):
            features, gradients = _gradients(encoder, pixels, upstream)
        assert torch.equal(features, alone[0])
        assert all(torch.equal(*pair) for pair in zip(gradients, alone[1], strict=True))
    convolved = encoder._compiled(pixels)
    for begin, end in ((0, 1), (3, 8), (20, 21)):
        assert torch.equal(encoder._compiled(pixels[begin:end]), convolved[begin:end])


def test_several_passes_may_wait_for_their_way_back() -> None:
    encoder = _encoder((4, 84, 84))
    reference = _by_torch(encoder)
    pixels = [_pixels(5, (4, 84, 84)) for _ in range(3)]
    clear = [_clear(encoder, images)[:, None] for images in pixels]
    for network in (encoder, reference):
        for _ in range(2):  # the second time in arrays that are there
            network.zero_grad()
            first, second = network(pixels[0]), network(pixels[1])
            network(pixels[2])  # never goes back
            ((second * clear[1]).square().sum() + (first * clear[0]).sum()).backward()
    for mine, theirs in zip(encoder.parameters(), reference.parameters(), strict=True):
        _assert_close(mine.grad, theirs.grad)


def test_arrays_of_a_pass_are_used_again() -> None:
    encoder, pixels = _encoder((4, 84, 84)), _pixels(5, (4, 84, 84))
    chain = encoder._compiled._chain
    encoder(pixels).sum().backward()
    (kept,) = chain._kept
    encoder(pixels).sum().backward()
    assert chain._kept == [kept]
    encoder(_pixels(6, (4, 84, 84))).sum().backward()
    assert [values.rows for values in chain._kept] == [6]


def test_a_pass_goes_back_once() -> None:
    features = _encoder((4, 84, 84))(_pixels(2, (4, 84, 84))).sum()
    features.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="go back once"):
        features.backward()


def test_pixels_that_change_in_between_are_noticed() -> None:
    encoder, pixels = _encoder((4, 84, 84)), _pixels(2, (4, 84, 84))
    features = encoder(pixels)
    pixels.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        features.sum().backward()


def test_frozen_parameters_get_no_gradient() -> None:
    encoder, pixels = _encoder((4, 84, 84)), _pixels(3, (4, 84, 84))
    frozen = encoder.convolutions[2].weight.requires_grad_(False)
    encoder(pixels).sum().backward()
    assert frozen.grad is None
    assert encoder.convolutions[0].weight.grad.any()


def test_a_gradient_at_the_pixels_is_torchs() -> None:
    encoder, pixels = _encoder((3, 40, 40), np.float32), _pixels(2, (3, 40, 40), np.float32)
    pixels.requires_grad_()
    encoder(pixels).sum().backward()
    assert pixels.grad is not None
    assert pixels.grad.any()


def test_nan_is_not_lost() -> None:
    encoder, pixels = _encoder((3, 40, 40), np.float32), _pixels(2, (3, 40, 40), np.float32)
    pixels[1, 0, 5, 5] = torch.nan
    with torch.no_grad():
        found = encoder._compiled(pixels).isnan().any(1)
    assert found.tolist() == [False, True]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_a_copy_has_weights_of_its_own(copied: Any) -> None:
    encoder, pixels = _encoder((4, 84, 84)), _pixels(2, (4, 84, 84))
    encoder(pixels).sum().backward()
    with torch.no_grad():
        before = encoder(pixels)
        other = copied(encoder)
        assert other._compiled is not None
        assert torch.equal(other(pixels), before)
        for parameter in other.parameters():
            parameter.mul_(0.5)
        assert torch.equal(encoder(pixels), before)
        _assert_close(other(pixels), _by_torch(other)(pixels))


def test_without_kernels_torch_convolves(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, pixels = _encoder((4, 84, 84)), _pixels(2, (4, 84, 84))
    with torch.no_grad():
        compiled = encoder(pixels)
        monkeypatch.setattr(compiled_images, "kernels", lambda: None)
        assert torch.equal(encoder(pixels), _by_torch(encoder)(pixels))
    _assert_close(compiled, encoder(pixels).detach())


def test_double_precision_is_torchs() -> None:
    encoder = _encoder((3, 40, 40), np.float32).double()
    assert not encoder._compiled.takes(_pixels(2, (3, 40, 40), np.float32))


def test_what_has_no_compiled_form_is_left_to_torch() -> None:
    def compiled(*layers: nn.Module) -> bool:
        return CompiledConvolutions.of(nn.Sequential(*layers), 40, 40) is not None

    rest = nn.ReLU(), nn.Flatten()
    assert compiled(nn.Conv2d(3, 16, 4, 2), *rest)
    assert compiled(nn.Conv2d(3, 16, 4, 2), nn.ReLU(), nn.Conv2d(16, 32, 3), *rest)
    assert _encoder((4, 84, 84), kind=ImpalaCNN)._compiled is None
    for convolution in (
        nn.Conv2d(3, 24, 4),
        nn.Conv2d(3, 16, (4, 3)),
        nn.Conv2d(3, 16, 4, (2, 1)),
        nn.Conv2d(3, 16, 4, padding=1),
        nn.Conv2d(3, 16, 4, dilation=2),
        nn.Conv2d(4, 16, 4, groups=2),
        nn.Conv2d(3, 16, 4, bias=False),
    ):
        assert not compiled(convolution, *rest), convolution
    assert not compiled(nn.Conv2d(3, 16, 4), nn.ELU(), nn.Flatten())
    assert not compiled(nn.Conv2d(3, 16, 4), nn.ReLU())
    assert not compiled(nn.Flatten())
