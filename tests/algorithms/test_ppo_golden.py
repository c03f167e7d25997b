"""Known answers of PPO's terms (formulas 6.12 to 6.16 and 6.23)."""

import math

import pytest
import torch

from rl.algorithms.ppo import (
    adapted_kl_coef,
    clipped_surrogate,
    clipped_value_error,
    kl_estimates,
    normalized,
)
from rl.core.learning.schedules import linear
from rl.core.models.normalizer import Normalizer


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [(1.3, 1.0, 1.2), (1.3, -1.0, -1.3), (0.7, 1.0, 0.7), (0.7, -1.0, -0.8)],
)
def test_the_surrogate_is_the_smaller_of_clipped_and_unclipped(
    ratio: float, advantage: float, expected: float
) -> None:
    found = clipped_surrogate(torch.tensor([ratio]), torch.tensor([advantage]), 0.2)
    assert found.item() == pytest.approx(expected, abs=1e-5)


def test_dual_clip_bounds_bad_actions_that_became_likely() -> None:
    ratio, bad = torch.tensor([5.0]), torch.tensor([-1.0])
    assert clipped_surrogate(ratio, bad, 0.2).item() == pytest.approx(-5.0)
    assert clipped_surrogate(ratio, bad, 0.2, dual_clip=3.0).item() == pytest.approx(-3.0)
    good = torch.tensor([1.0])
    assert clipped_surrogate(ratio, good, 0.2, dual_clip=3.0).item() == pytest.approx(1.2)


def test_the_clipped_side_has_no_gradient() -> None:
    ratio = torch.tensor([1.3, 1.3, 0.7, 0.7], requires_grad=True)
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])
    clipped_surrogate(ratio, advantages, 0.2).sum().backward()
    assert ratio.grad is not None
    assert ratio.grad.tolist() == [0.0, -1.0, 1.0, 0.0]


def test_estimators_of_the_divergence() -> None:
    k1, k2, k3 = (k.item() for k in kl_estimates(torch.tensor([math.log(1.3)])))
    assert (k1, k2, k3) == pytest.approx((-0.262364, 0.034418, 0.037636), abs=1e-5)


@pytest.mark.parametrize(
    ("kl", "expected"), [(0.0066, 0.5), (0.0067, 1.0), (0.0149, 1.0), (0.0151, 2.0)]
)
def test_the_penalty_is_halved_below_and_doubled_above_its_target(
    kl: float, expected: float
) -> None:
    assert adapted_kl_coef(1.0, kl, 0.01) == expected


def test_the_clipped_value_error_is_the_larger_one() -> None:
    new, old, target = torch.tensor([1.5]), torch.tensor([1.0]), torch.tensor([2.0])
    assert clipped_value_error(new, old, target, 0.2).item() == pytest.approx(0.64, abs=1e-5)
    assert clipped_value_error(new, old, target, None).item() == pytest.approx(0.25, abs=1e-5)


def test_advantages_are_normalised_over_the_minibatch() -> None:
    found = normalized(torch.tensor([1.0, 2.0, 3.0]))
    assert found.tolist() == pytest.approx([-1.0, 0.0, 1.0], abs=1e-5)
    assert normalized(torch.tensor([4.0])).tolist() == [4.0], "one sample has no deviation"


def test_merged_moments_equal_those_of_all_data() -> None:
    normalizer = Normalizer(1)
    normalizer.update(torch.tensor([[1.0], [2.0], [3.0]]))
    normalizer.update(torch.tensor([[10.0], [20.0]]))
    assert normalizer.mean.item() == pytest.approx(7.2, abs=1e-5)
    assert normalizer.var.item() == pytest.approx(50.96, abs=1e-5)


@pytest.mark.parametrize(
    ("steps", "expected"), [(0, 1.0), (25, 0.7625), (50, 0.525), (100, 0.05), (150, 0.05)]
)
def test_a_schedule_reaches_its_end_exactly_and_stays(steps: int, expected: float) -> None:
    assert linear(1.0, 0.05, steps, 100) == pytest.approx(expected, abs=1e-12)


def test_a_schedule_without_an_end_is_constant() -> None:
    assert [linear(0.3, None, steps, 100) for steps in (0, 50, 100, 1000)] == [0.3] * 4
    assert linear(1.0, 0.05, 100, 100) == 0.05, "exactly, not up to rounding"
