"""Presets are data, and every one of them makes a run."""

from __future__ import annotations

import pytest

from rl.algorithms.registry import algorithm_names, config_class
from rl.configs.presets import DIRECTORY, find_preset, load_preset, preset_for, preset_names
from rl.configs.yaml_io import read_settings_file
from rl.errors import UsageError

PROMISED = {
    "CartPole-v1",
    "Acrobot-v1",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
    "Pendulum-v1",
    "LunarLander-v3",
    "BipedalWalker-v3",
    "HalfCheetah-v5",
    "Hopper-v5",
    "Walker2d-v5",
    "Ant-v5",
    "ALE/*",
}
PROMISED_OF_DQN = {"CartPole-v1", "Acrobot-v1", "MountainCar-v0", "LunarLander-v3", "ALE/*"}
PROMISED_OF_SAC = {"Pendulum-v1", "LunarLanderContinuous-v3"} | {
    f"{name}-v5" for name in ("HalfCheetah", "Hopper", "Walker2d", "Ant", "Humanoid")
}


def test_the_promised_presets_are_there() -> None:
    assert set(preset_names("ppo")) >= PROMISED
    assert set(preset_names("dqn")) >= PROMISED_OF_DQN
    assert set(preset_names("sac")) >= PROMISED_OF_SAC
    assert set(preset_names("td3")) >= PROMISED_OF_SAC


@pytest.mark.parametrize(
    ("algo", "name"),
    [(algo, name) for algo in algorithm_names() for name in preset_names(algo)],
)
def test_a_preset_makes_a_config(algo: str, name: str) -> None:
    found = find_preset(algo, name.replace("*", "Pong-v5"))
    assert found is not None
    settings = config_class(algo)
    made = settings(**found).checked()
    assert made != settings(env=made.env)


@pytest.mark.parametrize("path", sorted(DIRECTORY.glob("*/*.yaml")), ids=lambda path: path.stem)
def test_a_preset_lies_where_its_contents_say(path) -> None:  # type: ignore[no-untyped-def]
    file = read_settings_file(path)
    assert file.algo == path.parent.name
    assert path.stem.partition("@")[0] == file.values["env"].replace("/", "__").replace("*", "any")


def test_a_pattern_stands_for_every_environment_of_its_family() -> None:
    found = find_preset("ppo", "ALE/Breakout-v5")
    assert found is not None
    assert found["env"] == "ALE/Breakout-v5"
    assert found["clip_range"] == 0.1


def test_a_variant_is_taken_only_when_asked_for_by_its_name() -> None:
    found = find_preset("dqn", "CartPole-v1@rainbow")
    plain = find_preset("dqn", "CartPole-v1")
    assert found is not None
    assert plain is not None
    options = ("double", "dueling", "prioritized", "distributional", "noisy")
    assert all(found[option] for option in options)
    assert found["n_step"] == 3
    assert set(options) & set(plain) == {"double"}
    assert found["env"] == plain["env"] == "CartPole-v1"
    assert "CartPole-v1@rainbow" in preset_names("dqn")
    with pytest.raises(UsageError, match="did you mean 'CartPole-v1@rainbow'"):
        load_preset("dqn", "CartPole-v1@rainbo")


def test_an_environment_without_a_preset_has_none() -> None:
    assert find_preset("ppo", "Taxi-v3") is None
    assert find_preset("no_such_algo", "CartPole-v1") is None


def test_changing_a_found_preset_does_not_change_the_next() -> None:
    first = preset_for("ppo", "CartPole-v1")
    assert first is not None
    first.values["gamma"] = 0.1
    assert find_preset("ppo", "CartPole-v1")["gamma"] == 0.99  # type: ignore[index]


def test_an_unknown_preset_has_a_near_name() -> None:
    with pytest.raises(UsageError, match="did you mean 'CartPole-v1'"):
        load_preset("ppo", "CartPol-v1")
    with pytest.raises(UsageError, match="there are none"):
        load_preset("my:Config", "CartPole-v1")
    with pytest.raises(UsageError, match="pattern"):
        load_preset("ppo", "ALE/*")
