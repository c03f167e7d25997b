"""Compiled losses by themselves; tests of the engines hold them to the torch losses."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rl.core.data.tree import Array
from rl.core.kernels.dqn import CompiledDQNLoss
from rl.core.kernels.mlp import CompiledMLP
from rl.core.kernels.sac import CompiledSACLosses, SACNetworks
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


class Linear:
    """Networks of SAC without hidden layers, by C and by torch, whose gradients can be compared.

    What the policy gives are its inputs, [M, 2 d]: numbers far out can be had. Everything else is
    drawn.
    """

    def __init__(self, actions: int) -> None:
        """`actions`: d."""
        generator = np.random.default_rng()
        self.width = actions

        def draw(*shape: int) -> Array:
            return generator.normal(size=shape).astype(np.float32)

        inputs = 2 * actions
        self.policy = np.eye(inputs, dtype=np.float32), np.zeros(inputs, np.float32)
        self.critics, self.followers = (
            [(draw(1, inputs + actions), draw(1)) for _ in range(2)] for _ in range(2)
        )
        self.slots = [tuple(map(np.empty_like, pair)) for pair in (self.policy, *self.critics)]
        own, *both = ([slot] for slot in self.slots)
        self.middle, self.inverse = draw(actions), draw(actions)
        self.losses = CompiledSACLosses(
            SACNetworks(
                CompiledMLP([self.policy], own, "relu", True),
                [
                    CompiledMLP([c], s, "relu", True)
                    for c, s in zip(self.critics, both, strict=True)
                ],
                [CompiledMLP([f], None, "relu", True) for f in self.followers],
                *(self.middle, self.inverse, BOUNDS),
            )
        )
        self.leaves = [torch.tensor(a, requires_grad=True) for p in (self.policy,) for a in p]
        self.judges = [torch.tensor(a, requires_grad=True) for p in self.critics for a in p]

    def values(self, networks: Sequence[Tensor], seen: Tensor, actions: Tensor) -> Tensor:
        """[2, M] of both critics."""
        rows = torch.cat((seen, actions), 1)
        weights, biases = networks[::2], networks[1::2]
        both = [F.linear(rows, w, b)[:, 0] for w, b in zip(weights, biases, strict=True)]
        return torch.stack(both)

    def drawn(self, seen: Array, noise: Array) -> tuple[Tensor, Tensor]:
        """What the policy does, and log pi."""
        means, raw = F.linear(torch.tensor(seen), *self.leaves).chunk(2, 1)
        return squashed_sample(means, raw.clamp(*BOUNDS), torch.tensor(noise))


def far_out(generator: np.random.Generator, size: int) -> tuple[Array, Array]:
    """Outputs of a policy with three actions, and noise that does not lie close."""
    outputs = generator.normal(size=(size, 6)).astype(np.float32)
    outputs[:, :3] *= 4  # tanh of many is 1 but for little
    outputs[0] = 30, -30, 0, 5, -30, 0  # and of some nothing is left; two are cut
    return outputs, generator.normal(size=(size, 6)).astype(np.float32)[:, ::2]


@pytest.mark.parametrize("size", [1, 50])
def test_a_squashed_policy_has_the_gradient_of_torch_far_out_too(size: int) -> None:
    networks, (seen, noise) = Linear(3), far_out(np.random.default_rng(), size)
    value, log_prob = networks.losses.policy_gradient(seen, noise, 0.3)
    actions, log_probs = networks.drawn(seen, noise)
    lesser = networks.values(networks.judges, torch.tensor(seen), actions).min(0).values
    (0.3 * log_probs - lesser).mean().backward()
    assert value == pytest.approx(lesser.mean().item(), rel=1e-5, abs=1e-5)
    assert log_prob == pytest.approx(log_probs.mean().item(), rel=1e-5, abs=1e-5)
    for found, leaf in zip(networks.slots[0], networks.leaves, strict=True):
        expected = leaf.grad
        assert expected is not None
        limit = 1e-5 * float(expected.abs().max())
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=limit)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("size", [1, 50])
def test_critics_of_sac_are_led_to_the_lesser_value_less_the_entropy(
    size: int, weighted: bool
) -> None:
    generator, networks = np.random.default_rng(), Linear(3)
    following, noise = far_out(generator, size)
    seen = generator.normal(size=(size, 6)).astype(np.float32)
    done = generator.normal(size=(size, 3)).astype(np.float32)
    returns, discounts = generator.normal(size=(size, 2)).astype(np.float32).T
    weights = generator.random(size).astype(np.float32) if weighted else None
    transitions = seen, done, returns, following, discounts
    loss, q_value, errors = networks.losses.critic_gradient(transitions, noise, 0.3, weights)
    with torch.no_grad():
        actions, log_probs = networks.drawn(following, noise)
        flat = [torch.tensor(array) for pair in networks.followers for array in pair]
        after = networks.values(flat, torch.tensor(following), actions).min(0).values
        targets = torch.tensor(returns) + torch.tensor(discounts) * (after - 0.3 * log_probs)
    own = (torch.tensor(done) - torch.tensor(networks.middle)) * torch.tensor(networks.inverse)
    values = networks.values(networks.judges, torch.tensor(seen), own)
    squares = (values - targets).square() * (1 if weights is None else torch.tensor(weights))
    expected = 0.5 * squares.mean(-1).sum()
    expected.backward()
    np.testing.assert_allclose(errors, (values - targets).detach(), rtol=1e-4, atol=1e-4)
    assert loss == pytest.approx(expected.item(), rel=1e-4)
    assert q_value == pytest.approx(values.mean().item(), rel=1e-4, abs=1e-5)
    slots = [slot for pair in networks.slots[1:] for slot in pair]
    for found, leaf in zip(slots, networks.judges, strict=True):
        assert leaf.grad is not None
        limit = 1e-5 * float(leaf.grad.abs().max())
        np.testing.assert_allclose(found, leaf.grad, rtol=1e-4, atol=limit)


@pytest.mark.parametrize("critic", [0, 1])
def test_a_critic_that_gives_no_number_leaves_no_finite_loss(critic: int) -> None:
    networks, ones = Linear(1), np.ones(2, np.float32)
    seen, noise = np.zeros((2, 2), np.float32), ones[:, None]
    transitions = seen, noise, ones, seen, ones
    for bias in (networks.critics[critic][1], networks.followers[critic][1]):
        kept = bias.copy()
        bias[:] = np.nan
        assert np.isnan(networks.losses.critic_gradient(transitions, noise, 0.1, None)[0])
        value = networks.losses.policy_gradient(seen, noise, 0.1)[0]
        assert np.isnan(value) == (bias is networks.critics[critic][1])
        bias[:] = kept


def test_arrays_of_sac_of_another_shape_are_refused() -> None:
    networks, ones = Linear(1), np.ones(2, np.float32)
    seen, noise = np.zeros((2, 2), np.float32), ones[:, None]
    with pytest.raises(ValueError, match=r"\(2, 3\) instead of \(2, 2\)"):
        networks.losses.policy_gradient(np.zeros((2, 3), np.float32), noise, 0.1)
    with pytest.raises(ValueError, match=r"\(2,\) instead of \(2, 1\)"):
        networks.losses.critic_gradient((seen, ones, ones, seen, ones), noise, 0.1, None)
