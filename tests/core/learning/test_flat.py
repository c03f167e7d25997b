"""Parameters as one vector: views, steps, copies, and going on from a state."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rl.core.learning.flat import FlatParameters, frozen_copy
from rl.errors import Diverged


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


def loss_of(module: nn.Module) -> Tensor:
    loss: Tensor = module(torch.linspace(-1, 1, 15).view(5, 3)).square().sum()
    return loss


def test_networks_trained_apart_do_not_touch_each_other() -> None:
    first, second = network(), network(1)
    mine = FlatParameters(first.parameters(), 0.1)
    other = FlatParameters(second.parameters(), 0.1)
    before = other.vector.clone()
    mine.backward(loss_of(first))
    assert mine.gradient.any()
    mine.step(None)
    assert torch.equal(other.vector, before)
    assert not other.gradient.any()
    assert torch.equal(mine.vector, torch.cat([p.detach().reshape(-1) for p in first.parameters()]))


def test_a_gradient_of_other_hands_is_stepped_along_and_clipped() -> None:
    module = network()
    flat = FlatParameters(module.parameters(), 0.1)
    before = flat.vector.clone()
    flat.gradient.fill_(2.0)
    norm = flat.step(max_norm=1.0)
    assert float(norm) == pytest.approx(2 * flat.vector.numel() ** 0.5)
    assert float(flat.gradient.norm()) == pytest.approx(1.0, rel=1e-4)
    torch.testing.assert_close(flat.vector, before - 0.1, rtol=0, atol=1e-5)  # Adam's first step
    flat.set_learning_rate(0.0)
    kept = flat.vector.clone()
    flat.step(None)
    assert torch.equal(flat.vector, kept)


def test_what_goes_on_from_a_state_goes_on_with_the_same_bits() -> None:
    one, two = network(), network(5)
    flats = [FlatParameters(module.parameters(), 0.1) for module in (one, two)]
    for _ in range(3):
        flats[0].backward(loss_of(one))
        flats[0].step(0.5)
    state = {k: v.copy() for k, v in flats[0].state().items()}
    flats[1].set_state(state)
    two.load_state_dict(one.state_dict())  # the batch norm's statistics
    for module, flat in zip((one, two), flats, strict=True):
        flat.backward(loss_of(module))
        flat.step(0.5)
    assert torch.equal(flats[0].vector, flats[1].vector)
    with pytest.raises(ValueError, match="2 parameters instead of 29"):
        flats[1].set_state({"vector": np.zeros(2, np.float32)})
    with pytest.raises(KeyError):
        flats[1].set_state({})


def test_a_frozen_copy_keeps_its_values_and_shares_statistics() -> None:
    module = network()
    flat = FlatParameters(module.parameters(), 0.1)
    vector = flat.vector.clone()
    target = frozen_copy(module, vector)
    before = vector.clone()
    flat.backward(loss_of(module))  # in training mode, which moves the statistics
    flat.step(None)
    assert torch.equal(vector, before)
    assert torch.equal(vector, torch.cat([p.reshape(-1) for p in target.parameters()]))
    assert not any(p.requires_grad or p.grad is not None for p in target.parameters())
    assert torch.equal(target.get_buffer("1.running_mean"), module.get_buffer("1.running_mean"))
    assert module.get_buffer("1.running_mean").any()
    vector.lerp_(flat.vector, 1.0)
    assert torch.equal(loss_of(target), loss_of(module))


@pytest.mark.parametrize("max_norm", [None, 0.01])
def test_steps_have_the_bits_of_the_optimizer_alone_and_numpy_takes_the_same(
    max_norm: float | None,
) -> None:
    generator = torch.Generator().manual_seed(0)
    flats = [FlatParameters(network().parameters(), 0.1, 1e-5) for _ in range(2)]
    alone = nn.Parameter(flats[0].vector.clone())
    optimizer = torch.optim.Adam([alone], lr=0.1, eps=1e-5, fused=True)
    for step in range(6):
        gradient = torch.randn(alone.shape, generator=generator)
        for flat in flats:
            flat.set_learning_rate(0.1 / (step + 1))
            flat.gradient.copy_(gradient)
        norm = flats[0].step(max_norm)
        assert flats[1].step_array(max_norm) == pytest.approx(norm.item(), rel=1e-6)
        optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
        alone.grad = flats[0].gradient.clone()  # clipped where it had to be
        optimizer.step()
        assert torch.equal(flats[0].vector, alone.detach())
        torch.testing.assert_close(flats[1].vector, flats[0].vector, rtol=0, atol=1e-6)
        if step == 2:  # a state in between goes on with the same bits
            flats[0].set_state({k: v.copy() for k, v in flats[0].state().items()})
    assert flats[0].optimizer_state()["step"].item() == 6
    assert float(flats[0].gradient.norm()) <= (max_norm or 1e9) * 1.001


def test_values_that_are_no_numbers_are_seen_and_huge_ones_are_numbers() -> None:
    flat = FlatParameters(network().parameters(), 0.1)
    assert flat.is_finite()
    flat.vector[1] = 1e30  # its square is not finite
    assert flat.is_finite()
    for value in (torch.nan, torch.inf, -torch.inf):
        flat.vector[2] = value
        assert not flat.is_finite()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 1e30])
@pytest.mark.parametrize("by", ["step", "step_array"])
def test_a_gradient_that_is_not_finite_moves_nothing(by: str, bad: float) -> None:
    flat = FlatParameters(network().parameters(), 0.1)
    flat.gradient.fill_(1.0)
    flat.step(None)
    before = {name: array.copy() for name, array in flat.state().items()}
    for count in (1, 2):
        flat.gradient.fill_(1.0)
        flat.gradient[3] = bad  # the square of 1e30 is not finite
        with np.errstate(over="ignore"):
            assert not np.isfinite(float(getattr(flat, by)(0.5)))
        assert (flat.skipped, flat.skipped_in_a_row) == (count, count)
    assert all(np.array_equal(before[name], array) for name, array in flat.state().items())
    flat.gradient.fill_(1.0)
    getattr(flat, by)(0.5)
    assert (flat.skipped, flat.skipped_in_a_row) == (2, 0)
    assert not np.array_equal(before["vector"], flat.array)


def test_a_loss_that_is_not_finite_leaves_no_gradient() -> None:
    flat = FlatParameters([parameter := nn.Parameter(torch.ones(2))], 0.1)
    flat.backward(parameter.sum() + torch.inf)  # whose gradient is 1
    assert not np.isfinite(flat.step(None).item())
    flat.gradient.fill_(1.0)
    assert not np.isfinite(flat.step_array(None, float("inf")))
    assert flat.skipped == 2
    flat.backward(parameter.sum() + 5)
    assert torch.equal(flat.gradient, torch.ones(2))
    assert torch.equal(flat.vector, torch.ones(2))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_skips_without_being_waited_for() -> None:
    flats = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        flat = FlatParameters(network().to(device).parameters(), 0.1)
        flats.append(flat)
        for step in range(12):
            flat.gradient.fill_(step - 4.5)
            if step % 4 in (1, 2):
                flat.gradient[3] = torch.nan
            flat.step(0.5)
        flat.count_skipped()
    assert [flat.skipped for flat in flats] == [6, 6]
    assert [flat.skipped_in_a_row for flat in flats] == [0, 0]
    for name, array in flats[0].state().items():
        np.testing.assert_allclose(flats[1].state()[name], array, rtol=0, atol=1e-6)
    for _ in range(3):
        flats[1].gradient.fill_(torch.nan)
        flats[1].step(0.5)
    with pytest.raises(Diverged):
        flats[1].count_skipped()
