"""Atari through ale_py's vector environment: pixels, scores, lives."""

from typing import Any

import gymnasium
import numpy as np
import pytest

from rl.configs.ppo import PPOConfig
from rl.core.data.spaces import FrameStack
from rl.core.data.tree import Array
from rl.env_runners.env_runner import EnvRunner
from rl.env_runners.environments import EnvironmentFactory, describe_env
from rl.errors import UsageError

ale_py = pytest.importorskip("ale_py")
pytest.importorskip("cv2")


class Random:
    """Presses every button as often."""

    def set_weights(self, weights: Any) -> None: ...

    def act(self, observations: Any, noise: Any) -> tuple[Array, dict[str, Array]]:
        return (noise[:, 0] * 4).astype(np.int64), {}


def runner_of(env: str, **env_kwargs: Any) -> EnvRunner:
    return EnvRunner(EnvironmentFactory(env, env_kwargs), env, 2, Random, 0, 0)


def test_an_id_is_enough() -> None:
    spaces = describe_env(PPOConfig(env="ALE/Pong-v5"))
    assert spaces.observation.shape == (4, 84, 84)
    assert spaces.observation.dtype == np.uint8
    assert spaces.stack == FrameStack(4, "zero")
    lives = PPOConfig(env="ALE/Pong-v5", env_kwargs={"terminal_on_life_loss": True})
    assert describe_env(lives).stack is None  # such an episode may begin with four frames
    with pytest.raises(UsageError, match=r"env_kwargs episodic_lives cannot be set; what can: .*"):
        EnvironmentFactory("ALE/Pong-v5", {"episodic_lives": True})()
    with pytest.raises(UsageError, match="terminal_on_life_loss needs games that go on"):
        EnvironmentFactory("ALE/Pong-v5", {"terminal_on_life_loss": True}, "single")()


def test_pixels_are_those_of_gymnasiums_preprocessing() -> None:
    settings = {"noop_max": 0, "use_fire_reset": False, "repeat_action_probability": 0.0}
    fast = EnvironmentFactory("ALE/Pong-v5", settings)()
    slow = EnvironmentFactory("ALE/Pong-v5", settings).for_evaluation("rgb_array")()
    one, two = fast.reset(seed=3)[0], slow.reset(seed=3)[0]
    total = 0.0
    for action in np.random.default_rng(0).integers(0, 6, 300):
        assert np.array_equal(one, two)
        one, clipped, *ended, _ = fast.step(action)
        two, reward, *_ = slow.step(action)
        assert clipped == np.sign(float(reward))
        total += float(reward)
        assert not any(ended)
    assert total < 0
    frame = slow.render()
    assert np.asarray(frame).shape == (210, 160, 3)


def _play(runner: EnvRunner, steps: int) -> list[Any]:
    rollouts = [runner.sample(200) for _ in range(steps // 200)]
    for rollout in rollouts:
        rollout.check()
        assert set(np.unique(rollout.rewards)) <= {-1.0, 0.0, 1.0}
    return rollouts


def test_a_game_is_one_episode_with_its_own_score_however_many_lives_end_in_it() -> None:
    settings = {"repeat_action_probability": 0.0}
    whole = _play(runner_of("ALE/Breakout-v5", **settings), 400)
    lives = _play(runner_of("ALE/Breakout-v5", terminal_on_life_loss=True, **settings), 400)
    games = [episode for rollout in whole for episode in rollout.episodes]
    # The actor looks at nothing, so both play the same games.
    told = [episode for rollout in lives for episode in rollout.episodes]
    assert [e._replace(seconds=0) for e in told] == [e._replace(seconds=0) for e in games]
    assert games
    ends = sum(len(rollout.final_steps) for rollout in whole)
    assert ends == len(games)
    lost = sum(len(rollout.final_steps) for rollout in lives)
    assert lost >= 5 * ends  # a game has five lives
    for one, other in zip(whole, lives, strict=True):
        assert np.array_equal(one.observations, other.observations)
        assert not other.truncated.any()
        ended = dict(zip(map(tuple, one.final_steps.tolist()), one.final_observations, strict=True))
        steps = zip(other.final_steps.tolist(), other.final_observations, strict=True)
        for (t, b), final in steps:
            follows = ended.get((t, b), other.observations[t + 1, b])  # type: ignore[index]
            assert np.array_equal(final, follows)


def test_a_score_is_not_clipped() -> None:
    rollouts = _play(runner_of("ALE/SpaceInvaders-v5"), 1000)
    episodes = [episode for rollout in rollouts for episode in rollout.episodes]
    assert episodes
    for episode in episodes:
        assert episode.episode_return % 5 == 0  # an invader is worth 5 to 30
        assert episode.episode_return >= 5
    clipped = sum(rollout.rewards.sum() for rollout in rollouts)
    assert sum(episode.episode_return for episode in episodes) > 3 * clipped


def test_the_final_observation_is_the_one_before_the_reset() -> None:
    settings = {"repeat_action_probability": 0.0}
    runner = runner_of("ALE/Breakout-v5", **settings)
    rollouts = _play(runner, 400)
    vector_env: Any = gymnasium.make_vec("ALE/Breakout-v5", num_envs=2, **settings)
    from rl.env_runners.native import vector_seed

    vector_env.reset(seed=vector_seed(0, 0, 0))
    passed = [False, False]
    checked = 0
    for rollout in rollouts:
        finals = dict(
            zip(map(tuple, rollout.final_steps.tolist()), rollout.final_observations, strict=True)
        )
        for t, actions in enumerate(rollout.actions):
            if any(passed):
                return  # from here on the two are out of step: a reset takes a row in one of them
            observations, _, terminated, *_ = vector_env.step(actions)
            for b in np.flatnonzero(terminated).tolist():
                assert np.array_equal(finals[t, b], observations[b])
                passed[b] = True
                checked += 1
    assert checked
