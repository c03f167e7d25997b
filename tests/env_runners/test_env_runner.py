import dataclasses
import pickle
from collections.abc import Iterator
from typing import Any, cast

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from rl.core.data.rollout import Rollout
from rl.core.data.spaces import ActionLayout
from rl.core.data.tree import Array, tree_map
from rl.core.data.weights import Weights
from rl.core.models.actor import actor_factory, draw_noise
from rl.core.models.modules import ActorCritic
from rl.core.models.spec import NetworkSpec
from rl.core.seeding import NoiseStream, episode_seed
from rl.env_runners.env_runner import EnvRunner, MakeEnvironment, OutOfStep
from rl.env_runners.runner_state import RunnerState
from rl.errors import EnvironmentFault, UsageError
from tests.env_runners.helpers import NUM_ACTIONS, Counting, Scripted, make_runner

SEED, INDEX = 4, 2

Transition = tuple[list[float], int, float, list[float], bool, bool]


def sampled(rollouts: list[Rollout], b: int) -> Iterator[Transition]:
    """What the rollouts say happened in environment b."""
    for rollout in rollouts:
        following = cast("Array", rollout.next_observations())
        for t in range(rollout.length):
            yield (
                cast("Array", rollout.observations)[t, b].tolist(),
                int(rollout.actions[t, b]),
                float(rollout.rewards[t, b]),
                following[t, b].tolist(),
                bool(rollout.terminated[t, b]),
                bool(rollout.truncated[t, b]),
            )


def stepped(actions: list[int], b: int) -> Iterator[Transition]:
    """The same by hand: one environment, stepped with these actions."""
    env, episode = Counting(), 0
    observation, _ = env.reset(seed=episode_seed(SEED, INDEX, b, episode))
    for action in actions:
        following, reward, terminated, truncated, _ = env.step(np.int64(action + 5))
        yield (
            observation.tolist(),
            action,
            float(np.float32(reward)),
            following.tolist(),
            terminated,
            truncated and not terminated,
        )
        observation = following
        if terminated or truncated:
            episode += 1
            observation, _ = env.reset(seed=episode_seed(SEED, INDEX, b, episode))


@pytest.mark.parametrize("width", [1, 3, 16])
@pytest.mark.parametrize("length", [1, 7, 32])
def test_rollouts_hold_exactly_what_stepping_by_hand_gives(width: int, length: int) -> None:
    runner = make_runner(Counting, width)
    rollouts = [runner.sample(length) for _ in range(64 // length)]
    for rollout in rollouts:
        rollout.check()
    for b in range(width):
        happened = list(sampled(rollouts, b))
        assert happened == list(stepped([step[1] for step in happened], b))
    ends = [(step[4], step[5]) for b in range(width) for step in sampled(rollouts, b)]
    assert {(True, False), (False, True), (False, False)} == set(ends)


@pytest.mark.parametrize("length", [1, 7])
def test_actions_come_from_the_observation_and_the_fragments_noise(length: int) -> None:
    runner = make_runner(Counting)
    for number in range(5):
        rollout = runner.sample(length)
        noise = draw_noise(
            ActionLayout(Counting().action_space),
            NoiseStream(SEED, INDEX).fragment(number),
            length,
            3,
        )
        for t in range(length):
            observations = cast("Array", rollout.observations)[t]
            actions, extras = Scripted().act(observations, noise[t])
            assert np.array_equal(rollout.actions[t], actions)
            assert np.array_equal(rollout.extras["log_prob"][t], extras["log_prob"])
        assert (rollout.runner, rollout.fragment) == (INDEX, number)


def test_a_fragment_begins_where_the_one_before_ended() -> None:
    runner = make_runner(Counting)
    before = runner.sample(5)
    after = runner.sample(5)
    first = cast("Array", after.observations)[0]
    assert np.array_equal(first, cast("Array", before.observations)[-1])
    assert not np.shares_memory(first, cast("Array", before.observations))


def test_episodes_are_counted_across_fragments() -> None:
    rollouts = [(runner := make_runner(Counting, 2)).sample(3)]
    rollouts += [runner.sample(3) for _ in range(20)]
    expected = []
    running = np.zeros((2, 2))
    for rollout in rollouts:
        for t in range(3):
            for b in range(2):
                running[b] += rollout.rewards[t, b], 1
                if rollout.terminated[t, b] or rollout.truncated[t, b]:
                    expected.append((t, *running[b]))
                    running[b] = 0
    episodes = [episode for rollout in rollouts for episode in rollout.episodes]
    assert [(e.step, e.length) for e in episodes] == [(t, n) for t, _, n in expected]
    returns = [total for _, total, _ in expected]
    np.testing.assert_allclose([e.episode_return for e in episodes], returns, rtol=1e-6)
    seconds = [e.seconds for e in episodes]
    assert seconds == sorted(seconds)


def test_an_episodes_seed_does_not_depend_on_other_environments_or_fragments() -> None:
    def seeds(width: int, length: int) -> list[list[int | None]]:
        made: list[Counting] = []

        def make() -> Counting:
            made.append(Counting())
            return made[-1]

        runner = make_runner(make, width)
        for _ in range(60 // length):
            runner.sample(length)
        return [env.seeds for env in made]

    few, many = seeds(1, 60), seeds(4, 3)
    expected = [episode_seed(SEED, INDEX, 0, episode) for episode in range(8)]
    assert few[0][:8] == many[0][:8] == expected
    assert many[1][:8] == [episode_seed(SEED, INDEX, 1, episode) for episode in range(8)]


def assert_same_bits(one: Rollout, other: Rollout) -> None:
    for field in dataclasses.fields(Rollout):
        if field.name in ("episodes", "act_share"):
            continue  # they hold wall time
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, dict):
            assert a.keys() == b.keys()
            assert all(a[key].tobytes() == b[key].tobytes() for key in a), field.name
        elif isinstance(a, np.ndarray):
            assert a.dtype == b.dtype
            assert a.tobytes() == b.tobytes(), field.name
        else:
            assert a == b, field.name
    for a, b in zip(one.episodes, other.episodes, strict=True):
        assert a._replace(seconds=0) == b._replace(seconds=0)


SPEC_OF_CARTPOLE = NetworkSpec(
    gymnasium.make("CartPole-v1").observation_space, spaces.Discrete(2), (8,)
)


def network_runner(make: MakeEnvironment) -> EnvRunner:
    """Acts with a network, in numpy."""
    env = make()
    spec = NetworkSpec(env.observation_space, env.action_space, (8,))
    module = ActorCritic(spec)
    runner = EnvRunner(make, "Probe-v0", 3, actor_factory(module), SEED, INDEX)
    parameters = np.random.default_rng(0).normal(
        0, 0.1, sum(p.numel() for p in module.parameters())
    )
    runner.set_weights(Weights(7, parameters.astype(np.float32), {}))
    return runner


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1"])
def test_the_same_runner_samples_the_same_bits(env_id: str) -> None:
    def make() -> gymnasium.Env[Any, Any]:
        return gymnasium.make(env_id)

    one, other = network_runner(make), network_runner(make)
    for length in (1, 40, 7):
        first, second = one.sample(length), other.sample(length)
        assert_same_bits(first, second)
        assert first.weights_version == 7


def test_weights_of_a_version_known_from_another_past_are_taken_all_the_same() -> None:
    runner = network_runner(lambda: gymnasium.make("CartPole-v1"))
    begun = RunnerState().after(runner.sample(5))
    size = sum(p.numel() for p in ActorCritic(SPEC_OF_CARTPOLE).parameters())
    others = Weights(7, np.ones(size, np.float32), {})
    runner.set_state(begun)
    expected = network_runner(lambda: gymnasium.make("CartPole-v1"))
    expected.set_state(begun)
    expected.set_weights(others)
    assert_same_bits(runner.sample(20, others), expected.sample(20))


def replayable(env_id: str) -> MakeEnvironment:
    return Counting if env_id == "Counting" else lambda: gymnasium.make(env_id)


@pytest.mark.parametrize("env_id", ["Counting", "CartPole-v1", "Pendulum-v1", "FrozenLake-v1"])
@pytest.mark.parametrize("length", [1, 5, 30])
def test_a_runner_taken_up_in_mid_episode_goes_on_with_the_same_bits(
    env_id: str, length: int
) -> None:
    make = replayable(env_id)
    runner = network_runner(make)
    state = RunnerState()
    for _ in range(3):
        state = state.after(runner.sample(length))
    state = pickle.loads(pickle.dumps(state))
    other = network_runner(make)
    other.sample(11)  # its own past does not matter
    assert other.set_state(state) == 0
    for fragment in range(3, 6):
        one, two = runner.sample(length), other.sample(length)
        assert_same_bits(one, two)
        assert one.fragment == two.fragment == fragment
        assert [e[1:3] for e in one.episodes] == [e[1:3] for e in two.episodes]


def test_a_new_runner_stands_at_the_beginning() -> None:
    runner, other = make_runner(Counting), make_runner(Counting)
    assert other.set_state(RunnerState()) == 0
    rollouts = [r.sample(5) for r in (runner, other, make_runner(Counting))]
    assert_same_bits(rollouts[0], rollouts[1])
    assert_same_bits(rollouts[0], rollouts[2])


def test_a_runner_refuses_one_environment_for_two() -> None:
    env = Counting()
    with pytest.raises(UsageError, match="Probe-v0: the callable returned the same environment"):
        make_runner(lambda: env, 2)
    with pytest.raises(UsageError, match="the same environment"):
        make_runner(lambda: gymnasium.wrappers.TimeLimit(env, 5), 2)


class Aliasing(Counting):
    """Answers in one array, its own or shared by all of its kind."""

    shared: Array | None = None

    def __init__(self) -> None:
        super().__init__()
        self.buffer = np.zeros(3) if self.shared is None else self.shared

    def _observe(self, action: int) -> Any:
        self.buffer[:] = super()._observe(action)
        return self.buffer


@pytest.mark.parametrize("shared", [None, np.zeros(3)], ids=["own", "shared"])
def test_an_environment_may_reuse_the_array_it_answers_in(
    shared: Array | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Aliasing, "shared", shared)
    aliasing, plain = make_runner(Aliasing), make_runner(Counting)
    for length in (1, 30):
        assert_same_bits(aliasing.sample(length), plain.sample(length))


class Composite(gymnasium.ObservationWrapper[Any, Any, Any]):
    """The counting environment with its observation in parts of other dtypes."""

    def __init__(self) -> None:
        super().__init__(Counting())
        self.observation_space = spaces.Dict(
            [
                ("steps", spaces.Discrete(20, start=-1)),
                ("parts", spaces.Tuple([spaces.Box(0, 1e4, (1,)), spaces.Box(-1, 9, (), np.int8)])),
            ]
        )

    def observation(self, observation: Any) -> Any:
        tag, steps, action = observation
        return {"parts": (np.float64([tag]), np.int8(action)), "steps": int(steps)}


def test_composite_observations_are_those_of_their_parts() -> None:
    composite, plain = make_runner(Composite), make_runner(Counting)
    # The scripted actor looks at the first leaf alone, so actions differ; ends do not.
    for length in (3, 20):
        nested, flat = composite.sample(length), plain.sample(length)
        nested.check()
        assert isinstance(nested.observations, dict)
        assert list(nested.observations) == ["steps", "parts/0", "parts/1"]
        dtypes = tree_map(lambda leaf: leaf.dtype, nested.observations)
        assert dtypes == {"steps": np.int64, "parts/0": np.float32, "parts/1": np.int8}
        for name, column in (("steps", 1), ("parts/0", 0)):
            for mine, theirs in (
                (nested.observations, cast("Array", flat.observations)),
                (nested.final_observations, cast("Array", flat.final_observations)),
            ):
                assert isinstance(mine, dict)
                expected = theirs[..., column]
                assert np.array_equal(mine[name].reshape(expected.shape), expected)
        assert np.array_equal(nested.terminated, flat.terminated)


def test_float64_observations_of_a_box_are_not_checked_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the slow path was taken")

    for dtype in (np.float64, np.float32):
        runner = make_runner(lambda dtype=dtype: Counting(dtype))
        runner.sample(1)
        monkeypatch.setattr("rl.env_runners.fragment.check_step", refuse)
        rollout = runner.sample(20)
        assert cast("Array", rollout.observations).dtype == np.float32
        monkeypatch.undo()


def test_returns_are_summed_in_full_precision_whatever_the_rewards_are() -> None:
    class Tenths(Counting):
        def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
            observation, *_ = super().step(action)
            return observation, np.float16(0.1), self._steps == 4000, False, {}

    (episode,) = make_runner(Tenths, 1).sample(4000).episodes
    assert episode.episode_return == pytest.approx(4000 * float(np.float16(0.1)), rel=1e-9)


def test_the_score_below_the_wrappers_is_reported_where_there_is_one() -> None:
    class Clipped(Counting):
        def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
            result = super().step(action)
            result[4].update(episode={"r": 123.0}, is_success=np.True_)
            return result

    for episode in make_runner(Clipped).sample(20).episodes:
        assert episode.episode_return == 123.0
        assert episode.success is True
    for episode in make_runner(Counting).sample(20).episodes:
        assert episode.success is None


@pytest.mark.parametrize("theirs", [3, None, {"number": 3}])
def test_something_else_under_the_name_of_the_score_does_no_harm(theirs: Any) -> None:
    class Numbered(Counting):
        def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
            result = super().step(action)
            result[4]["episode"] = theirs
            return result

    expected = [e.episode_return for e in make_runner(Counting).sample(20).episodes]
    assert [e.episode_return for e in make_runner(Numbered).sample(20).episodes] == expected


def test_closing_closes_every_environment_and_tells_of_one_that_will_not() -> None:
    closed: list[Counting] = []

    class Closing(Counting):
        def close(self) -> None:
            closed.append(self)
            if len(closed) == 1:
                raise OSError("stuck")

    with pytest.raises(EnvironmentFault, match=r"environment 0\): close\(\) raised OSError: stuck"):
        make_runner(Closing, 3).close()
    assert len({id(env) for env in closed}) == len(closed) == 3


def test_the_scripted_actor_takes_every_action() -> None:
    assert set(make_runner(Counting).sample(40).actions.ravel()) == set(range(NUM_ACTIONS))


def test_a_runner_that_knows_nothing_refuses_a_later_fragment() -> None:
    runner = make_runner(Counting)
    with pytest.raises(OutOfStep, match="at fragment 0 and was asked for 3"):
        runner.sample(5, fragment=3)
    assert runner.sample(5, fragment=0).fragment == 0
