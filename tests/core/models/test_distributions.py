import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor
from torch import distributions as reference

from rl.core.data.spaces import ActionLayout
from rl.core.models.actor import draw_noise
from rl.core.models.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Gaussian,
    Product,
    make_distribution,
)

N = 64
LARGEST = 1.0 - 2.0**-24  # of the uniform numbers in [0, 1) that float32 has


def rows(*shape: int, scale: float = 2.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3)) * scale


def test_categorical_agrees_with_torch() -> None:
    logits = rows(N, 5)
    own, theirs = Categorical(logits), reference.Categorical(logits=logits)
    actions = torch.arange(N) % 5
    torch.testing.assert_close(own.log_prob(actions), theirs.log_prob(actions))
    torch.testing.assert_close(own.log_prob(actions.float()), theirs.log_prob(actions))
    torch.testing.assert_close(own.entropy(), theirs.entropy())
    assert torch.equal(own.mode(), theirs.mode)


def test_bernoulli_agrees_with_torch() -> None:
    logits = rows(N, 3)
    own = Bernoulli(logits)
    theirs = reference.Independent(reference.Bernoulli(logits=logits), 1)
    actions = (rows(N, 3) > 0).long()
    torch.testing.assert_close(own.log_prob(actions), theirs.log_prob(actions.float()))
    torch.testing.assert_close(own.entropy(), theirs.entropy())
    assert torch.equal(own.mode(), (logits > 0).long())


def test_gaussian_agrees_with_torch() -> None:
    mean, log_std = rows(N, 3), torch.tensor([-1.0, 0.0, 0.7])
    own = Gaussian(mean, log_std)
    theirs = reference.Independent(reference.Normal(mean, log_std.exp()), 1)
    actions = mean + 1.5
    torch.testing.assert_close(own.log_prob(actions), theirs.log_prob(actions))
    torch.testing.assert_close(own.entropy(), theirs.entropy())
    assert own.entropy().shape == (N,)
    assert torch.equal(own.mode(), mean)


def test_sampled_categories_are_as_frequent_as_their_probabilities_say() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0])
    draws = 100_000
    noise = torch.rand(draws, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(Categorical(logits.expand(draws, 4)).sample(noise), minlength=4)
    expected = torch.softmax(logits, 0)
    deviation = (expected * (1 - expected) / draws).sqrt()
    assert ((counts / draws - expected).abs() < 4 * deviation).all()


def test_sampled_bits_and_normals_have_the_right_moments() -> None:
    draws = 100_000
    generator = np.random.default_rng(0)
    space = spaces.Tuple([spaces.MultiBinary(2), spaces.Box(-1, 1, (2,))])
    layout = ActionLayout(space)
    noise = torch.tensor(draw_noise(layout, generator, draws))
    parameters = torch.tensor([1.0, -2.0, 3.0, -4.0]).expand(draws, 4)
    policy = make_distribution(layout, parameters, torch.tensor([0.5, -1.0]))
    actions = policy.sample(noise)
    expected = torch.sigmoid(torch.tensor([1.0, -2.0]))
    torch.testing.assert_close(actions[:, :2].mean(0), expected, atol=0.01, rtol=0)
    torch.testing.assert_close(actions[:, 2:].mean(0), torch.tensor([3.0, -4.0]), atol=0.02, rtol=0)
    torch.testing.assert_close(
        actions[:, 2:].std(0), torch.tensor([math.exp(0.5), math.exp(-1.0)]), atol=0.02, rtol=0
    )


@pytest.mark.parametrize("impossible", range(4))
@pytest.mark.parametrize("noise", [0.0, 1e-7, 0.5, LARGEST])
def test_a_category_of_probability_zero_is_never_sampled(impossible: int, noise: float) -> None:
    logits = rows(N, 4)
    logits[:, impossible] = -1e8
    sampled = Categorical(logits).sample(torch.full((N,), noise))
    assert (sampled != impossible).all()
    assert ((sampled >= 0) & (sampled < 4)).all()


@pytest.mark.parametrize("size", [1e2, 1e4, 1e30])
def test_extreme_logits_stay_finite(size: float) -> None:
    logits = torch.tensor([[size, -size, 0.0], [-size, -size, -size], [size, size, -size]])
    noise = torch.tensor([0.0, 0.5, LARGEST])
    category = Categorical(logits)
    actions = category.sample(noise)
    bits = Bernoulli(logits)
    ones = bits.sample(noise.unsqueeze(-1).expand(3, 3))
    for values in (
        category.log_prob(actions),
        category.entropy(),
        bits.log_prob(ones),
        bits.entropy(),
    ):
        assert torch.isfinite(values).all()
    assert torch.equal(actions, torch.tensor([0, 1, 1]))
    torch.testing.assert_close(category.entropy(), torch.tensor([0.0, math.log(3), math.log(2)]))


def test_the_gradient_of_a_log_probability_is_that_of_torch() -> None:
    logits, other = rows(N, 5).requires_grad_(), rows(N, 5).requires_grad_()
    actions = torch.arange(N) % 5
    own, theirs = Categorical(logits), reference.Categorical(logits=other)
    (own.log_prob(actions) + own.entropy()).sum().backward()  # type: ignore[no-untyped-call]
    (theirs.log_prob(actions) + theirs.entropy()).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, other.grad)


def test_a_product_is_the_sum_of_its_parts() -> None:
    space = spaces.Tuple(
        [spaces.Discrete(3), spaces.Box(-1, 1, (2,)), spaces.MultiBinary(2), spaces.Box(0, 1, (1,))]
    )
    layout = ActionLayout(space)
    parameters, log_std = rows(N, layout.num_parameters), torch.tensor([0.1, 0.2, -0.3])
    policy = make_distribution(layout, parameters, log_std)
    assert isinstance(policy, Product)
    noise = torch.tensor(draw_noise(layout, np.random.default_rng(1), N))
    actions = policy.sample(noise)
    assert actions.dtype == torch.float32
    parts: list[tuple[Distribution, Tensor]] = [
        (Categorical(parameters[:, :3]), actions[:, 0]),
        (Gaussian(parameters[:, 3:5], log_std[:2]), actions[:, 1:3]),
        (Bernoulli(parameters[:, 5:7]), actions[:, 3:5]),
        (Gaussian(parameters[:, 7:], log_std[2:]), actions[:, 5:]),
    ]
    expected = torch.stack([part.log_prob(own) for part, own in parts]).sum(0)
    torch.testing.assert_close(policy.log_prob(actions), expected)
    expected = torch.stack([part.entropy() for part, _ in parts]).sum(0)
    torch.testing.assert_close(policy.entropy(), expected)
    torch.testing.assert_close(actions[:, 5:], parts[3][0].sample(noise[:, 5:]))
    modes = torch.cat([part.mode().reshape(N, -1).float() for part, _ in parts], dim=1)
    assert torch.equal(policy.mode(), modes)


@pytest.mark.parametrize(
    ("space", "kind", "dtype"),
    [
        (spaces.Discrete(3), Categorical, torch.int64),
        (spaces.MultiBinary(3), Bernoulli, torch.int64),
        (spaces.Box(-1, 1, (2,)), Gaussian, torch.float32),
        (spaces.MultiDiscrete([2, 3]), Product, torch.int64),
        (spaces.Tuple([spaces.Discrete(3)]), Product, torch.int64),
    ],
)
def test_actions_come_in_the_shape_and_dtype_of_the_layout(
    space: spaces.Space[object], kind: type[Distribution], dtype: torch.dtype
) -> None:
    layout = ActionLayout(space)
    log_std = torch.zeros(layout.num_gaussian) if layout.num_gaussian else None
    policy = make_distribution(layout, rows(N, layout.num_parameters), log_std)
    assert type(policy) is kind
    noise = torch.tensor(draw_noise(layout, np.random.default_rng(1), N))
    for actions in (policy.sample(noise if layout.shape else noise[:, 0]), policy.mode()):
        assert actions.shape == (N, *layout.shape)
        assert actions.dtype == dtype
        assert policy.log_prob(actions).shape == (N,)


def test_noise_is_normal_for_continuous_columns_and_uniform_for_others() -> None:
    layout = ActionLayout(spaces.Tuple([spaces.Discrete(3), spaces.Box(-1, 1, (1,))]))
    noise = draw_noise(layout, np.random.default_rng(0), 500, 100)
    assert noise.shape == (500, 100, 2)
    assert noise.dtype == np.float32
    uniform, normal = noise[..., 0], noise[..., 1]
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert abs(uniform.var() - 1 / 12) < 0.001
    assert abs(normal.mean()) < 0.02
    assert abs(normal.var() - 1) < 0.03
