"""The convolutions that the setting names, in every network of every algorithm."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from torch import nn

from rl.algorithms.registry import algorithm_names, config_class
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
