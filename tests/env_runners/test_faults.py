"""Every way in which an environment can be wrong ends in a sentence that says which and where."""

import re
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from rl.env_runners.evaluation import evaluate_policy
from rl.errors import EnvironmentFault
from tests.env_runners.helpers import make_runner
from tests.env_runners.test_evaluation import FirstAction

SPACES: dict[str, spaces.Space[Any]] = {
    "box": spaces.Box(-1, 1, (2,), np.float32),
    "bytes": spaces.Box(0, 255, (2,), np.uint8),
    "discrete": spaces.Discrete(3, start=1),
    "multi_discrete": spaces.MultiDiscrete([3, 4]),
    "dict": spaces.Dict({"eye": spaces.Box(-1, 1, (2,)), "gear": spaces.Discrete(3)}),
}
GOOD: dict[str, Any] = {
    "box": np.zeros(2, np.float32),
    "bytes": np.zeros(2, np.uint8),
    "discrete": 1,
    "multi_discrete": np.array([0, 0]),
    "dict": {"eye": np.zeros(2, np.float32), "gear": 0},
}
MISSING = object()


class Faulty(gymnasium.Env[Any, Any]):
    """Right until its third step, or at its resets, it returns what it was told to."""

    action_space = spaces.Discrete(2)

    def __init__(self, kind: str, bad: dict[str, Any]) -> None:
        self.observation_space = SPACES[kind]
        self.good, self.bad = GOOD[kind], bad
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.steps = 0
        if "reset" in self.bad:
            return self._give("reset", None)
        return self.bad.get("reset_observation", self.good), {}

    def _give(self, name: str, good: Any) -> Any:
        value = self.bad.get(name, MISSING)
        if isinstance(value, Exception):
            raise value
        return good if value is MISSING else value

    def step(self, action: Any) -> Any:
        self.steps += 1
        if self.steps < 3:
            return self.good, 0.0, False, False, {}
        result = (
            self.bad.get("observation", self.good),
            self.bad.get("reward", 0.0),
            self.bad.get("terminated", False),
            self.bad.get("truncated", False),
            self.bad.get("info", {}),
        )
        return self._give("step", result)


NAN, INF = float("nan"), float("inf")
FAULTS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("box", {"step": ZeroDivisionError("my own")}, [r"step\(.*\) raised ZeroDivision", "my own"]),
    ("box", {"step": None}, ["step returned a NoneType", "expected the tuple"]),
    ("box", {"step": (GOOD["box"], 0.0, False, {})}, ["step returned a tuple of 4"]),
    ("box", {"terminated": None}, ["step returned terminated=None of type NoneType", "a bool"]),
    ("box", {"truncated": None}, ["step returned truncated=None"]),
    ("box", {"truncated": np.array([True, False])}, ["step returned truncated=", "type ndarray"]),
    ("box", {"reward": None}, ["step returned the reward None of type NoneType"]),
    ("box", {"reward": NAN}, ["step returned the reward nan", "finite"]),
    ("box", {"reward": -INF}, ["step returned the reward -inf"]),
    ("box", {"reward": np.array([1.0, 2.0])}, [r"step returned the reward \[1. 2.\]"]),
    ("box", {"reward": [[1.0], [1.0, 2.0]]}, [r"step returned the reward \[\[1.0\]"]),
    ("box", {"reward": 1j}, ["step returned the reward 1j of type complex"]),
    ("box", {"reward": {}}, ["step returned the reward {} of type dict"]),
    ("box", {"info": None, "terminated": True}, ["step returned info=None", "expected a dict"]),
    ("box", {"observation": np.float32([0, NAN])}, [r"observation nan at index \[1\]"]),
    ("box", {"observation": np.float32([INF, 0])}, [r"observation inf at index \[0\]"]),
    (
        "box",
        {"observation": np.float32([0, NAN]), "terminated": True},
        [r"observation nan at index \[1\]"],
    ),
    (
        "box",
        {"observation": np.float32([0, INF]), "truncated": True},
        [r"observation inf at index \[1\]"],
    ),
    ("box", {"observation": np.zeros(3, np.float32)}, [r"shape \(3,\)", r"space says \(2,\)"]),
    ("box", {"observation": np.zeros((1, 2), np.float32)}, [r"shape \(1, 2\)"]),
    ("box", {"observation": 0.5}, [r"shape \(\)", "0.5"]),
    ("box", {"observation": [[0.0], [0.0, 1.0]]}, ["type list", "holds no numbers"]),
    ("box", {"observation": None}, ["type NoneType", "holds no numbers"]),
    ("box", {"observation": np.array(["a", "b"])}, ["holds no numbers"]),
    ("bytes", {"observation": np.zeros(2, np.float32)}, ["dtype float32, its space says uint8"]),
    ("discrete", {"observation": 0}, ["observation 0, outside", r"from \(1,\) there are \(3,\)"]),
    ("discrete", {"observation": 4}, ["observation 4, outside"]),
    ("discrete", {"observation": np.array(9)}, ["observation 9, outside"]),
    ("discrete", {"observation": 1.5}, ["dtype float64, its space says int64"]),
    ("multi_discrete", {"observation": np.array([0, 4])}, [r"observation \[0 4\], outside"]),
    ("dict", {"observation": {"eye": GOOD["dict"]["eye"]}}, ["without the part 'gear'"]),
    ("dict", {"observation": None}, ["without the part"]),
    ("dict", {"observation": GOOD["dict"] | {"gear": 3}}, ["at 'gear' 3, outside"]),
    (
        "dict",
        {"observation": GOOD["dict"] | {"eye": np.zeros(3)}},
        ["at 'eye' of shape", r"space says \(2,\)"],
    ),
    ("dict", {"observation": GOOD["dict"] | {"eye": np.float32([0, NAN])}}, ["observation nan"]),
]
RESET_FAULTS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("box", {"reset": ZeroDivisionError("my own")}, ["raised ZeroDivisionError: my own"]),
    ("box", {"reset": GOOD["box"]}, ["returned a ndarray, expected the tuple"]),
    ("box", {"reset": (GOOD["box"], {}, {})}, ["returned a tuple of 3"]),
    ("box", {"reset": None}, ["returned a NoneType"]),
    ("box", {"reset_observation": np.float32([0, NAN])}, [r"with nan at index \[1\]", "finite"]),
    ("box", {"reset_observation": np.zeros(3)}, [r"shape \(3,\)"]),
    ("box", {"reset_observation": [[0.0], [0.0, 1.0]]}, ["holds no numbers"]),
    ("discrete", {"reset_observation": 7}, ["observation 7, outside"]),
    ("dict", {"reset_observation": {"gear": 1}}, ["without the part 'eye'"]),
    (
        "dict",
        {"reset_observation": {"eye": np.float32([INF, 0]), "gear": 1}},
        ["at 'eye' with inf"],
    ),
]


def sample_faulty(kind: str, bad: dict[str, Any]) -> None:
    """The second of two environments is at fault."""
    given = iter([{}, bad])
    make_runner(lambda: Faulty(kind, next(given)), 2).sample(6)


def evaluate_faulty(kind: str, bad: dict[str, Any]) -> None:
    evaluate_policy(FirstAction(SPACES[kind]), lambda: Faulty(kind, bad), 1, seed=0)


def assert_says(error: EnvironmentFault, words: list[str], bad: dict[str, Any]) -> None:
    for word in words:
        assert re.search(word, str(error)), str(error)
    planned = [value for value in bad.values() if isinstance(value, Exception)]
    if planned:
        assert error.__cause__ is planned[0]


@pytest.mark.parametrize(("kind", "bad", "words"), FAULTS)
def test_a_bad_step_is_told_with_environment_step_and_value(
    kind: str, bad: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(EnvironmentFault) as fault:
        sample_faulty(kind, bad)
    where = r"^env Probe-v0 \(runner 2, environment 1\), step 3 of its episode: step"
    assert_says(fault.value, [where, *words], bad)


@pytest.mark.parametrize(("kind", "bad", "words"), RESET_FAULTS)
def test_a_bad_reset_is_told_with_environment_and_seed(
    kind: str, bad: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(EnvironmentFault) as fault:
        sample_faulty(kind, bad)
    where = r"^env Probe-v0 \(runner 2, environment 1\): reset\(seed=\d+\)"
    assert_says(fault.value, [where, *words], bad)


def is_finite(bad: dict[str, Any]) -> bool:
    """Evaluation reports what it is given; only training must not learn from it."""
    text = repr(bad)
    return "nan" not in text and "inf" not in text.replace("info", "")


@pytest.mark.parametrize(("kind", "bad", "words"), [f for f in FAULTS if is_finite(f[1])])
def test_evaluation_tells_a_bad_step_as_training_does(
    kind: str, bad: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(EnvironmentFault) as fault:
        evaluate_faulty(kind, bad)
    assert_says(fault.value, [r"^env .*Faulty.*, evaluation episode 0, step", *words], bad)


@pytest.mark.parametrize(("kind", "bad", "words"), RESET_FAULTS)
def test_evaluation_tells_a_bad_reset_as_training_does(
    kind: str, bad: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(EnvironmentFault) as fault:
        evaluate_faulty(kind, bad)
    assert_says(fault.value, [r"evaluation episode 0: reset\(seed=\d+\)", *words], bad)


def test_the_step_is_counted_in_its_episode_not_in_the_fragment() -> None:
    class LateFault(Faulty):
        total = 0

        def step(self, action: Any) -> Any:
            self.total += 1
            self.steps += 1
            if self.total == 10:
                raise ValueError("late")
            return self.good, 0.0, self.steps == 4, False, {}

    for lengths in ([], [1] * 9, [7], [4, 4], [9]):
        runner = make_runner(lambda: LateFault("box", {}), 1)
        for length in lengths:
            runner.sample(length)
        with pytest.raises(EnvironmentFault, match=r"step 2 of its episode: step.* late"):
            runner.sample(20)


def test_a_nan_is_found_even_where_the_environment_then_breaks() -> None:
    class Spreading(Faulty):
        def step(self, action: Any) -> Any:
            self.steps += 1
            if self.steps == 4:
                raise ValueError("choked")
            return np.full(2, NAN, np.float32), 0.0, False, False, {}

    with pytest.raises(
        EnvironmentFault, match=r"step 1 of its episode: step returned the obs.* nan"
    ):
        make_runner(lambda: Spreading("box", {}), 1).sample(6)


def test_the_earliest_fault_is_told() -> None:
    class Twice(Faulty):
        def step(self, action: Any) -> Any:
            self.steps += 1
            reward = NAN if self.steps == 2 else 0.0
            ended = self.steps == 5
            return np.float32([0, NAN if ended else 0]), reward, ended, False, {}

    with pytest.raises(EnvironmentFault, match="step 2 of its episode: step returned the reward"):
        make_runner(lambda: Twice("box", {}), 1).sample(6)


@pytest.mark.parametrize(
    ("kind", "observation"),
    [
        ("box", np.array([0.25, 0.5])),
        ("box", [0, 1]),
        ("box", np.array([True, False])),
        ("discrete", np.int32(3)),
        ("discrete", np.array(2)),
        ("multi_discrete", (2, 3)),
        ("dict", {"eye": [0, 1], "gear": np.uint8(2), "more": "is ignored"}),
    ],
)
def test_what_loses_nothing_is_accepted(kind: str, observation: Any) -> None:
    rollout = make_runner(
        lambda: Faulty(kind, {"observation": observation, "reward": np.array(0.5)}), 1
    ).sample(4)
    rows = rollout.observations
    last = rows if not isinstance(rows, dict) else rows["eye"]
    expected = observation["eye"] if isinstance(observation, dict) else observation
    assert np.array_equal(last[-1, 0], np.asarray(expected))
    assert rollout.rewards[:, 0].tolist() == [0, 0, 0.5, 0.5]
