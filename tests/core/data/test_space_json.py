import json
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.core.data.space_json import space_from_json, space_to_json
from rl.errors import CheckpointError

BOUNDED = spaces.Box(np.array([-1, -np.inf, 0.1]), np.array([np.inf, 2.5, 0.1]), dtype=np.float64)
LEAVES: list[spaces.Space[Any]] = [
    BOUNDED,
    spaces.Box(-np.inf, np.inf, (2, 3), np.float32),
    spaces.Box(0, 255, (84, 84, 3), np.uint8),
    spaces.Box(-1, 1, (), np.float16),
    spaces.Box(-(2**62), 2**62 + 1, (2,), np.int64),
    spaces.Discrete(5, start=-3),
    spaces.MultiDiscrete(np.array([[2, 3], [4, 5]]), start=np.array([[0, -1], [5, 10]])),
    spaces.MultiDiscrete([3]),
    spaces.MultiBinary(4),
    spaces.MultiBinary([2, 3]),
]
SPACES = st.recursive(
    st.sampled_from(LEAVES),
    lambda part: st.one_of(
        st.lists(part, max_size=3).map(spaces.Tuple),
        st.dictionaries(st.text(max_size=3), part, max_size=3).map(
            lambda parts: spaces.Dict(list(parts.items()))
        ),
    ),
    max_leaves=6,
)


def order(space: spaces.Space[Any]) -> Any:
    """The keys of a space in the order in which its features stand."""
    if isinstance(space, spaces.Dict):
        return [(key, order(part)) for key, part in space.spaces.items()]
    return [order(part) for part in space.spaces] if isinstance(space, spaces.Tuple) else None


@settings(max_examples=80, deadline=None, derandomize=True)
@given(space=SPACES)
def test_a_space_comes_back_equal_and_in_the_same_order(space: spaces.Space[Any]) -> None:
    text = json.dumps(space_to_json(space), allow_nan=False)
    again = space_from_json(json.loads(text))
    assert again == space
    assert again.dtype == space.dtype
    assert order(again) == order(space)


def test_bounds_come_back_to_the_last_bit() -> None:
    again = space_from_json(json.loads(json.dumps(space_to_json(BOUNDED))))
    assert isinstance(again, spaces.Box)
    assert again.low.tolist() == [-1, -np.inf, 0.1]
    assert again.high.tolist() == [np.inf, 2.5, 0.1]
    wide = space_from_json(space_to_json(LEAVES[4]))
    assert isinstance(wide, spaces.Box)
    assert wide.high.tolist() == [2**62 + 1, 2**62 + 1]


def test_a_space_of_no_json_form_is_refused() -> None:
    with pytest.raises(TypeError, match="Text"):
        space_to_json(spaces.Dict({"a": spaces.Text(3)}))


def deep(depth: int) -> Any:
    return {"type": "tuple", "spaces": [deep(depth - 1)] if depth else []}


GOOD = space_to_json(spaces.Box(0, 1, (2,)))


@pytest.mark.parametrize(
    "data",
    [
        None,
        3,
        [],
        "box",
        {},
        {"type": "pickle"},
        {"type": ["box"]},
        GOOD | {"shape": [1 << 30, 1 << 30]},
        GOOD | {"shape": [-1]},
        GOOD | {"shape": [3, 3], "low": [0, 0]},
        GOOD | {"shape": ["two"]},
        GOOD | {"shape": [1e999]},
        GOOD | {"dtype": "object"},
        GOOD | {"dtype": "f4,f4"},
        GOOD | {"dtype": "no such"},
        GOOD | {"dtype": {"names": []}},
        GOOD | {"low": "low"},
        GOOD | {"low": None},
        GOOD | {"low": {}},
        GOOD | {"low": 1e999, "dtype": "uint8"},
        {"type": "discrete", "n": 0, "start": 0},
        {"type": "discrete", "n": -1, "start": 0},
        {"type": "discrete", "n": 10**30, "start": 0},
        {"type": "discrete", "n": 1 << 40, "start": 0},
        {"type": "discrete", "n": 3},
        {"type": "multi_discrete", "nvec": [[2], [3, 4]], "start": 0},
        {"type": "multi_discrete", "nvec": [1 << 40], "start": [0]},
        {"type": "multi_discrete", "nvec": [0], "start": [0]},
        {"type": "multi_discrete", "nvec": ["a"], "start": [0]},
        {"type": "multi_discrete", "nvec": [2, 3], "start": [0, 0, 0]},
        {"type": "multi_binary", "n": [1 << 20, 1 << 20]},
        {"type": "multi_binary", "n": [-2]},
        {"type": "multi_binary", "shape": [2]},
        {"type": "multi_binary", "n": "many"},
        {"type": "dict", "spaces": {"a": 1}},
        {"type": "dict", "spaces": [[["a"], GOOD]]},
        {"type": "dict", "spaces": [["a"]]},
        {"type": "tuple", "spaces": 3},
        {"type": "tuple", "spaces": [None]},
        deep(100),
    ],
)
def test_a_hostile_description_is_refused(data: Any) -> None:
    with pytest.raises(CheckpointError, match="not the description of a space"):
        space_from_json(data)


JUNK = st.one_of(
    st.none(),
    st.integers(-3, 3),
    st.floats(allow_nan=False, width=16),
    st.sampled_from(["inf", "-inf", "nan", "box", "uint8", "float32", "", "O"]),
    st.lists(st.integers(-2, 3), max_size=3),
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(space=st.sampled_from(LEAVES[:2] + LEAVES[3:]), data=st.data())
def test_a_damaged_description_is_a_space_or_a_clear_error(
    space: spaces.Space[Any], data: st.DataObject
) -> None:
    description = space_to_json(space)
    key = data.draw(st.sampled_from(sorted(description)))
    try:
        again = space_from_json(description | {key: data.draw(JUNK)})
    except CheckpointError:
        return
    assert isinstance(again, spaces.Space)
    again.sample()
