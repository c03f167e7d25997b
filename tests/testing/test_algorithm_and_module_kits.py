"""The kits pass on what is right and fail on what is not."""

import itertools
from typing import Any

import pytest
from gymnasium import spaces
from torch import Tensor

from rl.algorithms.ppo import PPOConfig
from rl.core.models.modules import ActorCritic, TensorTree
from rl.core.models.spec import NetworkSpec
from rl.testing import check_algorithm, check_module


def _quick(**settings: Any) -> PPOConfig:
    return PPOConfig(
        **{
            "env": "CartPole-v1",
            "rollout_length": 16,
            "minibatch_size": 16,
            "num_epochs": 2,
            "env_runners": {"num": 2, "envs_per_runner": 2},
            **settings,
        }
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"normalize_observations": True, "normalize_rewards": True},
        {"env": "Pendulum-v1", "kl_coef": 0.2, "kl_target": 0.01, "shared_torso": True},
        {"env": "Acrobot-v1", "value_clip_range": 0.2, "dual_clip": 3.0, "target_kl": 0.01},
    ],
)
def test_ppo_does_what_every_algorithm_must(settings: dict[str, Any]) -> None:
    check_algorithm(_quick(**settings))


def _spec(**settings: Any) -> NetworkSpec:
    box, discrete = spaces.Box(-1, 1, (3,)), spaces.Discrete(3, start=2)
    return NetworkSpec(box, discrete, **settings)


def test_the_actor_critic_does_what_every_module_must() -> None:
    check_module(lambda: ActorCritic(_spec()))
    check_module(lambda: ActorCritic(_spec(normalize_observations=True, shared_torso=True)))


_instances = itertools.count()


class Forgetful(ActorCritic):
    """Acts on something that is not in its state."""

    def __init__(self) -> None:
        super().__init__(_spec())
        self.offset = next(_instances)

    def act(
        self, observations: TensorTree, noise: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        actions, extras = super().act(observations, noise)
        return (actions + self.offset) % 3, extras


class Mixing(ActorCritic):
    """Lets the rows of a batch influence each other."""

    def act(
        self, observations: TensorTree, noise: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(observations, Tensor)
        actions, extras = super().act(observations, noise)
        return (actions + observations.shape[0]) % 3, extras


def test_state_outside_of_the_state_dict_is_noticed() -> None:
    with pytest.raises(AssertionError, match=r"acts? differently"):
        check_module(Forgetful)


def test_rows_that_depend_on_each_other_are_noticed() -> None:
    with pytest.raises(AssertionError, match="other rows"):
        check_module(lambda: Mixing(_spec()))
