"""Learners that share every batch have the gradients of one that has it all, to 1e-6."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from rl.algorithms.dqn import DQNConfig
from rl.algorithms.ppo import PPOConfig
from rl.algorithms.sac import SACConfig
from rl.algorithms.td3 import TD3Config
from rl.configs.algorithm_config import AlgorithmConfig
from rl.core.data.rollout import Rollout
from rl.core.learning.learner import Learner, Metrics
from rl.core.learning.ranks import Ranks
from tests.core.learning.test_ranks import side_by_side

PPO: dict[str, Any] = {
    "env": "Pendulum-v1",
    "hidden_sizes": (16,),
    "rollout_length": 25,
    "minibatch_size": 33,  # 100 = 3 * 33 + 1: in the last one a single row
    "num_epochs": 1,
    "entropy_coef": 0.01,
    "normalize_observations": True,
    "normalize_rewards": True,
    "env_runners": {"num": 1, "envs_per_runner": 4},
}
DQN: dict[str, Any] = {
    "env": "CartPole-v1",
    "hidden_sizes": (16,),
    "rollout_length": 16,
    "buffer_size": 100,
    "batch_size": 7,
    "learning_starts": 10,
    "updates_per_step": 0.1,
    "total_steps": 1000,
    "normalize_observations": True,
    "normalize_rewards": True,
    "env_runners": {"num": 1, "envs_per_runner": 4},
}
SAC = DQN | {"env": "Pendulum-v1"}
RAINBOW = {"double": True, "dueling": True, "prioritized": True, "n_step": 3}
CASES = {
    "ppo": PPOConfig(**PPO),
    "ppo in torch": PPOConfig(**PPO, learners={"engine": "torch"}),
    "ppo with every term": PPOConfig(
        **PPO | {"env": "CartPole-v1", "kl_coef": 0.1, "value_clip_range": 0.2, "dual_clip": 3.0}
    ),
    "ppo with memory": PPOConfig(  # chunks of as many steps as are left where some are none
        **PPO
        | {
            "env": "CartPole-v1",
            "env_runners": {"num": 1, "envs_per_runner": 4, "vectorization": "native"},
            "memory": "gru",
            "sequence_length": 5,
            "minibatch_size": 30,
        }
    ),
    "dqn": DQNConfig(**DQN),
    "dqn in torch": DQNConfig(**DQN, **RAINBOW, learners={"engine": "torch"}),
    "dqn with priorities": DQNConfig(**DQN, **RAINBOW),
    "dqn with memory": DQNConfig(  # windows of as many steps as are left of their episode
        **DQN | {"batch_size": 35}, **RAINBOW, memory="lstm", sequence_length=5, burn_in=2
    ),
    "sac": SACConfig(**SAC),
    "sac with priorities": SACConfig(**SAC, n_step=2, prioritized=True),
    "sac, discrete": SACConfig(**DQN),
    "td3": TD3Config(**SAC | {"updates_per_step": 0.2}),  # its policy moves at every other one
    "dqn, noisy distributions": DQNConfig(**DQN, noisy=True, distributional=True, v_min=0, v_max=9),
}


def _rollouts(config: AlgorithmConfig, iterations: int) -> list[list[Rollout]]:
    """Random play, always of the first weights."""
    with config.build() as algorithm:
        return [algorithm.sample(config.rollout_length) for _ in range(iterations)]  # type: ignore[attr-defined]


def _learn(
    learner: Learner[Any],
    rollouts: Sequence[Sequence[Rollout]],
    ranks: Ranks | None = None,
) -> tuple[list[Tensor], list[Metrics], dict[str, Any], list[Any]]:
    """Gradients of every step, metrics of every update, the state, the draws."""
    if ranks is not None:
        learner.join(ranks)
    gradients: list[Tensor] = []
    agree = learner.flat.agree

    def watched() -> None:
        agree()
        gradients.append(learner.flat.gradient.clone())

    learner.flat.agree = watched  # type: ignore[method-assign]
    metrics, env_steps = [], 0
    for parts in rollouts:
        metrics.append(learner.update(parts, env_steps))
        env_steps += sum(part.num_steps for part in parts)
    experience: Any = learner.experience
    drawn = [] if experience is None else list(experience.replay.position())
    return gradients, metrics, learner.get_state(), drawn


def _learner(config: AlgorithmConfig) -> Learner[Any]:
    with config.build() as algorithm:
        return algorithm.make_learner()


def _side_by_side(
    config: AlgorithmConfig, size: int, rollouts: Sequence[Sequence[Rollout]]
) -> list[Any]:
    learners = [_learner(config) for _ in range(size)]  # one by one: torch has one generator
    return side_by_side(size, lambda ranks: _learn(learners[ranks.rank], rollouts, ranks))


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_one_learner(case: str, size: int) -> None:
    config = CASES[case]
    rollouts = _rollouts(config, 3)
    alone, metrics, state, drawn = _learn(_learner(config), rollouts)
    assert len(alone) >= 10
    assert max(float(gradient.abs().max()) for gradient in alone) > 1e-3
    shared = _side_by_side(config, size, rollouts)
    for gradients, told, its_state, its_drawn in shared:
        assert len(gradients) == len(alone)
        # Weights of later steps differ by the rounding of those before, so only the first is to
        # 1e-6 of its own; the others show that nothing drifts.
        torch.testing.assert_close(gradients[0], alone[0], rtol=1e-6, atol=1e-6)
        for one, other in zip(gradients, alone, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-5)
        for one_told, other_told in zip(told, metrics, strict=True):
            assert one_told == pytest.approx(other_told, rel=1e-3, abs=1e-5)
        assert its_drawn == drawn
        for name in ("generator", "counters"):
            assert (its_state[name] == state[name]).all()
        for name, values in state.items():  # statistics are the same to the bit
            if "normalizer" in name or "statistics" in name or "extra.returns" in name:
                assert (its_state[name] == values).all(), name
    first = shared[0][2]
    for _, _, other, _ in shared[1:]:
        assert {k: v.tobytes() for k, v in other.items()} == {
            k: v.tobytes() for k, v in first.items()
        }


def test_an_iteration_ends_early_on_all_ranks_together() -> None:
    """`target_kl` counts the whole minibatch: parts of it may lie on both sides of the limit."""
    config = PPOConfig(
        **PPO | {"target_kl": 0.002, "learning_rate": 3e-3, "num_epochs": 5, "minibatch_size": 20}
    )
    rollouts = _rollouts(config, 4)
    alone = _learn(_learner(config), rollouts)
    shared = _side_by_side(config, 2, rollouts)
    assert 0 < len(alone[0]) < 4 * 5 * 5
    assert [len(gradients) for gradients, *_ in shared] == [len(alone[0])] * 2
