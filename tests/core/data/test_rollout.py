from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from rl.core.data.rollout import Episode, Rollout
from rl.core.data.tree import Array

T = 4


def rollout(width: int, ends: list[tuple[int, int]], base: int, truncated: bool = False) -> Rollout:
    """Observations count up from `base`; final ones are the negative of what came before."""
    observations = base + np.arange((T + 1) * width, dtype=np.float32).reshape(T + 1, width, 1)
    terminated, cut = np.zeros((T, width), bool), np.zeros((T, width), bool)
    for t, b in ends:
        (cut if truncated else terminated)[t, b] = True
    return Rollout(
        observations=observations,
        actions=base + np.arange(T * width).reshape(T, width),
        rewards=np.full((T, width), base, np.float32),
        terminated=terminated,
        truncated=cut,
        extras={"log_prob": np.full((T, width), -base, np.float32)},
        final_steps=np.array(ends, np.int64).reshape(-1, 2),
        final_observations=np.array([-observations[t, b] for t, b in ends], np.float32).reshape(
            -1, 1
        ),
        weights_version=base,
        runner=base,
        episodes=tuple(Episode(t, float(base), t + 1, 0.0) for t, _ in ends),
    )


def test_the_successor_of_an_end_is_the_final_observation() -> None:
    one = rollout(2, [(1, 0), (3, 1)], base=10)
    following = cast("Array", one.next_observations())
    observations = cast("Array", one.observations)
    expected = observations[1:].copy()
    expected[1, 0] = -observations[1, 0]
    expected[3, 1] = -observations[3, 1]
    assert np.array_equal(following, expected)
    assert np.array_equal(cast("Array", one.observations), observations)  # untouched


def test_the_successors_of_a_composite_observation_are_those_of_its_leaves() -> None:
    one = rollout(2, [(1, 0)], base=10)
    nested = replace(
        one,
        observations={"x": cast("Array", one.observations), "y": np.zeros((T + 1, 2))},
        final_observations={"x": cast("Array", one.final_observations), "y": np.ones(1)},
    )
    following = nested.next_observations()
    assert isinstance(following, dict)
    assert np.array_equal(following["x"], cast("Array", one.next_observations()))
    assert following["y"][1, 0] == 1
    assert following["y"].sum() == 1


def test_rollouts_side_by_side_are_what_stacking_by_hand_gives() -> None:
    parts = [
        rollout(1, [(2, 0)], base=1),
        rollout(3, [(0, 2), (1, 1)], base=100, truncated=True),
        rollout(2, [], base=1000),
    ]
    joined = Rollout.concatenate(parts)
    joined.check()
    assert joined.length == T
    assert joined.num_environments == 6
    assert joined.num_steps == T * 6
    # b of the second rollout begins after the one environment of the first
    assert joined.final_steps.tolist() == [[2, 0], [0, 3], [1, 2]]
    assert cast("Array", joined.final_observations).ravel().tolist() == [-3, -102, -104]
    following = cast("Array", joined.next_observations())
    first = 0
    for part in parts:
        columns = slice(first, first + part.num_environments)
        assert np.array_equal(following[:, columns], cast("Array", part.next_observations()))
        for name in ("observations", "actions", "rewards", "terminated", "truncated"):
            assert np.array_equal(getattr(joined, name)[:, columns], getattr(part, name)), name
        assert np.array_equal(joined.extras["log_prob"][:, columns], part.extras["log_prob"])
        first = columns.stop
    assert joined.valid is None
    assert joined.weights_version == 1
    assert [episode.episode_return for episode in joined.episodes] == [1.0, 100.0, 100.0]


def test_dummy_rows_are_no_steps_and_stay_dummies_beside_others() -> None:
    valid = np.ones((T, 1), bool)
    valid[2] = False
    masked = replace(rollout(1, [(1, 0)], base=1), valid=valid)
    assert masked.num_steps == T - 1
    joined = Rollout.concatenate([rollout(2, [], base=5), masked])
    assert joined.num_steps == 3 * T - 1
    assert joined.valid is not None
    assert joined.valid.tolist() == [[True, True, t != 2] for t in range(T)]


@pytest.mark.parametrize(
    "broken",
    [
        {"truncated": np.ones((T, 2), bool)},  # together with terminated
        {"terminated": np.zeros((T, 2), bool)},  # an end that is none
        {"final_steps": np.array([[1, 1], [3, 1]])},
        {"final_observations": np.zeros((1, 1), np.float32)},
        {"observations": np.zeros((T, 2, 1), np.float32)},
        {"actions": np.zeros((T, 3))},
    ],
)
def test_a_rollout_that_contradicts_itself_is_noticed(broken: dict[str, Array]) -> None:
    one = rollout(2, [(1, 0), (3, 1)], base=10)
    one.check()
    fields = one.__dict__ | broken
    with pytest.raises(AssertionError):
        Rollout(**fields).check()


def test_the_order_in_which_ends_are_listed_does_not_matter_to_the_check() -> None:
    rollout(2, [(3, 1), (1, 0)], base=10).check()
