"""`env_runners.device`: who acts where, what the learner is spared; a CPU stands for the GPU."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rl
from rl.algorithms.ppo import PPO, PPOLearner
from rl.cli.main import train_main
from rl.configs.algorithm_config import AlgorithmConfig
from rl.core.data.rollout import Rollout
from rl.core.data.tree import Tree, first_leaf, tree_map
from rl.core.learning.devices import acting_device, learns_there
from rl.core.models.device_actor import DeviceActor, DeviceRows
from rl.core.models.numpy_mlp import NumpyActor
from rl.core.models.torch_actor import TorchActor
from rl.errors import ConfigError
from rl.testing.algorithms import check_algorithm, weights_of
from rl.testing.probe_envs import MaskedChoice
from tests.algorithms.networks import Wide
from tests.algorithms.test_images import Camera
from tests.algorithms.test_matrix import AnySpaces
from tests.algorithms.test_memory import NATIVE_MODES, Drifting, Slipping

CPU = torch.device("cpu")
QUICK: dict[str, Any] = {
    "seed": 3,
    "hidden_sizes": (8,),
    "rollout_length": 12,
    "minibatch_size": 24,
    "num_epochs": 2,
    "env_runners": {"num": 2, "envs_per_runner": 3, "max_env_failures": 1000},
    "learners": {"engine": "torch"},
    "runtime": {"engine": "inline"},
}
MEMORY: dict[str, Any] = {"memory": "gru", "memory_size": 5, "sequence_length": 4}
CONFIGS: dict[str, rl.PPOConfig] = {
    "flat": rl.PPOConfig(
        env="CartPole-v1", normalize_observations=True, normalize_rewards=True, **QUICK
    ),
    "nested": rl.PPOConfig(
        env=AnySpaces, env_kwargs={"observed": "nested", "acted": "Dict"}, **QUICK
    ),
    "image": rl.PPOConfig(env=Camera, **QUICK),
    "encoder": rl.PPOConfig(env=Drifting, encoder=Wide, **QUICK),
    "masks": rl.PPOConfig(env=MaskedChoice, **QUICK),
    "memory": rl.PPOConfig(env=Drifting, **MEMORY, **QUICK),
    "made anew": rl.PPOConfig(env=Slipping, **QUICK),
    "lagging": rl.PPOConfig(env=Camera, **QUICK).with_env_runners(overlap=True),
    "native": rl.PPOConfig(env=NATIVE_MODES["NEXT_STEP"][0], **QUICK).with_env_runners(
        vectorization="native"
    ),
}


@pytest.fixture
def on_a_device(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """All that the setting decides; what follows is the same as with a GPU."""
    monkeypatch.setattr("rl.algorithms.engines.acting_device", lambda config: CPU)
    return monkeypatch


def learnt(config: AlgorithmConfig, iterations: int = 3) -> dict[str, bytes]:
    with config.build() as algorithm:
        for _ in range(iterations):
            algorithm.train()
        return weights_of(algorithm)


def actors_of(algorithm: Any) -> list[Any]:
    return [runner._actor.actor for runner in algorithm.env_runners._runners]


@pytest.mark.parametrize("name", CONFIGS)
def test_weights_are_the_same_whether_the_rollout_stays_there_or_not(
    name: str, on_a_device: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    prepare = PPOLearner.prepare

    def watched(self: Any, rollout: Rollout) -> Any:
        seen.append(rollout.on_device is not None)
        return prepare(self, rollout)

    on_a_device.setattr(PPOLearner, "prepare", watched)
    there = learnt(CONFIGS[name])
    with on_a_device.context() as patched:
        patched.setattr("rl.algorithms.engines.learns_there", lambda *_: False)
        brought = learnt(CONFIGS[name])
    assert seen == [True] * 3 + [False] * 3
    assert there == brought


@pytest.mark.parametrize("name", ["image", "encoder"])
def test_a_run_on_a_device_is_the_run_of_the_cpus_own_actors(
    name: str, on_a_device: pytest.MonkeyPatch
) -> None:
    """Where those act with torch, too; arrays round otherwise."""
    there = learnt(CONFIGS[name])
    on_a_device.undo()
    assert there == learnt(CONFIGS[name])


@pytest.mark.parametrize("name", ["flat", "image", "memory"])
def test_what_stays_there_is_what_is_learnt_from(
    name: str, on_a_device: pytest.MonkeyPatch
) -> None:
    right = learnt(CONFIGS[name], 1)
    sealed = DeviceRows.sealed

    def altered(self: Any, observations: Tree) -> Any:
        return tree_map(lambda leaf: leaf.flip(1), sealed(self, observations))

    on_a_device.setattr(DeviceRows, "sealed", altered)
    assert learnt(CONFIGS[name], 1) != right


@pytest.mark.parametrize("name", ["flat", "image", "memory"])
def test_an_update_uploads_no_observation_but_the_last_of_episodes(
    name: str, on_a_device: pytest.MonkeyPatch
) -> None:
    uploaded: list[int] = []
    tensors = PPOLearner.tensors

    def noted(self: Any, tree: Tree) -> Any:
        uploaded.append(id(tree))
        return tensors(self, tree)

    with CONFIGS[name].build() as algorithm:
        assert isinstance(algorithm, PPO)
        rollout = Rollout.concatenate(algorithm.sample(12))
        learner: Any = algorithm.learners._learner  # type: ignore[union-attr]
        on_a_device.setattr(PPOLearner, "tensors", noted)
        batch = learner.prepare(rollout)
        assert uploaded == [id(rollout.final_observations)]
        kept: Any = first_leaf(rollout.on_device)  # type: ignore[arg-type]
        assert first_leaf(batch.observations).numel() == kept[:-1].numel()
        learner.prepare(replace(rollout, on_device=None))
        assert uploaded[1:] == [id(rollout.observations), id(rollout.final_observations)]


def test_runs_on_a_device_keep_all_that_is_promised(on_a_device: pytest.MonkeyPatch) -> None:
    """Seeds, checkpoints, the budget: none of them knows of tensors on a device."""
    check_algorithm(CONFIGS["image"])


def test_actors_are_as_ever_without_the_setting() -> None:
    for name, kind in (("flat", NumpyActor), ("image", TorchActor)):
        with CONFIGS[name].build() as algorithm:
            assert {type(actor) for actor in actors_of(algorithm)} == {kind}
            assert all(rollout.on_device is None for rollout in algorithm.sample(4))


@pytest.mark.parametrize(
    ("config", "keeps"),
    [
        (CONFIGS["flat"], True),
        (rl.DQNConfig(env="CartPole-v1", buffer_size=1000), False),
        (rl.SACConfig(env="Pendulum-v1", buffer_size=1000), False),
        (rl.TD3Config(env="Pendulum-v1", buffer_size=1000), False),
    ],
    ids=["ppo", "dqn", "sac", "td3"],
)
def test_only_who_learns_from_rollouts_has_them_kept(
    config: AlgorithmConfig, keeps: bool, on_a_device: pytest.MonkeyPatch
) -> None:
    with config.with_runtime(engine="inline").build() as algorithm:
        algorithm.train()
        assert {type(actor) for actor in actors_of(algorithm)} == {DeviceActor}
        assert all((r.on_device is not None) == keeps for r in algorithm.sample(2))


def test_processes_act_there_and_bring_arrays(on_a_device: pytest.MonkeyPatch) -> None:
    inline = learnt(CONFIGS["image"], 2)
    with CONFIGS["image"].with_runtime(engine="process").build() as algorithm:
        for _ in range(2):
            algorithm.train()
        assert weights_of(algorithm) == inline
        assert all(rollout.on_device is None for rollout in algorithm.sample(2))


@pytest.mark.parametrize(
    ("engine", "num", "learning", "acting", "there"),
    [
        ("inline", 0, "cuda", "cuda", True),
        ("inline", 0, "cuda:0", "cuda", True),
        ("inline", 0, "cuda:1", "cuda:1", True),
        ("inline", 0, "cuda:1", "cuda", False),
        ("inline", 0, "cpu", "cuda", False),
        ("process", 0, "cuda", "cuda", False),
        ("process", 1, "cuda", "cuda", False),
    ],
)
def test_only_one_process_and_one_device_share_a_rollout(
    engine: str,
    num: int,
    learning: str,
    acting: str,
    there: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rl.core.learning.devices.choose_device", torch.device)
    config = rl.PPOConfig(learners={"num": num, "device": learning})
    assert learns_there(config, engine, torch.device(acting)) == there


def test_the_setting_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rl.core.learning.devices._may_have_gpu", lambda: True)

    def device(name: str, engine: Any = "inline") -> torch.device | None:
        return acting_device(rl.PPOConfig(env_runners={"device": name}, runtime={"engine": engine}))

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert device("cpu") is None
    assert device("auto") is None
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert device("cpu") is None
    assert device("auto") == device("cuda") == torch.device("cuda")
    assert device("cuda:1", "process") == torch.device("cuda:1")
    assert device("auto", "ray") is None


@pytest.mark.parametrize(
    ("settings", "count", "words"),
    [
        (
            {"env_runners": {"device": "cuda"}},
            0,
            "env_runners.device: is 'cuda', but torch sees no",
        ),
        ({"env_runners": {"device": "cuda:2"}}, 2, "'cuda:2', but torch sees 2 GPUs here"),
        ({"env_runners": {"device": "gpu"}}, 0, "must be auto, cpu, cuda or cuda:N; got 'gpu'"),
        (
            {"env_runners": {"device": "cuda:1"}, "runtime": {"engine": "ray"}},
            2,
            "env_runners.device: 'cuda:1' is a GPU of this machine, but runtime.engine ray",
        ),
    ],
)
def test_what_cannot_be_is_told_before_anything_runs(
    settings: Any, count: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: count > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    with pytest.raises(ConfigError) as told:
        rl.PPOConfig(**settings).build()
    assert words in str(told.value)
    assert told.value.exit_code == 2


def test_a_gpu_that_is_not_there_is_told_with_all_else_that_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    arguments = ["--algo", "ppo", "--env-runners.device", "cuda", "--learners.num", "2"]
    assert train_main([*arguments, "--learners.device", "cuda"]) == 2
    said = capsys.readouterr().err
    assert "env_runners.device: is 'cuda'" in said
    assert "learners.num: 2 learners on cuda" in said
    assert not [*tmp_path.iterdir()]


def test_plain_networks_act_without_torch_where_auto_finds_no_gpu() -> None:
    program = (
        "import sys\nfrom rl.core.learning import devices\ndevices._may_have_gpu = lambda: False\n"
        "import rl\nconfig = rl.PPOConfig(env='CartPole-v1', env_runners={'device': 'auto'})\n"
        "config.build().close()\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", CONFIGS)
def test_a_gpu_learns_the_same_from_what_it_acted_on(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIGS[name].with_env_runners(device="cuda").with_learners(device="cuda")

    def weights() -> Any:
        with config.build() as algorithm:
            for _ in range(2):
                algorithm.train()
            return algorithm.learners.get_weights().parameters, algorithm.sample(4)

    there, rollouts = weights()
    assert {first_leaf(r.on_device).device.type for r in rollouts} == {"cuda"}
    monkeypatch.setattr("rl.algorithms.engines.learns_there", lambda *_: False)
    brought, rollouts = weights()
    assert {r.on_device for r in rollouts} == {None}
    np.testing.assert_allclose(there, brought, rtol=1e-4, atol=1e-5)
