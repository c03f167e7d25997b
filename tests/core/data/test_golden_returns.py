"""Known answers of the estimators (float64 references, to 1e-5)."""

import numpy as np
import pytest
import torch

from rl.core.data.returns import explained_variance, generalized_advantages, successor_values

REWARDS = [1.0, 0.0, 2.0, -1.0, 0.5, 1.0]
VALUES = [0.5, 1.0, -0.5, 2.0, 0.0, 1.5]
LAST, FINAL_TRUNCATED = 0.7, 3.0
ADVANTAGES = [1.652, 0.35, 2.5, -0.696, 3.2, 0.13]
RETURNS = [2.152, 1.35, 2.0, 1.304, 3.2, 1.63]


def _case(final_terminated: float = 123.0) -> torch.Tensor:
    """Terminated at t = 2, truncated at t = 4; gamma 0.9, lambda 0.8."""
    values = torch.tensor([*VALUES, LAST]).unsqueeze(1)
    terminated = torch.zeros(6, 1, dtype=torch.bool)
    truncated = torch.zeros(6, 1, dtype=torch.bool)
    terminated[2] = truncated[4] = True
    following = successor_values(
        values, torch.tensor([final_terminated, FINAL_TRUNCATED]), torch.tensor([[2, 0], [4, 0]])
    )
    return generalized_advantages(
        torch.tensor(REWARDS).unsqueeze(1),
        values[:-1],
        following,
        terminated,
        terminated | truncated,
        0.9,
        0.8,
    ).squeeze(1)


def test_advantages_and_returns_match_the_golden_numbers() -> None:
    advantages = _case()
    assert advantages.tolist() == pytest.approx(ADVANTAGES, abs=1e-5)
    assert (advantages + torch.tensor(VALUES)).tolist() == pytest.approx(RETURNS, abs=1e-5)


def test_the_value_after_termination_has_no_influence() -> None:
    assert torch.equal(_case(final_terminated=123.0), _case(final_terminated=-7.0))


@pytest.mark.parametrize("length", [1, 2, 3, 7, 64, 129])
def test_the_scan_equals_the_recursion(length: int) -> None:
    generator = torch.Generator().manual_seed(length)
    shape = (length, 5)
    rewards, values, following = (torch.randn(shape, generator=generator) for _ in range(3))
    done = torch.rand(shape, generator=generator) < 0.2
    terminated = done & (torch.rand(shape, generator=generator) < 0.5)
    expected = torch.zeros(shape)
    carry = torch.zeros(5)
    for t in reversed(range(length)):
        delta = rewards[t] + 0.97 * following[t] * ~terminated[t] - values[t]
        carry = delta + 0.97 * 0.9 * carry * ~done[t]
        expected[t] = carry
    found = generalized_advantages(rewards, values, following, terminated, done, 0.97, 0.9)
    assert torch.allclose(found, expected, atol=1e-5)
    given = (each.numpy() for each in (rewards, values, following, terminated, done))
    arrays = generalized_advantages(*given, 0.97, 0.9)  # type: ignore[call-arg]
    assert arrays.dtype == np.float32
    assert np.array_equal(arrays, found.numpy())  # to the bit


def test_successors_are_the_next_row_but_for_ends() -> None:
    values = torch.arange(8.0).reshape(4, 2)
    following = successor_values(values, torch.tensor([50.0, 60.0]), torch.tensor([[0, 1], [2, 0]]))
    assert following.tolist() == [[2.0, 50.0], [4.0, 5.0], [60.0, 7.0]]
    ends = np.array([50.0, 60.0]), np.array([[0, 1], [2, 0]])
    assert successor_values(values.numpy(), *ends).tolist() == following.tolist()
    assert values[1, 1] == 3.0, "the values themselves are left alone"


def test_explained_variance_is_one_when_perfect_zero_when_constant_nan_when_undefined() -> None:
    targets = np.array([1.0, 2.0, 3.0])
    assert explained_variance(targets, targets) == pytest.approx(1.0)
    assert explained_variance(np.full(3, 2.0), targets) == pytest.approx(0.0)
    assert np.isnan(explained_variance(targets, np.ones(3)))
