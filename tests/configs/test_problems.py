"""Unknown settings are told with the name that was probably meant."""

from __future__ import annotations

import pytest

from rl.configs import AlgorithmConfig, PPOConfig
from rl.configs.describe import setting_paths
from rl.configs.near import near_name
from rl.configs.problems import FOREIGN_NAMES, near_setting
from rl.errors import ConfigError


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("clip_rang", "clip_range"),
        ("clip_ratio", "clip_range"),
        ("lr", "learning_rate"),
        ("n_steps", "rollout_length"),
        ("ent_coef", "entropy_coef"),
        ("batch_size", "minibatch_size"),
        ("n_epochs", "num_epochs"),
        ("num_envs", "env_runners.envs_per_runner"),
        ("num_workers", "env_runners.num"),
        ("envs_per_runner", "env_runners.envs_per_runner"),
        ("device", "learners.device"),
        ("env_runner", "env_runners"),
        ("env_runner.num", "env_runners.num"),
        ("env_runners.envs", "env_runners.envs_per_runner"),
        ("evaluation.episodes", "evaluation.num_episodes"),
        ("total-timesteps", "total_steps"),
        ("quux", None),
    ],
)
def test_a_near_name_is_found(written: str, meant: str | None) -> None:
    assert near_setting(PPOConfig, written) == meant


def test_another_librarys_name_is_not_offered_where_it_means_nothing() -> None:
    assert near_setting(AlgorithmConfig, "ent_coef") != "entropy_coef"


def test_names_of_other_libraries_are_none_of_ours() -> None:
    ours = {path.rpartition(".")[2] for path, _ in setting_paths(PPOConfig)} - {"entropy_coef"}
    assert ours.isdisjoint(FOREIGN_NAMES)


def test_a_setting_that_is_like_nothing_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"quux: there is no such setting; there are .*gamma"):
        PPOConfig(quux=1)  # type: ignore[call-arg]


def test_case_does_not_hide_a_near_name() -> None:
    assert near_name("cartpole-v1", ["CartPole-v1", "Acrobot-v1"]) == "CartPole-v1"


def test_a_long_value_is_shortened() -> None:
    with pytest.raises(ConfigError) as error:
        PPOConfig(activation="x" * 10_000 + "\n")  # type: ignore[arg-type]
    assert len(str(error.value)) < 300
    assert "\n" not in str(error.value)
