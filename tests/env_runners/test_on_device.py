"""Rollouts of an actor on a device, with a CPU as the device: what is sampled, and what stays."""

import copy
import pickle
from dataclasses import replace
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch

from rl.configs.algorithm_config import AlgorithmConfig
from rl.configs.dqn import DQNConfig
from rl.configs.ppo import PPOConfig
from rl.configs.sac import SACConfig
from rl.core.data.rollout import Rollout
from rl.core.data.tree import first_leaf
from rl.core.models.device_actor import DeviceActor
from rl.core.models.plain import PlainNetwork
from rl.core.models.torch_actor import TorchActor
from rl.env_runners.env_runner import EnvRunner
from rl.env_runners.environments import EnvironmentFactory
from rl.testing.probe_envs import MaskedChoice
from tests.algorithms.test_images import Camera
from tests.algorithms.test_matrix import AnySpaces
from tests.algorithms.test_memory import NATIVE_MODES, Drifting, Slipping
from tests.env_runners.helpers import assert_same

CPU = torch.device("cpu")
LENGTH, WIDTH = 9, 3


class SlippingCamera(Camera):
    """Raises now and then, also in the first step of an episode."""

    def step(self, action: Any) -> Any:
        if self.np_random.random() < 0.1:
            raise RuntimeError("slipped")
        return super().step(action)


QUICK: dict[str, Any] = {
    "seed": 3,
    "hidden_sizes": (8,),
    "env_runners": {"num": 1, "envs_per_runner": WIDTH},
}
MEMORY = QUICK | {"memory_size": 5}
NESTED = {"observed": "nested", "acted": "Dict"}
CONFIGS: dict[str, AlgorithmConfig] = {
    "flat": PPOConfig(env="CartPole-v1", normalize_observations=True, **QUICK),
    "normals": PPOConfig(env="Pendulum-v1", **QUICK),
    "categories": PPOConfig(env="FrozenLake-v1", **QUICK),
    "nested": PPOConfig(env=AnySpaces, env_kwargs=NESTED, **QUICK),
    "image": PPOConfig(env=Camera, **QUICK),
    "masks": PPOConfig(env=MaskedChoice, **QUICK),
    "memory": PPOConfig(env=Drifting, memory="lstm", **MEMORY),
    "made anew": PPOConfig(env=Slipping, **QUICK),
    "made anew, image": PPOConfig(env=SlippingCamera, **QUICK),
    "made anew, memory": PPOConfig(env=Slipping, memory="gru", **MEMORY),
    "noise on parameters": DQNConfig(env="CartPole-v1", noisy=True, buffer_size=1000, **QUICK),
    "dqn, memory": DQNConfig(
        env=Drifting, memory="gru", sequence_length=4, batch_size=32, buffer_size=1000, **MEMORY
    ),
    "sac": SACConfig(env="Pendulum-v1", buffer_size=1000, **QUICK),
    "native": PPOConfig(env="CartPole-v1", **QUICK).with_env_runners(vectorization="native"),
} | {
    f"native, {mode}": PPOConfig(
        env=env, memory=memory, **MEMORY if memory else QUICK
    ).with_env_runners(vectorization="native")
    for (mode, (env, _)), memory in zip(NATIVE_MODES.items(), (None, "gru", None), strict=True)
}


def sampled(config: AlgorithmConfig, fragments: int = 4) -> list[tuple[Rollout, Rollout]]:
    """Fragments by an actor of torch's on the CPU, each beside that of one on a device."""
    with config.build() as algorithm:
        network = algorithm.learners.network
        weights = [algorithm.learners.get_weights() for _ in range(fragments)]
        module = network.build() if isinstance(network, PlainNetwork) else network
        module = module.frozen()
        factory = EnvironmentFactory.of(config, algorithm.spaces)
    random = np.random.default_rng(5)
    for given in weights:
        given.parameters[:] += random.normal(size=given.parameters.shape) * 0.3
    runners = [
        EnvRunner(factory, "x", WIDTH, make, config.seed, 1, forgiving=True)
        for make in (lambda: TorchActor(module), lambda: DeviceActor(module, CPU, keeps=True))
    ]
    pairs = [[runner.sample(LENGTH, given) for given in weights] for runner in runners]
    for runner in runners:
        runner.close()
    return list(zip(*pairs, strict=True))


def assert_on_device(rollout: Rollout) -> None:
    """Row for row what the host has, and no view of it."""
    kept: Any = rollout.on_device
    nested: Any = rollout.observations
    pairs = [(kept, nested)]
    if isinstance(nested, dict):
        assert [*kept] == [*nested]
        pairs = [(kept[path], nested[path]) for path in nested]
    for tensor, array in pairs:
        assert tensor.device == CPU
        mine = tensor.numpy()
        assert (mine.dtype, mine.shape) == (array.dtype, array.shape)
        assert mine.tobytes() == array.tobytes()
        assert not np.shares_memory(mine, array)
    rollout.check()


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_sampled_is_the_same_to_the_bit_and_stays_there(name: str) -> None:
    failures = finals = 0
    for plain, kept in sampled(CONFIGS[name]):
        assert plain.on_device is None
        assert_same(plain, replace(kept, on_device=None))
        assert_on_device(kept)
        failures += len(kept.failures)
        finals += len(kept.final_steps)
    assert finals > 0 or CONFIGS[name].env == "Pendulum-v1"
    assert (failures > 3) == name.startswith("made anew")


def test_without_a_second_look_a_row_that_began_anew_would_be_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the test above would say nothing of environments that raise."""
    keep = "rl.core.models.device_actor.DeviceRows.keep"

    def first(self: Any, t: int) -> None:
        if len(self._rows) == t:
            self._rows.append(self._actor.seen)

    monkeypatch.setattr(keep, first)
    wrong = 0
    for _, kept in sampled(CONFIGS["made anew"]):
        rows: Any = kept.on_device
        wrong += int((rows.numpy() != kept.observations).any(-1).sum())
    assert wrong > 3


@pytest.mark.parametrize("name", ["flat", "image", "masks"])
def test_rollouts_side_by_side_stay_there_together(name: str) -> None:
    rollouts = [kept for _, kept in sampled(CONFIGS[name])]
    joined = Rollout.concatenate(rollouts)
    assert joined.num_environments == WIDTH * len(rollouts)
    assert_on_device(joined)
    mixed = Rollout.concatenate([rollouts[0], replace(rollouts[1], on_device=None), rollouts[2]])
    assert mixed.on_device is None
    assert Rollout.concatenate(rollouts[:1]).on_device is rollouts[0].on_device


@pytest.mark.parametrize("name", ["flat", "image"])
def test_it_does_not_travel(name: str) -> None:
    (_, kept), *_ = sampled(CONFIGS[name], 1)
    for dumps in (pickle.dumps, cloudpickle.dumps):
        travelled = pickle.loads(dumps(kept, protocol=5))
        assert travelled.on_device is None
        assert_same(travelled, replace(kept, on_device=None))
    assert copy.deepcopy(kept).on_device is None
    assert kept.on_device is not None


def test_rollouts_that_do_not_fit_are_found() -> None:
    (_, kept), *_ = sampled(CONFIGS["flat"], 1)
    rows: Any = kept.on_device
    with pytest.raises(AssertionError):
        replace(kept, on_device=rows[1:]).check()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", CONFIGS)
def test_what_a_gpu_acts_on_stays_there(name: str) -> None:
    config, device = CONFIGS[name], torch.device("cuda")
    with config.build() as algorithm:
        network = algorithm.learners.network
        module = network.build() if isinstance(network, PlainNetwork) else network
        factory = EnvironmentFactory.of(config, algorithm.spaces)
        weights = algorithm.learners.get_weights()
        runner = EnvRunner(
            factory, "x", WIDTH, lambda: DeviceActor(module, device, True), 3, 1, forgiving=True
        )
        for _ in range(4):
            kept = runner.sample(LENGTH, weights)
            rows: Any = kept.on_device
            assert first_leaf(rows).device.type == "cuda"
            host = {k: v.cpu() for k, v in rows.items()} if isinstance(rows, dict) else rows.cpu()
            assert_on_device(replace(kept, on_device=host))
        runner.close()
