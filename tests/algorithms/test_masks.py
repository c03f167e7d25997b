"""Algorithms under action masks: never a forbidden action, exact targets, the same bits."""

from functools import partial
from typing import Any

import numpy as np
import pytest

from rl.algorithms.algorithm import Algorithm
from rl.configs.dqn import DQNConfig
from rl.configs.ppo import PPOConfig
from rl.configs.sac import SACConfig
from rl.testing import check_algorithm
from rl.testing.algorithms import weights_of
from rl.testing.probe_envs import MaskedChoice, MaskedSuccessor

ATOMS = {"distributional": True, "v_min": -3.0, "v_max": 12.0, "num_atoms": 31}
TORCH = {"learners": {"engine": "torch"}}
DQN_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": TORCH,
    "double": {"double": True, **TORCH},
    "plain in numpy": {},
    "double in numpy": {"double": True},
    "distributional": ATOMS,
    "all": {"double": True, "dueling": True, "n_step": 3, "prioritized": True, **ATOMS},
}
QUICK: dict[str, Any] = {"seed": 3, "gamma": 0.9, "hidden_sizes": (16,)}
DQN_QUICK = QUICK | {
    "learning_rate": 1e-2,
    "learning_rate_final": 1e-4,
    "buffer_size": 1000,
    "rollout_length": 8,
    "target_update_interval": 32,
    "env_runners": {"num": 2, "envs_per_runner": 2},
}
PPO_QUICK = QUICK | {
    "learning_rate": 1e-2,
    "rollout_length": 32,
    "minibatch_size": 64,
    "num_epochs": 4,
    "env_runners": {"num": 2, "envs_per_runner": 4},
}


SAC_QUICK = QUICK | {
    "learning_rate": 3e-3,
    "buffer_size": 1000,
    "batch_size": 32,
    "rollout_length": 8,
    "updates_per_step": 0.25,
    "ent_coef": 0.01,
    "env_runners": {"num": 2, "envs_per_runner": 2},
}
QUICK_OF: dict[str, Any] = {
    "dqn": (DQN_QUICK, DQNConfig),
    "ppo": (PPO_QUICK, PPOConfig),
    "sac": (SAC_QUICK, SACConfig),
}


def config_of(algo: str, env: Any, steps: int, **settings: Any) -> Any:
    quick, kind = QUICK_OF[algo]
    return kind(**quick | {"env": env, "total_steps": steps} | settings)


@pytest.mark.parametrize(
    ("option", "where"), [*((option, "observation") for option in DQN_OPTIONS), ("all", "info")]
)
def test_targets_take_the_best_of_what_the_successor_allows(option: str, where: Any) -> None:
    env = partial(MaskedSuccessor, where)
    with config_of("dqn", env, 2500, **DQN_OPTIONS[option]).build() as dqn:
        dqn.learn()
        key = "state" if where == "observation" else "observation"
        values = dqn.policy.q_values(
            {key: np.eye(2, dtype=np.float32), "action_mask": np.ones((2, 2), np.int8)}
        )
    assert values[0].tolist() == pytest.approx([0.9] * 2, abs=0.03), "unmasked it is 9"
    assert values[1].tolist() == pytest.approx([1.0, 10.0], abs=0.05)


@pytest.mark.parametrize("algo", ["dqn", "ppo", "sac"])
@pytest.mark.parametrize("where", ["observation", "info"])
def test_the_best_of_what_is_allowed_is_learnt(algo: str, where: Any) -> None:
    """The environment ends the run at a forbidden action; random warm-up counts too."""
    env = partial(MaskedChoice, where)
    with config_of(algo, env, 5000, learning_rate=3e-3).build() as algorithm:
        algorithm.learn()
        assert algorithm.evaluate(num_episodes=100).mean == pytest.approx(10 * 34 / 45, abs=0.4)


def learnt(config: Any) -> tuple[Algorithm[Any], dict[str, bytes], float]:
    with config.build() as algorithm:
        algorithm.learn()
        return algorithm, weights_of(algorithm), algorithm.evaluate(num_episodes=200).mean


@pytest.mark.parametrize("algo", ["dqn", "ppo", "sac"])
@pytest.mark.parametrize(
    "steps", [2000, pytest.param(100_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_engines_agree_and_never_give_what_is_forbidden(algo: str, steps: int) -> None:
    options = DQN_OPTIONS["all"] if algo == "dqn" and steps < 5000 else {}
    inline, process = (
        learnt(config_of(algo, MaskedChoice, steps, runtime={"engine": engine}, **options))
        for engine in ("inline", "process")
    )
    assert inline[1] == process[1]
    for algorithm, _, mean in (inline, process):
        assert algorithm.env_steps >= steps
        if steps > 5000:
            assert mean > 7.2, "any allowed action gives 5, the best 7.56"


@pytest.mark.parametrize("algo", ["dqn", "ppo", "sac"])
@pytest.mark.parametrize("where", ["observation", "info"])
def test_masked_algorithms_do_what_every_algorithm_must(algo: str, where: Any) -> None:
    settings = {"normalize_observations": True}
    check_algorithm(config_of(algo, partial(MaskedChoice, where), 4000, **settings))


def test_ppo_scores_an_action_under_the_mask_it_was_drawn_with() -> None:
    """Before the first step the ratio is 1 everywhere; scored without the mask it would not be."""
    once = {"num_epochs": 1, "minibatch_size": 256}
    with config_of("ppo", MaskedChoice, 4096, **once).build() as ppo:
        for _ in range(3):
            metrics = ppo.train().metrics
            assert metrics["train/approx_kl"] == pytest.approx(0, abs=1e-6)
            assert metrics["train/clip_fraction"] == 0


class OneChoice(MaskedChoice):
    """Allows one action at a time."""

    def answer(self, state: int, mask: Any) -> Any:
        return super().answer(state, mask * (mask.cumsum() == 1))


def test_entropy_counts_what_is_allowed_alone() -> None:
    with config_of("ppo", OneChoice, 4096, entropy_coef=0.1).build() as ppo:
        metrics = ppo.train().metrics
    assert metrics["train/entropy_loss"] == pytest.approx(0, abs=1e-6)
    assert metrics["train/policy_gradient_loss"] == pytest.approx(0, abs=1e-6)
