"""Vector environments as they are: every transition, in each way in which they go on."""

from collections.abc import Callable, Iterator
from typing import Any, cast

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from rl.core.data.replay import ReplayBuffer
from rl.core.data.rollout import Rollout
from rl.core.data.spaces import ActionLayout, Spaces
from rl.core.data.tree import Array
from rl.core.models.actor import draw_noise
from rl.env_runners.env_runner import EnvRunner
from rl.env_runners.environments import EnvironmentFactory
from rl.env_runners.native import vector_seed
from rl.env_runners.runner_state import RunnerState
from rl.env_runners.vectors import batched_actions
from rl.errors import EnvironmentFault, UsageError
from tests.env_runners.helpers import Counting, Scripted

SEED, INDEX = 4, 2
MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]

Transition = tuple[list[float], int, float, list[float], bool, bool]


class VectorCounting(VectorEnv[Any, Any, Any]):
    """Counting environments that answer in one set of arrays, written anew at every step."""

    def __init__(self, num_envs: int, mode: AutoresetMode | None) -> None:
        self.metadata = {} if mode is None else {"autoreset_mode": mode}
        self.mode = mode
        self.num_envs = num_envs
        self.envs = [Counting() for _ in range(num_envs)]
        self.single_observation_space = self.envs[0].observation_space
        self.single_action_space = self.envs[0].action_space
        batch = gymnasium.vector.utils.batch_space
        self.observation_space = batch(self.single_observation_space, num_envs)
        self.action_space = batch(self.single_action_space, num_envs)
        self.seen = np.zeros((num_envs, 3))
        self.finals = np.zeros((num_envs, 3))
        self.over = np.zeros(num_envs, np.bool_)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        chosen = np.ones(self.num_envs, np.bool_) if options is None else options["reset_mask"]
        for b in np.flatnonzero(chosen).tolist():
            self.seen[b] = self.envs[b].reset(seed=None if seed is None else seed + b)[0]
            self.over[b] = False
        return self.seen, {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        assert self.action_space.contains(actions)
        rewards = np.zeros(self.num_envs)
        ends = np.zeros((2, self.num_envs), np.bool_)
        infos: dict[str, Any] = {}
        for b, env in enumerate(self.envs):
            if self.over[b]:
                assert self.mode is AutoresetMode.NEXT_STEP, "stepped after its end"
                self.seen[b] = env.reset()[0]
                continue
            self.seen[b], rewards[b], ends[0, b], ends[1, b], _ = env.step(actions[b])
            if ends[:, b].any() and self.mode is AutoresetMode.SAME_STEP:
                self.finals[b] = self.seen[b]
                infos["final_obs"] = self.finals
                self.seen[b] = env.reset()[0]
        if self.mode is not AutoresetMode.SAME_STEP:
            self.over = ends.any(0)
        return self.seen, rewards, *ends, infos


def own(mode: AutoresetMode) -> Callable[..., Any]:
    def make(num_envs: int) -> Any:
        return VectorCounting(num_envs, mode)

    return make


def gymnasiums(mode: AutoresetMode) -> Callable[..., Any]:
    def make(num_envs: int) -> Any:
        return SyncVectorEnv([Counting] * num_envs, autoreset_mode=mode)

    return make


def native_runner(make: Callable[..., Any], width: int = 3) -> EnvRunner:
    return EnvRunner(EnvironmentFactory(make), "Probe-v0", width, Scripted, SEED, INDEX)


def sampled(rollouts: list[Rollout], b: int) -> Iterator[Transition]:
    """What the rollouts say happened in environment b."""
    for rollout in rollouts:
        following = cast("Array", rollout.next_observations())
        for t in range(rollout.length):
            if rollout.valid is None or rollout.valid[t, b]:
                yield (
                    cast("Array", rollout.observations)[t, b].tolist(),
                    int(rollout.actions[t, b]),
                    float(rollout.rewards[t, b]),
                    following[t, b].tolist(),
                    bool(rollout.terminated[t, b]),
                    bool(rollout.truncated[t, b]),
                )


def stepped(actions: list[int], b: int, fragment: int = 0) -> Iterator[Transition]:
    """The same by hand: one environment, seeded once, stepped with these actions."""
    env = Counting()
    observation, _ = env.reset(seed=vector_seed(SEED, INDEX, fragment) + b)
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
        observation = env.reset()[0] if terminated or truncated else following


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("make", [own, gymnasiums])
@pytest.mark.parametrize("width", [1, 3, 16])
@pytest.mark.parametrize("length", [1, 7, 32])
def test_rollouts_hold_exactly_what_stepping_by_hand_gives(
    make: Callable[..., Any], mode: AutoresetMode, width: int, length: int
) -> None:
    runner = native_runner(make(mode), width)
    rollouts = [runner.sample(length) for _ in range(64 // length)]
    count = 0
    for rollout in rollouts:
        rollout.check()
        assert (rollout.valid is not None) == (mode is AutoresetMode.NEXT_STEP)
        count += rollout.num_steps
    ends = set()
    for b in range(width):
        happened = list(sampled(rollouts, b))
        assert happened == list(stepped([step[1] for step in happened], b))
        ends |= {step[4:] for step in happened}
        count -= len(happened)
    assert count == 0
    assert ends == {(True, False), (False, True), (False, False)}


@pytest.mark.parametrize("mode", MODES)
def test_episodes_are_counted_without_the_rows_that_are_none(mode: AutoresetMode) -> None:
    runner = native_runner(own(mode), 2)
    rollouts = [runner.sample(3) for _ in range(20)]
    expected = []
    running = np.zeros((2, 2))
    for rollout in rollouts:
        for t in range(3):
            for b in range(2):
                if rollout.valid is not None and not rollout.valid[t, b]:
                    continue
                running[b] += rollout.rewards[t, b], 1
                if rollout.terminated[t, b] or rollout.truncated[t, b]:
                    expected.append((t, *running[b]))
                    running[b] = 0
    episodes = [episode for rollout in rollouts for episode in rollout.episodes]
    assert len(episodes) > 10
    assert [(e.step, e.length) for e in episodes] == [(t, n) for t, _, n in expected]
    returns = [total for _, total, _ in expected]
    np.testing.assert_allclose([e.episode_return for e in episodes], returns, rtol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_replay_holds_every_step_and_no_other(mode: AutoresetMode) -> None:
    runner = native_runner(own(mode), 3)
    env = Counting()
    replay = ReplayBuffer(Spaces(env.observation_space, env.action_space), 3, 600, 0)
    rollouts = [runner.sample(length) for length in (1, 1, 1, 5, 20, 9)]
    for rollout in rollouts:
        replay.add(rollout)
    happened = [list(sampled(rollouts, b)) for b in range(3)]
    assert len(replay) == sum(map(len, happened))
    indices = np.array([row * 3 + b for b in range(3) for row in range(len(happened[b]))])
    found = replay.gather(indices, 1, 0.5)
    steps = [step for lane in happened for step in lane]
    assert cast("Array", found.observations).tolist() == [step[0] for step in steps]
    assert found.actions.tolist() == [step[1] for step in steps]
    assert found.returns.tolist() == [step[2] for step in steps]
    assert cast("Array", found.next_observations).tolist() == [step[3] for step in steps]
    assert found.discounts.tolist() == [0.0 if step[4] else 0.5 for step in steps]


def same(one: Rollout, other: Rollout) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("observations", "actions", "rewards", "terminated", "final_observations")
    )


@pytest.mark.parametrize("mode", MODES)
def test_a_runner_that_was_lost_begins_afresh_and_says_what_that_cost(mode: AutoresetMode) -> None:
    runner, state = native_runner(own(mode)), RunnerState()
    for _ in range(3):
        state = state.after(runner.sample(7))
    unfinished = state.steps
    others = [native_runner(own(mode)) for _ in range(2)]
    assert [other.set_state(state) for other in others] == [unfinished, unfinished]
    assert unfinished > 0
    rollouts = [other.sample(9, fragment=3) for other in others]
    assert same(*rollouts)
    for b in range(3):
        happened = list(sampled([rollouts[0]], b))
        assert happened == list(stepped([step[1] for step in happened], b, fragment=3))


@pytest.mark.parametrize("mode", MODES)
def test_a_state_counts_what_each_environment_did(mode: AutoresetMode) -> None:
    runner, state = native_runner(own(mode)), RunnerState()
    counted = [[0, 0] for _ in range(3)]  # episodes that ended, steps since
    ended_before = False
    for length in (7, 30, 1, 4):
        rollout = runner.sample(length)
        state = state.after(rollout)
        ends = set(map(tuple, rollout.final_steps.tolist()))
        ended_before |= len(ends) > 0
        for t in range(length):
            for b, own_count in enumerate(counted):
                own_count[1] += rollout.valid is None or bool(rollout.valid[t, b])
                if (t, b) in ends:
                    own_count[:] = own_count[0] + 1, 0
        assert [[lane.episode, lane.steps] for lane in state.lanes] == counted
        assert state.steps == sum(steps for _, steps in counted)
        observations = cast("Array", rollout.observations)
        for b, lane in enumerate(state.lanes):
            assert lane.pieces is None
            assert np.array_equal(lane.observation[0], observations[-1, b])
    assert ended_before


class Parts(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The counting environment in parts: nested observations, an action of every kind."""

    def __init__(self) -> None:
        super().__init__(Counting())
        self.observation_space = spaces.Dict(
            {
                "steps": spaces.Discrete(20, start=-1),
                "rest": spaces.Tuple([spaces.Box(0, 1e4, (1,)), spaces.Box(-1, 9, (), np.int8)]),
            }
        )
        self.action_space = ACTIONS

    @staticmethod
    def _parts(observation: Any) -> Any:
        tag, steps, action = observation
        return {"rest": (np.float32([tag]), np.int8(action)), "steps": np.int64(steps)}

    def reset(self, **named: Any) -> tuple[Any, dict[str, Any]]:
        return self._parts(self.env.reset(**named)[0]), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        result = self.env.step(action["choice"])
        return self._parts(result[0]), *result[1:]


ACTIONS = spaces.Dict(
    {
        "choice": spaces.Discrete(3, start=5),
        "more": spaces.Tuple(
            [
                spaces.MultiDiscrete([2, 3], start=[1, 4]),
                spaces.MultiBinary((2, 2)),
                spaces.Box(-1, np.array([[1.0], [0.2]], np.float32), (2, 1), np.float32),
            ]
        ),
    }
)


class Wild:
    """Acts at random in any space, also outside a box."""

    def set_weights(self, weights: Any) -> None: ...

    def act(self, observations: Any, noise: Any) -> tuple[Array, dict[str, Array]]:
        return rows_of(ActionLayout(ACTIONS), noise), {}


def rows_of(layout: ActionLayout, noise: Array) -> Array:
    """Rows of actions [B, *act], from noise [B, columns]."""
    rows = noise.copy()
    for head in layout.heads:
        if head.kind != "gaussian":
            size = head.parameters.stop - head.parameters.start
            rows[:, head.columns] = np.floor(
                rows[:, head.columns] * (size if head.kind == "categorical" else 2)
            )
    return (rows if layout.shape else rows[:, 0]).astype(layout.dtype)


@pytest.mark.parametrize("mode", MODES)
def test_composite_spaces_pass_through(mode: AutoresetMode) -> None:
    def make(num_envs: int) -> Any:
        return SyncVectorEnv([Parts] * num_envs, autoreset_mode=mode)

    parts = EnvRunner(EnvironmentFactory(make), "Probe-v0", 3, Wild, SEED, INDEX)
    rollouts = [parts.sample(length) for length in (1, 20, 9)]
    for b in range(3):
        env = Counting()
        first = env.reset(seed=vector_seed(SEED, INDEX, 0) + b)[0].tolist()
        for rollout in rollouts:
            rollout.check()
            seen, after = rollout.observations, rollout.next_observations()
            assert isinstance(seen, dict)
            assert isinstance(after, dict)
            names = ("rest/0", "steps", "rest/1")
            for t in range(rollout.length):
                if rollout.valid is not None and not rollout.valid[t, b]:
                    continue
                assert [seen[name][t, b].item() for name in names] == first
                action = np.int64(rollout.actions[t, b, 0] + 5)
                following, reward, terminated, truncated, _ = env.step(action)
                assert rollout.rewards[t, b] == np.float32(reward)
                assert [after[name][t, b].item() for name in names] == following.tolist()
                ended = terminated or truncated
                first = (env.reset()[0] if ended else following).tolist()


@pytest.mark.parametrize("space", [ACTIONS, *ACTIONS["more"], spaces.Discrete(4, start=-2)])
def test_actions_of_a_batch_are_those_of_its_rows(space: spaces.Space[Any]) -> None:
    layout = ActionLayout(space)
    rows = rows_of(layout, draw_noise(layout, np.random.default_rng(0), 200))
    batch = gymnasium.vector.utils.batch_space(space, 200)
    together = batched_actions(layout, rows)
    assert batch.contains(together)
    alone = list(gymnasium.vector.utils.iterate(batch, together))
    for one, other in zip(alone, layout.decode(rows), strict=True):
        assert str(one) == str(other) or np.array_equal(one, other)


class Undeclared(VectorCounting):
    def __init__(self, num_envs: int, **metadata: Any) -> None:
        super().__init__(num_envs, AutoresetMode.NEXT_STEP)
        self.metadata = metadata


def test_how_it_goes_on_must_be_declared() -> None:
    with pytest.raises(UsageError, match=r"does not declare .* set metadata = .*NEXT_STEP"):
        EnvironmentFactory(Undeclared).vector(2)

    def unknown(num_envs: int) -> Any:
        return Undeclared(num_envs, autoreset_mode="sometimes")

    with pytest.raises(UsageError, match=r"mode 'sometimes', which is none .* set metadata"):
        EnvironmentFactory(unknown).vector(2)


def test_it_must_be_of_as_many_as_were_asked_for() -> None:
    def three(num_envs: int) -> Any:
        return VectorCounting(3, AutoresetMode.NEXT_STEP)

    with pytest.raises(UsageError, match=r"asked for num_envs=2 and made a vector .* of 3"):
        EnvironmentFactory(three).vector(2)

    def one(num_envs: int) -> Any:
        return Counting()

    with pytest.raises(UsageError, match="gave a Counting without num_envs, single_observation_"):
        EnvironmentFactory(one).vector(2)


def test_a_vector_environment_is_not_made_without_being_asked_how_many() -> None:
    with pytest.raises(UsageError, match=r"gave the vector environment VectorCounting.*num_envs"):
        EnvironmentFactory(lambda: VectorCounting(2, AutoresetMode.NEXT_STEP))()
    with pytest.raises(UsageError, match="'native', but the callable has no parameter num_envs"):
        EnvironmentFactory(Counting, {}, "native").vector(2)
    with pytest.raises(UsageError, match="'native', but it is registered without a vector_entry"):
        EnvironmentFactory("Acrobot-v1", {}, "native").vector(2)


@pytest.mark.parametrize(
    ("env", "vectorization", "native"),
    [
        ("CartPole-v1", "auto", False),
        ("CartPole-v1", "native", True),
        ("ALE/Pong-v5", "auto", True),
        ("ALE/Pong-v5", "single", False),
        (Counting, "auto", False),
        (Undeclared, "auto", True),
    ],
)
def test_who_is_asked_for_a_vector_environment(env: Any, vectorization: str, native: bool) -> None:
    assert EnvironmentFactory(env, {}, vectorization).native is native


class Faulty(VectorCounting):
    """Goes wrong in one way, at the third step or at the first end after it."""

    how = ""

    def __init__(self, num_envs: int) -> None:
        names = {"no final_obs": AutoresetMode.SAME_STEP}
        super().__init__(num_envs, names.get(self.how, AutoresetMode.NEXT_STEP))
        self.count = 0

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.count += 1
        seen, rewards, terminated, truncated, infos = super().step(actions)
        if self.how == "no final_obs":
            return seen, rewards, terminated, truncated, {}
        if self.how == "ends again":
            return seen, rewards, np.ones(self.num_envs, np.bool_), truncated, infos
        if self.count < 3:
            return seen, rewards, terminated, truncated, infos
        if self.how == "raises":
            raise ZeroDivisionError("inside")
        if self.how == "narrow":
            seen = seen[:, :2]
        if self.how == "nan":
            seen = np.where([[False], [True]], np.nan, seen)
        if self.how == "scalar":
            return seen, 1.0, terminated, truncated, infos
        return seen, rewards, terminated, truncated, infos


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no final_obs", r"environment \d\): an episode ended, and infos\['final_obs'\] does not"),
        ("ends again", "NEXT_STEP, but the step after an episode's end ended one too"),
        ("raises", r"Probe-v0 \(runner 2\): step\(.* raised ZeroDivisionError: inside"),
        ("narrow", r"step returned an observation of shape \(2, 2\), its space says \(2, 3\)"),
        ("nan", r"environment 1\), step \d of its episode: step returned the observation nan"),
        ("scalar", r"step returned rewards of shape \(\) .* expected numbers of shape \(2,\)"),
    ],
)
def test_what_goes_wrong_is_told(how: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Faulty, "how", how)
    runner = native_runner(Faulty, 2)
    with pytest.raises(EnvironmentFault, match=message):
        runner.sample(40)


def test_an_environment_that_is_only_there_vectorised_can_be_played_alone() -> None:
    for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
        env, plain = EnvironmentFactory(own(mode))(), Counting()
        for seed in (3, 4):
            assert env.reset(seed=seed)[0].tolist() == plain.reset(seed=seed)[0].tolist()
            ended = False
            while not ended:
                one, two = env.step(np.int64(6)), plain.step(np.int64(6))
                assert one[0].tolist() == two[0].tolist()
                assert one[1:4] == two[1:4]
                ended = one[2] or one[3]


def test_rewards_that_a_wrapper_gives_for_resets_do_not_count() -> None:
    class Cost(VectorCounting):
        def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
            seen, rewards, *rest = super().step(actions)
            return seen, rewards - 1.0, *rest  # of every row, as a wrapper would

    def costly(num_envs: int) -> Any:
        return Cost(num_envs, AutoresetMode.NEXT_STEP)

    plain, other = native_runner(own(AutoresetMode.NEXT_STEP)), native_runner(costly)
    one, two = plain.sample(40), other.sample(40)
    assert one.valid is not None
    np.testing.assert_allclose(two.rewards, one.rewards - one.valid, atol=1e-6)
    assert not two.rewards[~one.valid].any()
    lengths = [episode.length for episode in one.episodes]
    for a, b, length in zip(one.episodes, two.episodes, lengths, strict=True):
        assert b.episode_return == pytest.approx(a.episode_return - length)
