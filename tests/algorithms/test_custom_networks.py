"""An encoder of one's own in every algorithm: by class, by name, in files, in fresh processes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rl
from rl.algorithms.registry import read_config
from rl.cli.main import rl_main, train_main
from rl.configs.yaml_io import to_yaml
from rl.errors import ConfigError, UsageError
from rl.testing import check_module
from tests.algorithms.networks import Random, Wide

NAME = "tests.algorithms.networks:Wide"
ROOT = Path(__file__).resolve().parents[2]
REPLAY = {"buffer_size": 200, "batch_size": 8, "learning_starts": 16, "total_steps": 64}
PPO = {"rollout_length": 16, "minibatch_size": 16, "num_epochs": 1, "total_steps": 64}

CONFIGS: dict[str, rl.AlgorithmConfig] = {
    "ppo": rl.PPOConfig(**PPO, normalize_observations=True),
    "ppo with memory": rl.PPOConfig(**PPO, memory="gru", memory_size=4, sequence_length=8),
    "dqn": rl.DQNConfig(**REPLAY, dueling=True, distributional=True, v_min=0, v_max=9),
    "dqn with memory": rl.DQNConfig(
        **{**REPLAY, "batch_size": 16}, memory="gru", memory_size=4, sequence_length=8
    ),
    "sac": rl.SACConfig(**REPLAY, env="Pendulum-v1"),
    "discrete sac": rl.SACConfig(**REPLAY, env="CartPole-v1"),
    "td3": rl.TD3Config(**REPLAY, env="Pendulum-v1"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_algorithm_learns_through_it(name: str) -> None:
    small = {"hidden_sizes": (8,), "encoder": Wide, "encoder_kwargs": {"width": 5}}
    config = replace(CONFIGS[name], **small).with_env_runners(envs_per_runner=2)
    with config.build() as algorithm:
        learner: Any = algorithm.learners._learner
        networks = [learner.module, *([learner.critics] if hasattr(learner, "critics") else [])]
        assert len(networks) == (1 if name[:3] in ("ppo", "dqn") else 2)
        before = [
            [p.detach().clone() for p in network.encoder.network.parameters()]
            for network in networks
        ]
        assert before[0][0].shape[0] == 5
        algorithm.learn()
        for network, old in zip(networks, before, strict=True):
            for parameter, value in zip(network.encoder.network.parameters(), old, strict=True):
                assert not torch.equal(parameter, value)
        assert algorithm.learners.engine == "torch"
        assert "encoder tests.algorithms.networks:Wide is of your own" in str(
            algorithm.learners.engine_obstacles
        ) or name.startswith(("ppo with", "discrete"))
        made = type(learner).make_module
        check_module(lambda: made(algorithm.config, algorithm.spaces), batch=20)


def test_the_engine_changes_nothing() -> None:
    def weights(engine: Any) -> np.ndarray[Any, Any]:
        config = replace(rl.PPOConfig(**PPO, seed=3), encoder=Wide).with_env_runners(
            num=2, envs_per_runner=2
        )
        with config.with_runtime(engine=engine).build() as algorithm:
            algorithm.learn(128)
            return algorithm.learners.get_weights().parameters.copy()

    assert np.array_equal(weights("inline"), weights("process"))


def test_a_class_that_any_process_finds_is_kept_as_its_name() -> None:
    config = rl.PPOConfig(encoder=Wide, encoder_kwargs={"width": 3})
    assert config.encoder == NAME
    assert config == rl.PPOConfig(encoder=NAME, encoder_kwargs={"width": 3})
    again = read_config(to_yaml(config))
    assert again == config
    assert again.encoder_kwargs == {"width": 3}


def test_a_class_of_a_function_trains_and_cannot_be_written_to_a_settings_file() -> None:
    class Local(Wide):
        pass

    config = rl.PPOConfig(**PPO, encoder=Local)
    with pytest.raises(ConfigError, match=r"encoder: .*put the class into a module of its own"):
        to_yaml(config)
    with config.build() as algorithm:
        algorithm.train()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"encoder_kwargs": {"width": 3}}, "encoder_kwargs: have no effect without encoder"),
        ({"encoder": NAME, "image_encoder": "impala"}, "image_encoder: 'impala' has no effect"),
        ({"encoder": "Wide"}, "encoder: must be a class or its import path"),
        ({"encoder": 3}, "encoder: must be a class or its import path"),
        ({"encoder": f"{NAME}r"}, "has no 'Wider'; did you mean .*:Wide?"),
        ({"encoder": nn.Linear}, "Linear cannot be made from the observation space"),
        ({"encoder": dict}, "not a class that derives from torch.nn.Module"),
        ({"encoder": Random}, r"Random gives other features for the same .* in eval\(\)"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as told:
        rl.PPOConfig(**settings).build()
    assert told.value.exit_code == 2


def test_the_numpy_engine_is_refused_where_it_was_asked_for() -> None:
    with pytest.raises(
        UsageError, match=r"encoder tests\.algorithms\.networks:Wide is of your own"
    ):
        rl.PPOConfig(encoder=Wide).with_learners(engine="numpy").build()


def test_a_file_does_not_get_to_import_an_encoder() -> None:
    text = to_yaml(rl.PPOConfig()).replace("encoder: null", "encoder: antigravity:Net", 1)
    text = text.replace("image_encoder: antigravity:Net", "image_encoder: nature")
    assert "\nencoder: " in text
    with pytest.raises(UsageError, match=r"encoder is 'antigravity:Net', and a file does not"):
        read_config(text)
    assert "antigravity" not in sys.modules


LOAD = """
import sys, rl
from rl.errors import UsageError
path, = sys.argv[1:]
try:
    rl.Policy.load(path)
except UsageError as error:
    print(error)
assert "tests.algorithms.networks" not in sys.modules
policy = rl.Policy.load(path, imports=["tests.algorithms"])
print(policy.act([[0.1, 0.2, 0.3, 0.4], [-0.1, 0.2, -0.3, 0.4]]).tolist())
"""


def test_a_policy_file_is_loaded_in_a_fresh_process_by_consent(tmp_path: Path) -> None:
    with rl.PPOConfig(**PPO, encoder=Wide, encoder_kwargs={"width": 3}).build() as algorithm:
        algorithm.train()
        algorithm.policy.save(tmp_path)
        wanted = algorithm.policy.act([[0.1, 0.2, 0.3, 0.4], [-0.1, 0.2, -0.3, 0.4]]).tolist()
    description = json.loads((tmp_path / "policy.json").read_text())["module"]
    assert description["encoder"] == NAME
    assert description["encoder_kwargs"] == {"width": 3}
    told = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert "a file does not get to import a module by itself" in told[0]
    assert "imports=['tests.algorithms.networks']" in told[0]
    assert json.loads(told[1]) == wanted


def test_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    short = "--no-preset --total-steps 64 --rollout-length 16 --minibatch-size 16 --num-epochs 1"
    line = f"--env CartPole-v1 --run-dir first {short} --evaluation.num-episodes 1".split()
    assert train_main([*line, "--encoder", NAME, "--encoder-kwargs", "width=3"]) == 0
    assert f"encoder: {NAME}" in (tmp_path / "first/config.yaml").read_text()
    capsys.readouterr()
    assert rl_main(["evaluate", "first", "--episodes", "1"]) == 0  # it is imported here already
    line[3] = "second"
    assert train_main([*line, "--encoder", "tests.algorithms.networks:Random"]) == 2
    assert "encoder: Random gives other features" in capsys.readouterr().err
    assert not (tmp_path / "second").exists()
