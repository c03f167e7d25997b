import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rl.core.models.normalizer import Normalizer
from rl.core.models.statistics import CLIP, EPSILON, RewardScaler


def data(rows: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([1.0, 100.0, 1e-3], dtype=torch.float64)
    shift = torch.tensor([0.0, -5.0, 1e4], dtype=torch.float64)
    return torch.randn(rows, 3, generator=generator, dtype=torch.float64) * scale + shift


@settings(max_examples=50, deadline=None, derandomize=True)
@given(cuts=st.lists(st.integers(0, 100), max_size=6), seed=st.integers(0, 10))
def test_statistics_are_those_of_all_data_however_it_was_split(cuts: list[int], seed: int) -> None:
    batch = data(100, seed)
    normalizer = Normalizer(3)
    edges = [0, *sorted(cuts), 100]
    for start, stop in itertools.pairwise(edges):
        normalizer.update(batch[start:stop])  # some parts are empty
    torch.testing.assert_close(normalizer.mean, batch.mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(normalizer.var, batch.var(0, unbiased=False), rtol=1e-8, atol=1e-14)
    assert normalizer.count == 100


def test_normalised_features_have_mean_0_and_variance_1_and_are_clipped() -> None:
    batch = data(2000)
    normalizer = Normalizer(3)
    normalizer.update(batch)
    features = normalizer(batch)
    torch.testing.assert_close(
        features.mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-6, rtol=0
    )
    # the last feature's variance of 1e-6 feels the epsilon of 1e-8
    torch.testing.assert_close(
        features.var(0), torch.ones(3, dtype=torch.float64), atol=0.011, rtol=0
    )
    far = normalizer(torch.tensor([[1e6, -1e6, 1e4]]))
    assert far.dtype == torch.float32
    assert far[0, :2].tolist() == [CLIP, -CLIP]


def test_nothing_changes_before_the_first_data_and_none_is_learnt_from_looking() -> None:
    normalizer = Normalizer(2)
    features = torch.tensor([[0.5, -3.0]])
    torch.testing.assert_close(normalizer(features), features)
    before = {name: buffer.clone() for name, buffer in normalizer.named_buffers()}
    normalizer.train()
    normalizer(features)
    assert all(torch.equal(before[name], b) for name, b in normalizer.named_buffers())


def slow_scaled(
    rewards: np.ndarray, done: np.ndarray, valid: np.ndarray, gamma: float
) -> tuple[list[float], float]:
    """Returns of every valid step, environment by environment, and their deviation."""
    returns = []
    for b in range(rewards.shape[1]):
        running = 0.0
        for t in range(rewards.shape[0]):
            if not valid[t, b]:
                continue
            running = running * gamma + float(rewards[t, b])
            returns.append(running)
            if done[t, b]:
                running = 0.0
    return returns, math.sqrt(float(np.var(returns)) + EPSILON)


@pytest.mark.parametrize("masked", [False, True])
def test_rewards_are_divided_by_the_deviation_of_the_discounted_return(masked: bool) -> None:
    generator = np.random.default_rng(1)
    rewards = generator.normal(2, 3, (30, 4)).astype(np.float32)
    done = generator.random((30, 4)) < 0.2
    valid = generator.random((30, 4)) < 0.7 if masked else np.ones((30, 4), bool)
    scaler = RewardScaler(4, 0.9)
    parts = [slice(0, 7), slice(7, 8), slice(8, 30)]  # episodes go on from part to part
    for rows in parts:
        scaler.update(rewards[rows], done[rows], valid[rows] if masked else None)
        scaled = scaler.scale(rewards[rows])
        _, deviation = slow_scaled(rewards[: rows.stop], done[: rows.stop], valid[: rows.stop], 0.9)
        expected = np.clip(rewards[rows] / deviation, -CLIP, CLIP)
        np.testing.assert_allclose(scaled, expected, rtol=1e-5)
        assert scaled.dtype == np.float32
    returns, _ = slow_scaled(rewards, done, valid, 0.9)
    assert int(scaler.statistics["count"]) == len(returns) == int(valid.sum())


def test_a_return_starts_anew_where_an_episode_ended() -> None:
    scaler = RewardScaler(2, 0.5)
    scaler.update(np.ones((2, 2)), np.array([[False, False], [True, False]]))
    assert scaler.returns.tolist() == [0.0, 1.5]
    scaler.update(np.zeros((1, 2)), np.zeros((1, 2), bool))
    assert scaler.returns.tolist() == [0.0, 0.75]


def test_scaled_rewards_keep_their_sign_and_are_clipped() -> None:
    scaler = RewardScaler(1, 0.0)
    rewards = np.ones((1000, 1), np.float32)
    rewards[0] = 1e4
    scaler.update(rewards, np.zeros((1000, 1), bool))
    scaled = scaler.scale(rewards)
    assert scaled[0] == CLIP
    assert (scaled > 0).all()  # never shifted by the mean


def test_the_state_of_a_scaler_is_all_of_it() -> None:
    first, second = RewardScaler(2, 0.9), RewardScaler(2, 0.9)
    rewards, done = np.random.default_rng(0).normal(size=(5, 2)), np.zeros((5, 2), bool)
    first.update(rewards, done)
    for name, place in second.state_dict().items():
        place[...] = first.state_dict()[name]
    for scaler in (first, second):
        scaler.update(rewards, done)
    assert np.array_equal(first.scale(rewards), second.scale(rewards))
