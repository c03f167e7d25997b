"""C51's projection: golden numbers, edges, and what must hold whatever the numbers are."""

import pytest
import torch
from torch import Tensor

from rl.core.learning.distributional import cross_entropy, divergence, project

ATOMS = torch.linspace(-2, 2, 5)
GOLDEN = torch.tensor([0.1, 0.2, 0.4, 0.2, 0.1])


def projected(reward: float, discount: float) -> list[float]:
    moved = project(GOLDEN[None], torch.tensor([reward]), torch.tensor([discount]), ATOMS)
    return moved[0].tolist()


@pytest.mark.parametrize(
    ("reward", "discount", "expected"),
    [
        (0.5, 0.9, [0.03, 0.15, 0.32, 0.32, 0.18]),
        (0.3, 0.0, [0.0, 0.0, 0.7, 0.3, 0.0]),
        (1.0, 0.0, [0.0, 0.0, 0.0, 1.0, 0.0]),
        (5.0, 0.0, [0.0, 0.0, 0.0, 0.0, 1.0]),
        (-5.0, 0.0, [1.0, 0.0, 0.0, 0.0, 0.0]),
        (2.0, 0.0, [0.0, 0.0, 0.0, 0.0, 1.0]),
        (-2.0, 0.0, [1.0, 0.0, 0.0, 0.0, 0.0]),
        (0.0, 1.0, [0.1, 0.2, 0.4, 0.2, 0.1]),
        (1.0, 1.0, [0.0, 0.1, 0.2, 0.4, 0.3]),
        (-9.0, 0.9, [1.0, 0.0, 0.0, 0.0, 0.0]),
    ],
)
def test_golden_projections(reward: float, discount: float, expected: list[float]) -> None:
    assert projected(reward, discount) == pytest.approx(expected, abs=1e-6)


def test_the_golden_projection_keeps_its_mean_but_for_what_is_cut_off() -> None:
    mean = torch.tensor(projected(0.5, 0.9)) @ ATOMS
    assert mean.item() == pytest.approx(0.47)


def dense(probabilities: Tensor, returns: Tensor, discounts: Tensor, support: Tensor) -> Tensor:
    """The projection as the paper's eq. 7 writes it: a sum over all pairs of atoms."""
    moved = (returns[:, None] + discounts[:, None] * support).clamp(support[0], support[-1])
    width = support[1] - support[0]
    shares = (1 - (moved[:, None, :] - support[None, :, None]).abs() / width).clamp(0, 1)
    return (shares * probabilities[:, None, :]).sum(-1)


@pytest.mark.parametrize("number", [2, 5, 51])
def test_it_is_the_sum_over_all_pairs_of_atoms(number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    support = torch.linspace(-3, 10, number, dtype=torch.float64)
    probabilities = torch.rand(400, number, generator=generator, dtype=torch.float64).softmax(-1)
    returns = torch.randn(400, generator=generator, dtype=torch.float64) * 8
    discounts = torch.rand(400, generator=generator, dtype=torch.float64).round(decimals=1)
    found = project(probabilities, returns, discounts, support)
    torch.testing.assert_close(found, dense(probabilities, returns, discounts, support))
    torch.testing.assert_close(found.sum(-1), torch.ones(400, dtype=torch.float64))
    assert (found >= 0).all()


def test_no_mass_is_lost_where_rounding_leaves_the_range() -> None:
    """In float32 a moved end may lie beyond the last atom by a rounding, and must not be lost."""
    support = torch.linspace(-10.1, 10.3, 51)
    returns = torch.cat((support, torch.tensor([10.3, -10.1, 1e30, -1e30])))
    one = torch.full((len(returns), 51), 1 / 51)
    for discount in (0.0, 1e-9, 1.0):
        found = project(one, returns, torch.full((len(returns),), discount), support)
        torch.testing.assert_close(found.sum(-1), torch.ones(len(returns)))


def test_the_discount_of_n_steps_moves_the_atoms_as_one_step_thrice() -> None:
    wide = torch.linspace(-8, 8, 17)
    start = torch.zeros(1, 17)
    start[0, 16] = 1.0
    once = project(start, torch.tensor([1.0 + 0.5 + 0.25]), torch.tensor([0.125]), wide)
    by_hand = 1.75 + 0.125 * 8  # 2.75: three quarters on 3, a quarter on 2
    expected = torch.zeros(1, 17)
    expected[0, 10], expected[0, 11] = 0.25, 0.75
    torch.testing.assert_close(once, expected)
    assert (once @ wide).item() == pytest.approx(by_hand)


def test_losses_agree_with_their_definitions() -> None:
    targets = torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.2, 0.3, 0.5]])
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    log_probs = logits.log_softmax(-1)
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(cross_entropy(targets, log_probs), expected)
    kl = torch.nn.functional.kl_div(log_probs, targets, reduction="none").sum(-1)
    torch.testing.assert_close(divergence(targets, log_probs), kl)
    certain = targets.clamp(min=1e-30).log()
    assert divergence(targets, certain).abs().max() < 1e-6
