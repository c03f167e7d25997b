"""The convolutions that the setting names, in every network of every algorithm."""

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

import rl
from rl.algorithms.registry import algorithm_names, config_class
from rl.core.data.spaces import ObservationLayout
from rl.core.models.images import ImageEncoder, ImpalaCNN, NatureCNN


class Camera(gymnasium.Env[Any, Any]):
    """A picture and two numbers, at random; three actions or two dimensions."""

    def __init__(self, continuous: bool = False) -> None:
        camera = spaces.Box(0, 255, (36, 40, 3), np.uint8)
        self.observation_space = spaces.Dict({"camera": camera, "speed": spaces.Box(-1, 1, (2,))})
        self.action_space = spaces.Box(-1, 1, (2,)) if continuous else spaces.Discrete(3)
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        return self.observation_space.sample(), 1.0, self.steps == 5, False, {}


@pytest.mark.parametrize("name", list(algorithm_names()))
@pytest.mark.parametrize("kind", ["nature", "impala"])
def test_every_network_has_the_convolutions_asked_for(name: str, kind: str) -> None:
    settings = config_class(name)
    continuous = "discrete" not in settings.supported_actions
    small = {"buffer_size": 300} if hasattr(settings, "buffer_size") else {}
    config: Any = settings(
        env=Camera,
        env_kwargs={"continuous": continuous},
        image_encoder=kind,
        hidden_sizes=(8,),
        env_runners={"num": 1, "envs_per_runner": 2},
        **small,
    )
    with config.build() as algorithm:
        learner = algorithm.learners._learner
        networks = [value for value in vars(learner).values() if isinstance(value, nn.Module)]
        encoders = [m for n in networks for m in n.modules() if isinstance(m, ImageEncoder)]
        assert encoders
        assert {type(encoder) for encoder in encoders} == {
            {"nature": NatureCNN, "impala": ImpalaCNN}[kind]
        }


@pytest.mark.parametrize("shared", [False, True])
def test_ppo_takes_the_values_that_the_acting_network_saw_anyway(shared: bool) -> None:
    config = rl.PPOConfig(
        env=Camera,
        hidden_sizes=(8,),
        shared_torso=shared,
        rollout_length=12,
        minibatch_size=12,
        env_runners={"num": 1, "envs_per_runner": 3},
    )
    with config.build() as algorithm:
        learner: Any = algorithm.learners._learner
        (rollout,) = algorithm.sample(12)
        assert rollout.final_steps.size
        told = learner.prepare(rollout)
        others = {name: extra for name, extra in rollout.extras.items() if name != "value"}
        computed = learner.prepare(replace(rollout, extras=others))
        moved = rollout.extras | {"value": rollout.extras["value"] + np.float32(1)}
        changed = learner.prepare(replace(rollout, extras=moved))
    assert others.keys() == {"log_prob"}
    assert rollout.extras["value"].shape == (12, 3)
    for name in ("values", "advantages", "value_targets"):
        found, expected = getattr(told, name), getattr(computed, name)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(changed.values, told.values + 1, atol=1e-5)  # they are what is taken


def test_policies_in_numpy_tell_no_values() -> None:
    """There the learner values a whole rollout at once, which is cheaper."""
    config = rl.PPOConfig(env="CartPole-v1", rollout_length=4, minibatch_size=4)
    with config.build() as algorithm:
        (rollout,) = algorithm.sample(4)
    assert rollout.extras.keys() == {"log_prob"}


@pytest.mark.parametrize(
    ("shape", "kind"),
    [((4, 20, 24), np.uint8), ((20, 24, 3), np.uint8), ((20, 24), np.uint8), ((3, 20, 24), float)],
)
def test_pixels_of_every_layout_are_seen_in_their_places(
    shape: tuple[int, ...], kind: type[Any]
) -> None:
    top = 255 if kind is np.uint8 else 1
    dtype = np.uint8 if kind is np.uint8 else np.float32
    (leaf,) = ObservationLayout(spaces.Box(0, top, shape, dtype)).leaves
    encoder = ImpalaCNN(leaf)
    rows = np.random.default_rng(1).integers(0, top, (5, *shape), endpoint=True).astype(dtype)
    first = rows[:, None] if len(shape) == 2 else rows
    if leaf.channels_last and len(shape) == 3:
        first = rows.transpose(0, 3, 1, 2)
    plain = torch.tensor(first, dtype=torch.float32) / top
    with torch.no_grad():
        expected = encoder.linear(encoder.convolutions(plain))
        found = encoder(torch.from_numpy(rows))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
