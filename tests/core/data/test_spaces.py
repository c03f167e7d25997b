import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.core.data.spaces import ActionLayout, ObservationLayout
from rl.core.data.tree import Array
from rl.errors import UsageError

BOX = spaces.Box(-1, 2, (2, 3))
STARTED = spaces.Discrete(4, start=-2)
GRID = spaces.MultiDiscrete(np.array([[2, 3], [4, 5]]), start=np.array([[0, -1], [5, 10]]))
BITS = spaces.MultiBinary([2, 3])
NESTED = spaces.Dict(
    {
        "arm": spaces.Tuple([spaces.Box(-1, 1, (2,), np.float64), spaces.Discrete(3, start=7)]),
        "buttons": spaces.Dict({"left": spaces.MultiBinary(2), "right": GRID}),
        "gear": STARTED,
    }
)


def assert_equal(found: Any, expected: Any) -> None:
    """Equality of composite values with arrays in them."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_equal(found[key], expected[key])
    elif isinstance(expected, tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    else:
        assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("space", "kind", "shape", "dtype", "features"),
    [
        (spaces.Box(-1, 1, (3,), np.float64), "vector", (3,), np.float32, 3),
        (spaces.Box(-1, 1, (), np.float32), "vector", (), np.float32, 1),
        (spaces.Box(-1, 1, (2, 3), np.float16), "vector", (2, 3), np.float16, 6),
        (spaces.Box(0, 255, (128,), np.uint8), "vector", (128,), np.uint8, 128),
        (spaces.Box(0, 9, (7, 7, 3), np.int32), "vector", (7, 7, 3), np.int32, 147),
        (STARTED, "discrete", (), np.int64, 4),
        (GRID, "multi_discrete", (2, 2), np.int64, 14),
        (BITS, "multi_binary", (2, 3), np.int8, 6),
    ],
)
def test_a_leaf_says_how_it_is_stored_and_how_long_it_is_as_a_vector(
    space: spaces.Space[Any], kind: str, shape: tuple[int, ...], dtype: Any, features: int
) -> None:
    layout = ObservationLayout(space)
    (leaf,) = layout.leaves
    assert (leaf.path, leaf.kind, leaf.shape, leaf.dtype) == ("", kind, shape, np.dtype(dtype))
    assert leaf.num_features == layout.num_features == features
    assert not layout.nested
    rows = layout.allocate(5, 2)
    assert isinstance(rows, np.ndarray)
    assert rows.shape == (5, 2, *shape)
    assert rows.dtype == dtype


@pytest.mark.parametrize(
    ("shape", "dtype", "image", "last"),
    [
        ((84, 84, 4), np.uint8, True, True),
        ((4, 84, 84), np.uint8, True, False),
        ((210, 160, 3), np.uint8, True, True),
        ((1, 36, 36), np.uint8, True, False),
        ((3, 64, 64), np.float32, True, False),
        ((84, 84), np.uint8, True, False),  # grey
        ((84, 84), np.float32, False, False),  # a matrix of measurements
        ((84, 35, 3), np.uint8, False, True),  # smaller than the convolutions need
        ((84,), np.uint8, False, False),
        ((2, 3, 84, 84), np.uint8, False, False),
    ],
)
def test_images_are_told_from_other_boxes(
    shape: tuple[int, ...], dtype: Any, image: bool, last: bool
) -> None:
    layout = ObservationLayout(spaces.Box(0, 255, shape, dtype))
    assert layout.has_images == image
    assert layout.leaves[0].channels_last == last
    assert layout.num_features == (0 if image else int(np.prod(shape)))
    assert layout.leaves[0].dtype == dtype


def test_a_nested_observation_is_split_into_leaves_by_path() -> None:
    layout = ObservationLayout(NESTED)
    assert [leaf.path for leaf in layout.leaves] == [
        "arm/0",
        "arm/1",
        "buttons/left",
        "buttons/right",
        "gear",
    ]
    assert layout.num_features == 2 + 3 + 2 + 14 + 4
    NESTED.seed(1)
    observations = [NESTED.sample() for _ in range(3)]
    rows = layout.stack(observations)
    assert isinstance(rows, dict)
    assert list(rows) == [leaf.path for leaf in layout.leaves]
    for b, observation in enumerate(observations):
        arm, buttons = observation["arm"], observation["buttons"]
        expected = [arm[0], arm[1], buttons["left"], buttons["right"], observation["gear"]]
        for row, part, leaf in zip(rows.values(), expected, layout.leaves, strict=True):
            assert np.array_equal(row[b], np.asarray(part, leaf.dtype)), leaf.path
    assert rows["arm/0"].dtype == np.float32


def test_leaves_stand_in_the_order_of_the_space() -> None:
    ordered = spaces.Dict([("z", BOX), ("a", BITS)])
    assert [leaf.path for leaf in ObservationLayout(ordered).leaves] == ["z", "a"]


@pytest.mark.parametrize("space", [BOX, STARTED, GRID, BITS])
def test_observations_of_one_array_are_stacked_along_a_new_axis(space: spaces.Space[Any]) -> None:
    layout = ObservationLayout(space)
    space.seed(0)
    observations = [space.sample() for _ in range(4)]
    rows = layout.stack(observations)
    assert np.array_equal(rows, np.stack([np.asarray(o) for o in observations]))


def test_a_missing_part_is_told_by_its_key() -> None:
    with pytest.raises(KeyError, match="gear"):
        ObservationLayout(NESTED).split({"arm": (0, 0), "buttons": {"left": 0, "right": 0}})


@pytest.mark.parametrize(
    ("make", "space", "word"),
    [
        (ObservationLayout, spaces.Dict({"a": BOX, "b": spaces.Text(3)}), "'b'"),
        (ObservationLayout, spaces.Tuple([BOX, spaces.Dict({"s": spaces.Sequence(BOX)})]), "'1/s'"),
        (ObservationLayout, spaces.Text(3), "observation space is Text"),
        (ObservationLayout, spaces.Dict({}), "must have a part"),
        (ObservationLayout, spaces.Dict({"a/b": BOX, "a": spaces.Dict({"b": BOX})}), "share"),
        (ActionLayout, spaces.Dict({"a": BOX, "b": spaces.Text(3)}), "'b'"),
        (ActionLayout, spaces.Tuple([BOX, spaces.Box(0, 9, (2,), np.int32)]), "'1'"),
        (ActionLayout, spaces.Tuple([]), "nothing to choose"),
    ],
)
def test_a_space_that_cannot_be_used_is_refused_by_the_part(
    make: Callable[[spaces.Space[Any]], object], space: spaces.Space[Any], word: str
) -> None:
    with pytest.raises(UsageError, match=word):
        make(space)


@pytest.mark.parametrize(
    ("space", "kind", "shape", "dtype", "parameters", "gaussian"),
    [
        (STARTED, "discrete", (), np.int64, 4, 0),
        (GRID, "multi_discrete", (4,), np.int64, 14, 0),
        (BITS, "multi_binary", (6,), np.int64, 6, 0),
        (BOX, "box", (6,), np.float32, 6, 6),
        (spaces.Box(-1, 1, (), np.float32), "box", (1,), np.float32, 1, 1),
        (spaces.Tuple([STARTED]), "tuple", (1,), np.int64, 4, 0),
        (NESTED, "dict", (2 + 1 + 2 + 4 + 1,), np.float32, 2 + 3 + 2 + 14 + 4, 2),
    ],
)
def test_an_action_row_has_a_column_for_each_part(
    space: spaces.Space[Any],
    kind: str,
    shape: tuple[int, ...],
    dtype: Any,
    parameters: int,
    gaussian: int,
) -> None:
    layout = ActionLayout(space)
    assert (layout.kind, layout.shape, layout.dtype) == (kind, shape, np.dtype(dtype))
    assert (layout.num_parameters, layout.num_gaussian) == (parameters, gaussian)
    columns = [c for head in layout.heads for c in range(*head.columns.indices(1000))]
    outputs = [p for head in layout.heads for p in range(*head.parameters.indices(1000))]
    assert columns == list(range(layout.num_columns))  # each once, none shared
    assert outputs == list(range(layout.num_parameters))


def test_a_space_of_a_derived_class_is_what_it_derives_from() -> None:
    class Torques(spaces.Box):
        pass

    assert ActionLayout(Torques(-1, 1, (2,))).kind == "box"


def random_rows(layout: ActionLayout, generator: np.random.Generator, count: int) -> Array:
    """Rows as a policy may sample them."""
    rows = np.zeros((count, layout.num_columns), layout.dtype)
    for head in layout.heads:
        size = head.columns.stop - head.columns.start
        if head.kind == "gaussian":
            rows[:, head.columns] = generator.normal(0, 5, (count, size))
        else:
            categories = head.parameters.stop - head.parameters.start
            most = 2 if head.kind == "bernoulli" else categories
            rows[:, head.columns] = generator.integers(most, size=(count, size))
    return rows if layout.shape else rows[:, 0]


ACTIONS = st.recursive(
    st.sampled_from(
        [
            STARTED,
            GRID,
            BITS,
            BOX,
            spaces.Box(-3, 0.1, (2,), np.float64),
            spaces.Box(-1, 0.1, (2,), np.float16),
        ]
    ),
    lambda part: st.one_of(
        st.lists(part, min_size=1, max_size=3).map(spaces.Tuple),
        st.dictionaries(st.sampled_from("xyz"), part, min_size=1).map(spaces.Dict),
    ),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(space=ACTIONS, seed=st.integers(0, 100))
def test_every_row_a_policy_can_sample_decodes_to_a_member_of_the_space(
    space: spaces.Space[Any], seed: int
) -> None:
    layout = ActionLayout(space)
    rows = random_rows(layout, np.random.default_rng(seed), 8)
    before = rows.copy()
    actions = layout.decode(rows)
    assert len(actions) == 8
    for action in actions:
        assert space.contains(action), action
    assert np.array_equal(rows, before)  # what is learnt from stays unclipped


def test_decoding_puts_every_column_in_its_place() -> None:
    row = np.array([[0.5, -9.0, 1, 1, 0, 1, 2, 3, 4, 0]], np.float32)
    (action,) = ActionLayout(NESTED).decode(row)
    assert_equal(
        action,
        {
            "arm": (np.array([0.5, -1.0]), 8),  # clipped; counted from 7
            "buttons": {"left": np.array([1, 0]), "right": np.array([[1, 1], [8, 14]])},
            "gear": -2,
        },
    )
    assert action["arm"][0].dtype == np.float64
    assert action["arm"][1].dtype == np.int64
    assert action["buttons"]["left"].dtype == np.int8
    assert action["buttons"]["right"].dtype == np.int64


def test_continuous_actions_are_clipped_to_each_bound_of_their_own() -> None:
    space = spaces.Box(np.array([-1, -np.inf], np.float32), np.array([np.inf, 2], np.float32))
    (action,) = ActionLayout(space).decode(np.array([[-5.0, 5.0]], np.float32))
    assert action.tolist() == [-1, 2]
    assert action.dtype == np.float32


def test_discrete_actions_count_from_the_start_of_their_space() -> None:
    actions = ActionLayout(STARTED).decode(np.array([0, 3]))
    assert actions == [-2, 1]
    assert all(isinstance(action, np.int64) for action in actions)


def test_layouts_travel_between_processes() -> None:
    actions = pickle.loads(pickle.dumps(ActionLayout(NESTED)))
    rows = random_rows(actions, np.random.default_rng(0), 3)
    for found, expected in zip(
        actions.decode(rows), ActionLayout(NESTED).decode(rows), strict=True
    ):
        assert_equal(found, expected)
    observations = pickle.loads(pickle.dumps(ObservationLayout(NESTED)))
    assert observations.leaves == ObservationLayout(NESTED).leaves
