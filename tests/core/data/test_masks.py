"""Action masks as data: where they lie, what they may be, what is left to choose."""

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from rl.core.data.masks import check_mask, forbid, has_choice, nth_allowed, with_mask
from rl.core.data.spaces import ActionLayout, ObservationLayout
from rl.errors import UsageError

BOX = spaces.Box(-1, 1, (3,))
FOUR = ActionLayout(spaces.Discrete(4))


def masked(space: Any) -> ObservationLayout:
    return ObservationLayout(spaces.Dict({"state": BOX, "action_mask": space}))


@pytest.mark.parametrize(
    "space",
    [
        spaces.MultiBinary(4),
        spaces.Box(0, 1, (4,), np.int8),
        spaces.Box(0, 1, (4,), np.float32),
        spaces.Box(0, 1, (4,), np.bool_),
        spaces.MultiDiscrete([2] * 4),
    ],
    ids=str,
)
def test_a_mask_is_bits_and_no_feature(space: Any) -> None:
    layout = masked(space)
    assert layout.mask is not None
    assert [leaf.path for leaf in layout.features] == ["state"]
    assert layout.num_features == 3
    check_mask(layout, FOUR)
    space.seed(1)
    given = [{"state": np.ones(3, np.float32), "action_mask": space.sample()} for _ in range(8)]
    batch = layout.stack(given)
    mask = layout.mask_of(batch)
    assert mask is not None
    assert mask.dtype == np.bool_
    assert mask.tolist() == [[bool(bit) for bit in one["action_mask"]] for one in given]


def test_only_the_key_at_the_top_is_a_mask() -> None:
    inner = spaces.Dict({"unit": spaces.Dict({"action_mask": spaces.MultiBinary(4)})})
    assert ObservationLayout(inner).mask is None
    assert ObservationLayout(BOX).mask_of(np.zeros((2, 3))) is None


def test_an_observation_of_nothing_but_a_mask_is_refused() -> None:
    with pytest.raises(UsageError, match="it must have a part besides an action mask"):
        ObservationLayout(spaces.Dict({"action_mask": spaces.MultiBinary(4)}))


@pytest.mark.parametrize(
    ("action", "size", "words"),
    [
        (spaces.Box(-1, 1, (4,)), 4, "only Discrete and MultiDiscrete actions"),
        (spaces.MultiBinary(4), 4, "only Discrete and MultiDiscrete actions"),
        (spaces.Discrete(5), 4, r"has the shape \(4,\), but the actions Discrete\(5\) need \(5,\)"),
        (spaces.MultiDiscrete([2, 3]), 4, r"need \(5,\), an entry for each choice"),
    ],
)
def test_masks_that_do_not_suit_the_actions_are_refused(action: Any, size: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check_mask(masked(spaces.MultiBinary(size)), ActionLayout(action))


def test_a_mask_is_put_beside_what_is_observed() -> None:
    bits = spaces.MultiBinary(4)
    assert with_mask(BOX, FOUR) == spaces.Dict({"observation": BOX, "action_mask": bits})
    both = spaces.Dict({"a": BOX, "b": spaces.Discrete(2)})
    assert with_mask(both, FOUR) == spaces.Dict({**both.spaces, "action_mask": bits})


def test_every_category_must_have_a_choice() -> None:
    action = ActionLayout(spaces.MultiDiscrete([2, 3]))
    masks = np.array([[1, 0, 0, 0, 1], [1, 1, 0, 0, 0], [0, 0, 1, 1, 1], [0] * 5], np.bool_)
    assert has_choice(action, masks).tolist() == [True, False, False, False]
    assert has_choice(FOUR, np.eye(4, dtype=np.bool_)).all()


def test_what_is_allowed_is_drawn_evenly() -> None:
    mask = np.array([[0, 1, 0, 1, 1, 0]], np.bool_).repeat(30_000, 0)
    share = np.random.default_rng(0).random(30_000, np.float32)
    shares = np.bincount(nth_allowed(mask, share), minlength=6) / 30_000
    assert shares.tolist() == pytest.approx([0, 1 / 3, 0, 1 / 3, 1 / 3, 0], abs=0.01)
    edges = np.array([0, np.nextafter(np.float32(1), np.float32(0))], np.float32)
    assert nth_allowed(mask[:2], edges).tolist() == [1, 4]
    assert nth_allowed(np.zeros((2, 6), np.bool_), edges).tolist() == [0, 0]


def test_forbidden_scores_are_replaced() -> None:
    scores = np.array([[1.0, 2.0]], np.float32)
    assert forbid(scores, None) is scores
    assert forbid(scores, np.array([[True, False]])).tolist() == [[1, -1e8]]
