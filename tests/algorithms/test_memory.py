"""PPO with memory: what is remembered, by whom, from where to where; the same bits everywhere."""

import os
import signal
from functools import partial
from typing import Any, cast

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rl.algorithms.ppo import PPO, PPOConfig, PPOLearner
from rl.configs.sac import SACConfig
from rl.core.data.rollout import Rollout
from rl.core.data.tree import Array
from rl.core.models.policy import Policy
from rl.core.records.checkpoint import read_checkpoint
from rl.env_runners import evaluation
from rl.env_runners.environments import EnvironmentFactory
from rl.env_runners.evaluation import evaluate_policy
from rl.env_runners.runner_state import RunnerState
from rl.errors import ConfigError, UsageError
from rl.testing import check_algorithm
from rl.testing.algorithms import weights_of
from rl.testing.memory_envs import TMaze, cartpole_without_velocities
from rl.testing.probe_envs import MaskedChoice

KINDS = ("gru", "lstm")
NATIVE = {"num": 2, "envs_per_runner": 3, "vectorization": "native"}
QUICK: dict[str, Any] = {
    "seed": 3,
    "hidden_sizes": (8,),
    "memory_size": 5,
    "rollout_length": 24,
    "sequence_length": 8,
    "minibatch_size": 48,
    "num_epochs": 2,
    "env_runners": {"num": 2, "envs_per_runner": 3},
    "runtime": {"engine": "inline"},
}


class Drifting(gymnasium.Env[Any, Any]):
    """Random observations; episodes of 1 to 9 steps that end in both ways."""

    observation_space = spaces.Box(-9.0, 9.0, (2,), np.float32)
    action_space = spaces.Discrete(3)

    def _observe(self) -> Any:
        return self.np_random.normal(size=2).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(1, 10))
        return self._observe(), {}

    def step(self, action: Any) -> Any:
        self.left -= 1
        over, cut = self.left == 0, bool(self.np_random.random() < 0.5)
        return self._observe(), float(self.np_random.random()), over and not cut, over and cut, {}


class Slipping(Drifting):
    """Raises now and then, also in the first step of an episode."""

    def step(self, action: Any) -> Any:
        if self.np_random.random() < 0.1:
            raise RuntimeError("slipped")
        return super().step(action)


def drifting_side_by_side(num_envs: int, mode: AutoresetMode) -> Any:
    return SyncVectorEnv([Drifting] * num_envs, autoreset_mode=mode)


NATIVE_MODES = {
    mode.name: (partial(drifting_side_by_side, mode=mode), NATIVE) for mode in AutoresetMode
}
WORLDS: dict[str, Any] = {
    "single": (Drifting, QUICK["env_runners"]),
    "made anew": (Slipping, QUICK["env_runners"] | {"max_env_failures": 1000}),
    **NATIVE_MODES,
}


def config_of(kind: Any, env: Any = Drifting, **settings: Any) -> PPOConfig:
    return PPOConfig(**QUICK | {"env": env, "memory": kind} | settings)


def learner_of(ppo: PPO) -> PPOLearner:
    return cast("PPOLearner", ppo.learners._learner)  # type: ignore[union-attr]


def stir(ppo: PPO) -> None:
    """Weights with which the memory matters: the first ones hardly look at it."""
    vector = learner_of(ppo).flat.vector
    vector.add_(torch.randn(len(vector), generator=torch.Generator().manual_seed(1)) * 0.5)
    ppo.publish_weights()


def third_rollout(ppo: PPO) -> Rollout:
    """One that begins in the midst of episodes."""
    stir(ppo)
    rollout = [Rollout.concatenate(ppo.sample(24)) for _ in range(3)][-1]
    rollout.check()
    assert rollout.memory is not None
    assert rollout.memory[0].any(1).sum() >= 3
    assert rollout.terminated.any()
    assert rollout.truncated.any()
    return rollout


@torch.no_grad()
def by_hand(module: Any, rollout: Rollout) -> dict[str, Array]:
    """Values, log-probabilities and memory, one step of one environment at a time."""
    observations, finals = (
        torch.tensor(cast("Array", rows))
        for rows in (rollout.observations, rollout.final_observations)
    )
    ends = {(int(t), int(b)): k for k, (t, b) in enumerate(rollout.final_steps)}
    time, width = rollout.rewards.shape
    assert rollout.memory is not None
    found = {
        "values": np.zeros((time + 1, width)),
        "final_values": np.zeros(len(ends)),
        "log_probs": np.zeros((time, width)),
        "memory": np.zeros_like(rollout.memory),
    }
    for b in range(width):
        memory = torch.tensor(rollout.memory[0, b : b + 1])
        for t in range(time):
            found["memory"][t, b] = memory
            if rollout.valid is not None and not rollout.valid[t, b]:
                memory = torch.zeros_like(memory)
                continue
            row = observations[t, b : b + 1]
            found["values"][t, b] = module.value(row, memory)
            policy = module.distribution(row, memory)
            found["log_probs"][t, b] = policy.log_prob(torch.tensor(rollout.actions[t, b])[None])
            _, memory = module.remember(module.encoder(row), _one(memory))
            if (t, b) in ends:
                final = finals[ends[t, b]][None]
                found["final_values"][ends[t, b]] = module.value(final, memory)
                memory = torch.zeros_like(memory)
        found["memory"][time, b] = memory
        found["values"][time, b] = module.value(observations[time, b : b + 1], memory)
    return found


def _one(memory: Any) -> Any:
    from rl.core.models.memory import Packed

    return Packed.single(memory)


def advantages_by_hand(
    rollout: Rollout, hand: dict[str, Array], gamma: float, gae_lambda: float
) -> Array:
    time, width = rollout.rewards.shape
    ends = {(int(t), int(b)): k for k, (t, b) in enumerate(rollout.final_steps)}
    found = np.zeros((time, width))
    for b in range(width):
        later = 0.0
        for t in reversed(range(time)):
            if rollout.valid is not None and not rollout.valid[t, b]:
                continue
            end = ends.get((t, b))
            following = hand["values"][t + 1, b] if end is None else hand["final_values"][end]
            following *= not rollout.terminated[t, b]
            later = later if end is None else 0.0
            delta = rollout.rewards[t, b] + gamma * following - hand["values"][t, b]
            later = found[t, b] = delta + gamma * gae_lambda * later
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world", WORLDS)
def test_the_learner_sees_what_the_runner_saw(world: str, kind: Any) -> None:
    """Of fragments that begin and end in mid episode, with ends of both kinds inside."""
    env, runners = WORLDS[world]
    with config_of(kind, env, env_runners=runners).build() as ppo:
        rollout = third_rollout(ppo)
        assert (rollout.valid is not None) == (world == "NEXT_STEP")
        learner = learner_of(ppo)
        hand = by_hand(learner.module, rollout)
        batch = learner.prepare(rollout)
        config = ppo.config
        np.testing.assert_allclose(rollout.memory, hand["memory"], atol=1e-5)
        steps = np.ones_like(rollout.terminated) if rollout.valid is None else rollout.valid
        np.testing.assert_allclose(
            rollout.extras["log_prob"][steps], hand["log_probs"][steps], atol=1e-5
        )
        order = steps.T  # environment by environment
        expected = {
            "values": hand["values"][:-1],
            "advantages": advantages_by_hand(rollout, hand, config.gamma, config.gae_lambda),
            "log_probs": hand["log_probs"],
        }
        for name, rows in expected.items():
            np.testing.assert_allclose(getattr(batch, name), rows.T[order], atol=2e-5, err_msg=name)
        seen: list[Any] = []
        with torch.no_grad():
            for part in cast("Any", learner.minibatches(batch)):
                policy, values = learner.module(part.observations, part.packed)
                torch.testing.assert_close(
                    policy.log_prob(part.actions), part.log_probs, rtol=0, atol=1e-5
                )
                torch.testing.assert_close(values, part.values, rtol=0, atol=1e-5)
                seen += part.value_targets.tolist()
    assert sorted(seen) == sorted(batch.value_targets.tolist()), "each step once in an epoch"


@pytest.mark.parametrize("kind", KINDS)
def test_ratios_are_one_before_the_first_step_of_an_update(kind: Any) -> None:
    whole = {"num_epochs": 1, "minibatch_size": 144}
    with config_of(kind, **whole).build() as ppo:
        stir(ppo)
        for _ in range(3):
            metrics = ppo.train().metrics
            assert metrics["train/approx_kl"] == pytest.approx(0, abs=1e-6)
            assert metrics["train/clip_fraction"] == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world", WORLDS)
def test_nothing_seen_before_an_episode_matters_in_it(world: str, kind: Any) -> None:
    """Replaced in the rollout, it changes no value behind the end."""
    env, runners = WORLDS[world]
    with config_of(kind, env, env_runners=runners).build() as ppo:
        rollout = third_rollout(ppo)
        learner, order = learner_of(ppo), None
        t, b = rollout.final_steps[len(rollout.final_steps) // 2].tolist()
        before = learner.prepare(rollout)
        observations = cast("Array", rollout.observations).copy()
        observations[: t + 1, b] += 1.0
        changed = learner.prepare(Rollout(**vars(rollout) | {"observations": observations}))
        rows = learner.recurrent.rows
        width = rollout.num_environments
        order = (rows % width == b) & (rows // width <= t)
    differs = (before.values - changed.values).abs() > 1e-4
    assert differs[order].any()
    assert not differs[~order].any()


def learnt(config: PPOConfig, kills: int = 0) -> dict[str, bytes]:
    with config.build() as ppo:
        for iteration in range(4):
            ppo.train()
            if iteration < kills:
                runners: Any = ppo.env_runners._runners
                os.kill(runners[iteration].pid, signal.SIGKILL)
        return weights_of(ppo)


@pytest.mark.parametrize("kind", KINDS)
def test_engines_and_kills_change_nothing(kind: Any) -> None:
    inline = learnt(config_of(kind, runtime={"engine": "inline"}))
    assert learnt(config_of(kind, runtime={"engine": "process"}), kills=2) == inline
    other = learnt(config_of(kind, runtime={"engine": "inline"}, sequence_length=4))
    assert other != inline


def test_a_runner_made_anew_remembers_what_the_old_one_did() -> None:
    with config_of("lstm").build() as one, config_of("lstm").build() as two:
        for ppo in (one, two):
            stir(ppo)
        one.sample(7)
        assert two.env_runners.set_states(one.env_runners.states) == 0
        first, second = one.sample(5), two.sample(5)
    for mine, theirs in zip(first, second, strict=True):
        assert mine.memory is not None
        assert mine.memory[0].any()
        assert theirs.memory is not None
        assert mine.memory.tobytes() == theirs.memory.tobytes()
        assert mine.actions.tobytes() == theirs.actions.tobytes()


def test_of_an_episode_that_cannot_be_played_again_nothing_is_remembered() -> None:
    env, runners = WORLDS["SAME_STEP"]
    with config_of("gru", env, env_runners=runners).build() as ppo:
        stir(ppo)
        states: list[RunnerState] = []
        rollouts = ppo.sample(7)
        states = [RunnerState().after(rollout) for rollout in rollouts]
        assert any(lane.memory is not None and lane.memory.any() for lane in states[0].lanes)
    with config_of("gru", env, env_runners=runners).build() as ppo:
        assert ppo.env_runners.set_states(states) > 0
        for rollout in ppo.sample(3):
            assert rollout.memory is not None
            assert not rollout.memory[0].any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "settings",
    [
        {"normalize_observations": True, "normalize_rewards": True},
        {"env": MaskedChoice, "shared_torso": True},
        {"env": partial(MaskedChoice, "info"), "normalize_observations": True},
        {"env": "Pendulum-v1", "kl_coef": 0.2, "value_clip_range": 0.2, "dual_clip": 3.0},
        {"env": NATIVE_MODES["NEXT_STEP"][0], "env_runners": NATIVE},
    ],
)
def test_it_does_what_every_algorithm_must(settings: dict[str, Any], kind: Any) -> None:
    check_algorithm(config_of(kind, **settings))


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_in_mid_episode_goes_on_with_the_same_bits(kind: Any, tmp_path: Any) -> None:
    with config_of(kind).build() as ppo, config_of(kind).build() as resumed:
        stir(ppo)
        ppo.train()
        ppo.save(tmp_path / "checkpoint")
        states = ppo.env_runners.states
        assert any(lane.memory is not None and lane.memory.any() for lane in states[0].lanes)
        assert resumed.restore(read_checkpoint(tmp_path / "checkpoint")) == 0
        for _ in range(2):
            ppo.train()
            resumed.train()
        assert weights_of(resumed) == weights_of(ppo)


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_remembers_within_an_episode_and_not_beyond(
    kind: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit the same from `policy/` alone; each episode as if played first."""
    with config_of(kind, "Pendulum-v1").build() as ppo:
        stir(ppo)
        within = ppo.evaluate(4, seed=7)
        ppo.policy.save(tmp_path / "policy")
    alone = Policy.load(tmp_path / "policy")
    alone.act(np.zeros(3, np.float32))  # whatever it saw before
    make = EnvironmentFactory("Pendulum-v1")
    assert evaluate_policy(alone, make, 4, 7) == within
    monkeypatch.setattr(evaluation, "MOST_ENVIRONMENTS", 1)  # one episode after the other
    assert evaluate_policy(alone, make, 4, 7).returns == pytest.approx(within.returns, rel=1e-3)
    monkeypatch.undo()
    forgets = Policy.load(tmp_path / "policy")
    everything = forgets.reset
    act_batch = forgets.act_batch

    def forgetful(observations: Any, deterministic: bool = True) -> Any:
        everything()
        return act_batch(observations, deterministic)

    forgets.act_batch = forgetful  # type: ignore[method-assign]
    assert evaluate_policy(forgets, make, 4, 7) != within


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"memory": None, "memory_size": 7}, "memory_size: 7 has no effect without memory"),
        ({"memory": None, "memory_size": 64}, "sequence_length: 8 has no effect without memory"),
        ({"rollout_length": 30}, "rollout_length: 30 is not made of whole sequences.* write 32"),
        ({"minibatch_size": 50}, "minibatch_size: 50 is not made of whole sequences.* write 56"),
        ({"memory": "rnn"}, "memory: must be one of gru, lstm or none"),
        (
            {"minibatch_size": 16, "learners": {"num": 3}},
            "16 is 2 sequences of 8 steps .* each of 3 learners .* write 24 or more",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        config_of(**{"kind": "gru", **settings}).checked() if "memory" not in settings else (
            PPOConfig(**QUICK | {"env": Drifting} | settings).checked()
        )
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("name", ["memory", "memory_size", "sequence_length", "burn_in"])
def test_an_algorithm_without_memory_names_the_one_that_has_it(name: str) -> None:
    value: Any = {"memory": "gru"}.get(name, 8)
    with pytest.raises(
        ConfigError, match=r"ppo and dqn have memory: choose one .*FrameStack"
    ) as refused:
        SACConfig(**{name: value})
    assert refused.value.exit_code == 2


def test_numpy_leaves_learning_with_memory_to_torch_and_says_why() -> None:
    with config_of("gru").build() as ppo:
        assert ppo.learners.engine == "torch"
        assert ppo.learners.engine_obstacles == ("memory (gru)",)
    with pytest.raises(UsageError, match=r"numpy.*cannot learn this run: memory \(lstm\)"):
        config_of("lstm", learners={"engine": "numpy"}).build()


@pytest.mark.parametrize("name", ["memory", "memory_size", "sequence_length", "orthogonal_init"])
def test_no_setting_of_it_is_without_effect(name: str) -> None:
    other: Any = {"memory": "lstm", "memory_size": 6, "sequence_length": 4}.get(name, False)
    assert learnt(config_of("gru")) != learnt(PPOConfig(**vars(config_of("gru")) | {name: other}))


def maze(kind: Any, seed: int) -> PPOConfig:
    memory = {"memory": kind, "memory_size": 32, "sequence_length": 32} if kind else {}
    return PPOConfig(
        env=TMaze,
        seed=seed,
        total_steps=60_000,
        gamma=0.98,
        learning_rate=3e-3,
        learning_rate_final=0.0,
        hidden_sizes=(32,),
        rollout_length=128,
        minibatch_size=256,
        num_epochs=4,
        entropy_coef=0.01,
        env_runners={"num": 1, "envs_per_runner": 8},
        **memory,
    )


def found_right(kind: Any, seed: int) -> float:
    """Share of 200 greedy episodes that turned the right way."""
    with maze(kind, seed).build() as ppo:
        ppo.learn()
        return float(np.mean(np.array(ppo.evaluate(200).returns) > 0.5))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KINDS)
def test_a_maze_that_needs_memory_is_solved_with_it(kind: Any) -> None:
    assert sorted(found_right(kind, seed) for seed in (1, 2, 3))[1] >= 0.95


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_maze_that_needs_memory_is_not_solved_without() -> None:
    assert all(found_right(None, seed) <= 0.6 for seed in (1, 2, 3))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_cartpole_without_velocities_balances_with_memory(kind: Any) -> None:
    found = []
    for seed in (1, 2, 3):
        config = PPOConfig(
            env=cartpole_without_velocities,
            seed=seed,
            total_steps=100_000,
            gamma=0.98,
            gae_lambda=0.9,
            learning_rate=2e-3,
            learning_rate_final=0.0,
            clip_range_final=0.0,
            hidden_sizes=(64,),
            rollout_length=64,
            minibatch_size=256,
            num_epochs=10,
            memory=kind,
            memory_size=64,
            sequence_length=32,
            normalize_observations=True,  # of an angle of 0.2 a fresh memory sees little
            normalize_rewards=True,
            env_runners={"num": 1, "envs_per_runner": 8},
        )
        with config.build() as ppo:
            ppo.learn()
            found.append(ppo.evaluate(num_episodes=20).mean)
    assert sorted(found)[1] >= 400, found
