from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from rl.core.data.spaces import ObservationLayout
from rl.core.data.tree import Array, Tree, first_leaf
from rl.core.models.modules import ActorCritic
from rl.core.models.policy import Policy
from rl.core.models.spec import NetworkSpec
from rl.core.seeding import stream_seed
from rl.env_runners.evaluation import Evaluation, evaluate_policy
from rl.errors import EnvironmentFault


class FirstAction:
    """Always takes action 0."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        self._layout = ObservationLayout(space)
        self.widths: list[int] = []

    def act_batch(self, observations: Tree, deterministic: bool = True) -> Array:
        self.widths.append(len(first_leaf(observations)))
        return np.zeros(self.widths[-1], np.int64)

    def decode(self, actions: Array) -> list[Any]:
        return list(actions)

    def reset(self, where: Any = None) -> None: ...

    def stack(self, observations: list[Any]) -> Tree:
        return self._layout.stack(observations)


class Uneven(gymnasium.Env[Any, Any]):
    """Its episodes last 1 or 40 steps, as the seed says, and return their length."""

    observation_space = spaces.Box(0, 1, (1,))
    action_space = spaces.Discrete(2)

    def __init__(self) -> None:
        self.seeds: list[int | None] = []
        self.closed = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        assert seed is not None
        self.seeds.append(seed)
        self.left = length_of(seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.left -= 1
        return np.zeros(1, np.float32), 1.0, False, self.left == 0, {}

    def close(self) -> None:
        self.closed = True


def length_of(seed: int) -> int:
    return 40 if seed % 2 else 1


def expected_lengths(count: int, seed: int) -> list[int]:
    return [length_of(stream_seed(seed, "evaluation", i) & 0xFFFFFFFF) for i in range(count)]


@pytest.mark.parametrize("count", [1, 5, 16, 17, 50])
def test_every_episode_asked_for_is_played_however_long_it_lasts(count: int) -> None:
    made: list[Uneven] = []

    def make() -> Uneven:
        made.append(Uneven())
        return made[-1]

    policy = FirstAction(Uneven.observation_space)
    result = evaluate_policy(policy, make, count, seed=3)
    lengths = expected_lengths(count, 3)
    assert list(result.lengths) == lengths  # those that ended first would be the short ones
    assert list(result.returns) == [float(length) for length in lengths]
    assert result.mean == pytest.approx(np.mean(lengths))
    assert len(made) == min(count, 16)
    assert all(env.closed for env in made)
    assert sum(len(env.seeds) for env in made) == count
    assert set(policy.widths) == {len(made)}  # the batch keeps its shape to the end


def test_an_episode_does_not_depend_on_how_many_are_played() -> None:
    policy = FirstAction(Uneven.observation_space)
    few, many = (evaluate_policy(policy, Uneven, count, seed=8) for count in (7, 33))
    assert many.lengths[:7] == few.lengths


def cartpole_policy() -> Policy:
    env = gymnasium.make("CartPole-v1")
    return Policy(ActorCritic(NetworkSpec(env.observation_space, env.action_space, (8,))), seed=1)


def test_the_same_seed_gives_the_same_returns_and_another_does_not() -> None:
    policy = cartpole_policy()

    def returns(seed: int, deterministic: bool = True) -> tuple[float, ...]:
        return evaluate_policy(
            policy,
            lambda: gymnasium.make("CartPole-v1"),
            5,
            seed,
            deterministic=deterministic,
            env_steps=12,
        ).returns

    assert returns(1) == returns(1)
    assert returns(1) != returns(2)
    assert returns(1, False) != returns(1, False)  # its noise goes on


def test_the_score_from_below_the_wrappers_is_reported() -> None:
    class Scaled(Uneven):
        def step(self, action: Any) -> Any:
            observation, _, terminated, truncated, _ = super().step(action)
            info = {"episode": {"r": 77.0}} if truncated else {}
            return observation, 0.01, terminated, truncated, info

    result = evaluate_policy(FirstAction(Uneven.observation_space), Scaled, 4, seed=0)
    assert result.returns == (77.0,) * 4


def test_environments_are_closed_when_one_of_them_breaks() -> None:
    made: list[Uneven] = []

    class Breaking(Uneven):
        def step(self, action: Any) -> Any:
            raise ZeroDivisionError

    def make() -> Uneven:
        if len(made) == 3:
            raise MemoryError
        made.append(Uneven())
        return made[-1]

    with pytest.raises(MemoryError):
        evaluate_policy(FirstAction(Uneven.observation_space), make, 4, seed=0)
    assert [env.closed for env in made] == [True] * 3
    made = [Breaking()]
    with pytest.raises(Exception, match="ZeroDivisionError"):
        evaluate_policy(FirstAction(Uneven.observation_space), lambda: made[0], 1, seed=0)
    assert made[0].closed


def test_the_summary_of_an_evaluation() -> None:
    result = Evaluation((1.0, 3.0), (10, 20), env_steps=7)
    assert (result.mean, result.std, result.mean_length, result.env_steps) == (2.0, 1.0, 15.0, 7)


class Stumbling(Uneven):
    """Does something bad if it is the n-th that was made, counted from 0, and `bad` has n."""

    made: "list[Stumbling]"
    bad: dict[int, str]

    def __init__(self) -> None:
        super().__init__()
        self.fault = self.bad.get(len(self.made), "")
        self.made.append(self)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        result = super().reset(seed=seed)
        if self.fault == "reset":
            raise RuntimeError("it does not begin")
        return result

    def step(self, action: Any) -> Any:
        if self.fault == "step":
            raise RuntimeError("it stumbled")
        if self.fault == "shape":
            return np.zeros(2, np.float32), 1.0, False, False, {}
        return super().step(action)


def stumbling(**bad: str) -> type[Stumbling]:
    faults = {int(name.removeprefix("number")): fault for name, fault in bad.items()}
    return type("Stumbling", (Stumbling,), {"made": [], "bad": faults})


def test_an_environment_that_raises_is_made_anew_and_its_episode_played_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    policy = FirstAction(Uneven.observation_space)
    made = stumbling(number1="step", number3="reset")  # of three; the fourth replaces the second
    result = evaluate_policy(policy, made, 3, seed=3, max_failures=2)
    expected = expected_lengths(3, seed=3)
    again = stream_seed(3, "evaluation", 1, 2) & 0xFFFFFFFF  # the second attempt after the first
    assert result.lengths == (expected[0], length_of(again), expected[2])
    assert result.returns == result.lengths
    assert made.made[4].seeds == [again]
    assert all(env.closed for env in made.made)
    assert len(made.made) == 5
    assert "it stumbled" in caplog.messages[0]
    assert "failure 1 of the 2" in caplog.messages[0]
    assert "it does not begin" in caplog.messages[1]


def test_environments_that_raise_too_often_end_the_evaluation() -> None:
    policy = FirstAction(Uneven.observation_space)
    made = stumbling(number0="step", number1="step", number2="step")
    with pytest.raises(EnvironmentFault, match="it stumbled"):
        evaluate_policy(policy, made, 1, seed=3, max_failures=2)
    assert len(made.made) == 3
    made = stumbling(number0="shape")  # no error of the environment's own: it would do it again
    with pytest.raises(EnvironmentFault, match="shape"):
        evaluate_policy(policy, made, 1, seed=3, max_failures=2)
    assert len(made.made) == 1
    assert made.made[0].closed


def test_memory_is_forgotten_when_an_episode_is_played_again() -> None:
    class Remembering(FirstAction):
        begun: ClassVar[list[list[bool]]] = []

        def reset(self, where: Any = None) -> None:
            if where is not None:
                self.begun.append(where.tolist())

    made = stumbling(number0="step")
    evaluate_policy(Remembering(Uneven.observation_space), made, 2, seed=3, max_failures=1)
    assert Remembering.begun[0][0]
