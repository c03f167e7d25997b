"""PPO beyond its golden numbers: first ratios, budgets, settings, masked rows."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from rl.algorithms.ppo import PPO, PPOBatch, PPOConfig, PPOLearner
from rl.core.data.rollout import Rollout
from rl.core.data.spaces import Spaces
from rl.env_runners.environments import describe_env
from rl.testing.algorithms import weights_of

QUICK: dict[str, Any] = {
    "env": "CartPole-v1",
    "rollout_length": 32,
    "minibatch_size": 32,
    "num_epochs": 2,
    "total_steps": 1000,
    "env_runners": {"num": 1, "envs_per_runner": 4},
}


def _learner_of(ppo: PPO) -> PPOLearner:
    learner = ppo.learners._learner
    assert isinstance(learner, PPOLearner)
    return learner


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"env": "Pendulum-v1"},
        {"env": "Pendulum-v1", "normalize_observations": True, "normalize_rewards": True},
        {"env": "Acrobot-v1", "normalize_observations": True, "activation": "gelu"},
    ],
)
def test_ratios_are_one_before_the_first_step_of_an_update(settings: dict[str, Any]) -> None:
    with PPO(PPOConfig(**QUICK | settings).with_learners(engine="torch")) as ppo:
        for _ in range(3):
            ppo.train()
        learner = _learner_of(ppo)
        batch = learner.prepare(Rollout.concatenate(ppo.sample(32)))
        assert isinstance(batch, PPOBatch)
        policy, _ = learner.module(batch.observations)
        ratio = (policy.log_prob(batch.actions) - batch.log_probs).exp()
        assert torch.allclose(ratio, torch.ones_like(ratio), atol=1e-4)


@pytest.mark.parametrize(
    ("runners", "envs", "length", "budget"),
    [(1, 4, 32, 1000), (3, 2, 16, 500), (2, 1, 50, 101), (5, 4, 2, 77), (1, 1, 7, 7), (4, 3, 8, 1)],
)
def test_the_budget_is_overshot_by_less_than_a_fragment(
    runners: int, envs: int, length: int, budget: int
) -> None:
    settings = {
        "rollout_length": length,
        "minibatch_size": 2,
        "num_epochs": 1,
        "total_steps": budget,
        "env_runners": {"num": runners, "envs_per_runner": envs},
    }
    with PPO(PPOConfig(**QUICK | settings)) as ppo:
        result = ppo.learn()
    assert 0 <= result.env_steps - budget < max(length * envs, runners * envs)


def test_another_seed_gives_other_weights_and_the_same_one_the_same() -> None:
    def learnt(seed: int) -> dict[str, bytes]:
        with PPO(PPOConfig(**QUICK, seed=seed)) as ppo:
            ppo.train()
            return weights_of(ppo)

    assert learnt(1) == learnt(1)
    assert learnt(1) != learnt(2)


SETTINGS: dict[str, Any] = {
    "gamma": 0.9,
    "gae_lambda": 0.5,
    "learning_rate": 1e-2,
    "learning_rate_final": 0.0,
    "hidden_sizes": (8,),
    "activation": "relu",
    "max_grad_norm": 0.01,
    "normalize_observations": True,
    "normalize_rewards": True,
    "rollout_length": 16,
    "num_epochs": 3,
    "minibatch_size": 16,
    "clip_range": 0.001,
    "clip_range_final": 0.001,
    "dual_clip": 1.0001,
    "value_clip_range": 0.001,
    "entropy_coef": 0.1,
    "value_coef": 0.1,
    "target_kl": 1e-9,
    "kl_coef": 1.0,
    "normalize_advantages": False,
    "shared_torso": True,
    "orthogonal_init": False,
    "log_std_init": -1.0,
    "adam_epsilon": 1e-2,
    "total_steps": 500,
    "env_kwargs": {"g": 5.0},
}
"""For each setting a value that must change what is learnt on Pendulum in three iterations."""

BASE = {
    **QUICK,
    "env": "Pendulum-v1",
    "learning_rate": 5e-3,
    "learning_rate_final": 1e-3,
    "num_epochs": 4,
}


def _weights(settings: dict[str, Any]) -> dict[str, bytes]:
    with PPO(PPOConfig(**settings)) as ppo:
        for _ in range(3):
            ppo.train()
        found = weights_of(ppo)
    return {name: value for name, value in found.items() if name.startswith("module.")}


@pytest.fixture(scope="module")
def base_weights() -> dict[str, bytes]:
    return _weights(BASE)


@pytest.mark.parametrize("name", SETTINGS)
def test_no_setting_is_without_effect(name: str, base_weights: dict[str, bytes]) -> None:
    assert _weights(BASE | {name: SETTINGS[name]}) != base_weights


def test_every_setting_of_the_learner_is_tried() -> None:
    elsewhere = {
        "env", "seed", "env_runners", "learners", "runtime", "evaluation", "checkpoints", "metrics",
        "image_encoder",  # by tests/algorithms/test_images.py
        "encoder", "encoder_kwargs",  # by test_custom_networks.py
        "kl_target",
        "memory", "memory_size", "sequence_length",  # by tests/algorithms/test_memory.py
    }  # fmt: skip
    assert {field.name for field in fields(PPOConfig)} - elsewhere == set(SETTINGS)


def test_the_penalty_moves_towards_its_target() -> None:
    config = PPOConfig(**BASE, kl_coef=1.0, kl_target=1e-6)
    with PPO(config) as ppo:
        ppo.train()
        assert ppo.train().metrics["train/kl_coef"] > 1.0


def test_a_target_divergence_ends_the_update_early() -> None:
    with PPO(PPOConfig(**BASE)) as free, PPO(PPOConfig(**BASE, target_kl=1e-6)) as bound:
        assert bound.train().metrics["train/n_updates"] < free.train().metrics["train/n_updates"]


@pytest.mark.parametrize("engine", ["torch", "numpy"])
def test_rows_that_are_no_steps_change_nothing(engine: str) -> None:
    """A dummy row, as next-step autoreset makes them, must not reach loss or statistics."""
    config = PPOConfig(**QUICK, normalize_rewards=True).with_learners(engine=engine)  # type: ignore[arg-type]
    spaces: Spaces = describe_env(config)
    with PPO(config) as ppo:
        rollout = _all_end(ppo.sample(8)[0], after=3)
    learner = PPOLearner(config, spaces, 4)
    masked = _with_dummy_row(rollout, after=3)
    other = PPOLearner(config, spaces, 4)
    plain, dummy = learner.prepare(rollout), other.prepare(masked)
    assert len(dummy.values) == len(plain.values) == rollout.num_steps == masked.num_steps
    rows = [row for row in range(9 * 4) if row // 4 != 4]
    assert masked.valid is not None
    assert np.flatnonzero(masked.valid.ravel()).tolist() == rows
    for name in ("actions", "log_probs", "advantages", "value_targets"):
        assert np.allclose(getattr(plain, name), getattr(dummy, name), atol=1e-5), name


def _all_end(rollout: Rollout, after: int) -> Rollout:
    """Lets a time limit end every episode in row `after`."""
    assert not (rollout.truncated | rollout.terminated).any(), "choose a seed without early ends"
    truncated = rollout.truncated.copy()
    truncated[after] = True
    finals = np.full_like(rollout.observations[0], 0.5)
    return replace(
        rollout,
        truncated=truncated,
        final_steps=np.argwhere(truncated),
        final_observations=finals,
    )


def _with_dummy_row(rollout: Rollout, after: int) -> Rollout:
    """Puts the dummy row of a next-step reset behind row `after`, in which every episode ended."""
    at = after + 1
    return replace(
        rollout,
        observations=np.insert(rollout.observations, at, 0.5, axis=0),
        actions=np.insert(rollout.actions, at, 0, axis=0),
        rewards=np.insert(rollout.rewards, at, 0.0, axis=0),
        terminated=np.insert(rollout.terminated, at, False, axis=0),
        truncated=np.insert(rollout.truncated, at, False, axis=0),
        extras={k: np.insert(v, at, 0.0, axis=0) for k, v in rollout.extras.items()},
        valid=np.insert(np.ones_like(rollout.terminated), at, False, axis=0),
    )
