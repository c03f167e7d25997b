"""Compiled losses by themselves; tests of the engines hold them to the torch losses."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rl.core.kernels.dqn import CompiledDQNLoss
from rl.core.kernels.sac import CompiledSACLosses
from rl.core.kernels.sampling import choose_largest
from rl.core.models.distributions import squashed_sample
from tests.by_hand import needs_kernels

pytestmark = needs_kernels


@pytest.mark.parametrize("actions", [1, 2, 7])
def test_the_largest_is_taken_as_numpy_takes_it(actions: int) -> None:
    generator = np.random.default_rng()
    values = generator.integers(0, 3, (200, actions + 2)).astype(np.float32)[:, 1:-1]  # many ties
    values[::5, actions // 2] = np.nan
    values[::7] = -np.inf
    values[3, -1] = np.nan
    assert np.array_equal(choose_largest(values), values.argmax(1))
    noise = generator.random((200, 2), np.float32)[:, 1]
    noise[:2] = 0, np.float32(0.3)
    found = choose_largest(values, noise, 0.3)
    share = noise / np.float32(0.3)
    anything = np.minimum((share * np.float32(actions)).astype(np.int64), actions - 1)
    assert np.array_equal(found, np.where(share < 1, anything, values.argmax(1)))
    assert (share < 1).any()
    assert np.array_equal(choose_largest(values, noise, 0.0), values.argmax(1))
    backwards = values[:, ::-1]
    assert np.array_equal(choose_largest(backwards), backwards.argmax(1))


@pytest.mark.parametrize("weighted", [False, True])
def test_targets_and_slopes_of_dqn_are_those_of_torch(weighted: bool) -> None:
    generator = np.random.default_rng()
    loss = CompiledDQNLoss(3)
    for size in (1, 17, 64):
        wide = [2 * generator.normal(size=(size, 5)).astype(np.float32) for _ in range(2)]
        next_values, values = (array[:, 1:4] for array in wide)  # parts of something wider
        choosing = generator.normal(size=(size, 3)).astype(np.float32)
        # Columns of tables, as a replay gives them.
        returns, discounts, weight = generator.normal(size=(size, 3)).astype(np.float32).T
        actions = generator.integers(0, 3, (size, 2))[:, 1]
        weights = np.abs(weight, weight) if weighted else None
        loss.set_targets(next_values, choosing, returns, discounts)
        gradient, errors, mean, q_value = loss.gradient(values, actions, weights)
        rows = np.arange(size)
        targets = returns + discounts * next_values[rows, choosing.argmax(1)]
        leaf = torch.tensor(values.copy(), requires_grad=True)
        own = leaf[rows, actions]
        losses = F.smooth_l1_loss(own, torch.tensor(targets), reduction="none")
        expected = (losses * (1 if weights is None else torch.tensor(weights))).mean()
        expected.backward()
        np.testing.assert_allclose(gradient, leaf.grad, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(errors, targets - own.detach().numpy(), rtol=1e-5, atol=1e-6)
        assert mean == pytest.approx(expected.item(), rel=1e-5)
        assert q_value == pytest.approx(own.mean().item(), rel=1e-5, abs=1e-6)


def test_a_value_that_is_no_number_leaves_no_finite_loss() -> None:
    loss, ones = CompiledDQNLoss(2), np.ones(2, np.float32)
    values = np.array([[1, 2], [np.nan, 3]], np.float32)
    loss.set_targets(values, values, ones, ones)
    assert np.isnan(loss.gradient(np.ones((2, 2), np.float32), np.array([0, 1]), None)[2])


def test_an_action_that_is_none_is_refused_before_memory_is_read() -> None:
    loss, ones = CompiledDQNLoss(3), np.ones(2, np.float32)
    values = np.ones((2, 3), np.float32)
    loss.set_targets(values, values, ones, ones)
    for action in (3, -1):
        with pytest.raises(IndexError, match="none of 0 to 2"):
            loss.gradient(values, np.array([0, action]), None)


BOUNDS = (-20.0, 2.0)


def test_squashed_actions_and_their_slopes_are_those_of_torch_far_out_too() -> None:
    generator = np.random.default_rng()
    losses = CompiledSACLosses(3, BOUNDS)
    for size in (1, 50):
        outputs = generator.normal(size=(size, 6)).astype(np.float32)
        outputs[:, :3] *= 4  # tanh of many is 1 but for little
        outputs[0] = 30, -30, 0, 5, -30, 0  # and of some nothing is left; two are cut
        noise = generator.normal(size=(size, 6)).astype(np.float32)[:, ::2]
        drawn = np.full((size, 5), 7, np.float32)
        mean_log_prob = losses.sample(outputs, noise, drawn[:, 2:])
        leaf = torch.tensor(outputs, requires_grad=True)
        means, raw = leaf.chunk(2, 1)
        actions, log_probs = squashed_sample(means, raw.clamp(*BOUNDS), torch.tensor(noise))
        assert (drawn[:, :2] == 7).all()
        np.testing.assert_allclose(drawn[:, 2:], actions.detach(), rtol=1e-5, atol=1e-6)
        assert mean_log_prob == pytest.approx(log_probs.mean().item(), rel=1e-5, abs=1e-5)
        wide = generator.normal(size=(2, size, 4)).astype(np.float32)
        backs = [back[:, 1:] for back in wide]
        at_actions = torch.tensor(backs[0] + backs[1])
        (0.3 * log_probs.mean() + (at_actions * actions).sum()).backward()
        expected = leaf.grad
        assert expected is not None
        np.testing.assert_allclose(
            losses.policy_slopes(backs, 0.3), expected, rtol=1e-4, atol=1e-5 * expected.abs().max()
        )


@pytest.mark.parametrize("weighted", [False, True])
def test_critics_of_sac_are_led_to_the_lesser_value_less_the_entropy(weighted: bool) -> None:
    generator = np.random.default_rng()
    losses, size = CompiledSACLosses(2, BOUNDS), 33
    outputs, noise, actions = (
        generator.normal(size=(size, width)).astype(np.float32) for width in (4, 2, 2)
    )
    losses.sample(outputs, noise, actions)
    leaf = torch.tensor(outputs)
    _, log_probs = squashed_sample(leaf[:, :2], leaf[:, 2:].clamp(*BOUNDS), torch.tensor(noise))
    following, own = generator.normal(size=(2, 2, size, 3)).astype(np.float32)[..., 1]
    returns, discounts = generator.normal(size=(size, 2)).astype(np.float32).T
    weights = generator.random(size).astype(np.float32) if weighted else None
    losses.set_targets(list(following), returns, discounts, 0.3)
    slopes, errors, loss, q_value = losses.critic_slopes(list(own), weights)
    values = torch.tensor(own, requires_grad=True)
    soft = torch.tensor(following).min(0).values - 0.3 * log_probs
    targets = torch.tensor(returns) + torch.tensor(discounts) * soft
    squares = (values - targets).square() * (1 if weights is None else torch.tensor(weights))
    expected = 0.5 * squares.mean(-1).sum()
    expected.backward()
    np.testing.assert_allclose(slopes, values.grad, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(errors, (values - targets).detach(), rtol=1e-5, atol=1e-5)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert q_value == pytest.approx(values.mean().item(), rel=1e-5, abs=1e-6)

    slopes, mean = losses.lesser_slopes(list(own))
    values.grad = None
    lesser = values.min(0).values.mean()
    (-lesser).backward()
    np.testing.assert_allclose(slopes, values.grad, rtol=1e-6)
    assert mean == pytest.approx(lesser.item(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("critic", [0, 1])
def test_a_critic_that_gives_no_number_leaves_no_finite_loss(critic: int) -> None:
    losses, ones = CompiledSACLosses(1, BOUNDS), np.ones(2, np.float32)
    values = [ones.copy(), ones.copy()]
    values[critic][1] = np.nan
    losses.sample(np.zeros((2, 2), np.float32), ones[:, None], np.empty((2, 1), np.float32))
    assert np.isnan(losses.lesser_slopes(values)[1])
    losses.set_targets(values, ones, ones, 0.1)
    assert np.isnan(losses.critic_slopes([ones, ones], None)[2])
