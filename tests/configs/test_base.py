"""Configs are frozen values that are checked whenever one is made."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Iterator
from typing import Annotated

import pytest
from pydantic import Field

from rl.configs import AlgorithmConfig, EnvRunnersConfig, PPOConfig, config
from rl.configs.describe import fields_of, help_text, setting_paths
from rl.errors import ConfigError, Problem


def problems_of(error: pytest.ExceptionInfo[ConfigError]) -> dict[str, str]:
    return {problem.path: problem.message for problem in error.value.problems}


def test_all_problems_are_told_at_once_with_path_value_and_rule() -> None:
    with pytest.raises(ConfigError) as error:
        PPOConfig(gamma=2, env_runners={"num": 0}, learners={"device": "tpu"}, activation="sine")  # type: ignore[arg-type]
    found = problems_of(error)
    assert found["gamma"] == "must be a number greater than 0 and at most 1; got 2"
    assert found["env_runners.num"] == "must be a whole number of at least 1; got 0"
    assert found["learners.device"] == "must be auto, cpu, cuda or cuda:N; got 'tpu'"
    assert found["activation"].startswith("must be one of tanh, relu")
    assert len(found) == 4


def test_numbers_may_be_written_as_text() -> None:
    made = PPOConfig(learning_rate="3e-4", total_steps="1e6", hidden_sizes=["32"])  # type: ignore[arg-type]
    assert made.learning_rate == 3e-4
    assert made.total_steps == 1_000_000
    assert type(made.total_steps) is int
    assert made.hidden_sizes == (32,)


@pytest.mark.parametrize("total_steps", ["1.5", "1.5e0", "many", 1.5])
def test_half_a_step_is_refused(total_steps: object) -> None:
    with pytest.raises(ConfigError, match="total_steps"):
        PPOConfig(total_steps=total_steps)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [("gamma", True), ("seed", False), ("hidden_sizes", [64, True]), ("target_kl", True)],
)
def test_a_boolean_is_no_number(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        PPOConfig(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "nan", "inf"])
def test_numbers_are_finite(value: object) -> None:
    with pytest.raises(ConfigError, match="learning_rate"):
        PPOConfig(learning_rate=value)  # type: ignore[arg-type]


def test_rules_over_several_settings_are_checked_too() -> None:
    with pytest.raises(
        ConfigError, match=r"4096 is more than the 2048 .* 2048 x env_runners.num 1"
    ):
        PPOConfig(minibatch_size=4096).checked()
    assert PPOConfig(minibatch_size=4096).with_env_runners(num=2).checked().batch_size == 4096
    with pytest.raises(ConfigError, match="4096 is more than"):
        PPOConfig(minibatch_size=4096).build()


def test_settings_are_given_by_name() -> None:
    with pytest.raises(ConfigError, match="by name"):
        PPOConfig("CartPole-v1")  # type: ignore[misc]


def test_a_config_cannot_be_changed() -> None:
    made = PPOConfig(env_kwargs={"a": 1})
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.gamma = 0.5  # type: ignore[misc]
    with pytest.raises(TypeError, match="cannot be changed"):
        made.env_kwargs["a"] = 2  # type: ignore[index]


def test_replacing_a_setting_checks_it_again() -> None:
    made = PPOConfig(seed=3)
    assert dataclasses.replace(made, gamma=0.5) == PPOConfig(seed=3, gamma=0.5)
    with pytest.raises(ConfigError, match="gamma"):
        dataclasses.replace(made, gamma=1.5)


def test_a_section_is_changed_on_a_copy() -> None:
    made = PPOConfig()
    more = made.with_env_runners(num=2)
    assert (more.env_runners.num, more.env_runners.envs_per_runner) == (2, 1)
    assert made.env_runners.num == 1
    wide = more.with_env_runners(envs_per_runner=4)
    assert (wide.env_runners.num, wide.env_runners.envs_per_runner) == (2, 4)
    assert isinstance(more, PPOConfig)
    with pytest.raises(ConfigError, match=r"env_runners\.num: must be"):
        made.with_env_runners(num=-1)
    with pytest.raises(ConfigError, match=r"env_runners\.nun: .*did you mean `env_runners\.num`"):
        made.with_env_runners(nun=1)  # type: ignore[call-arg]


def test_a_section_given_in_part_keeps_the_algorithms_own_defaults() -> None:
    assert PPOConfig(env_runners={"num": 2}).env_runners == EnvRunnersConfig(  # type: ignore[arg-type]
        num=2, envs_per_runner=1
    )
    assert AlgorithmConfig(env_runners={"num": 2}).env_runners.envs_per_runner == 8  # type: ignore[arg-type]


def test_equal_configs_are_one_key_and_survive_copies() -> None:
    made = PPOConfig(env_kwargs={"shape": (1, [2, 3])})
    assert made == PPOConfig(env_kwargs={"shape": [1, [2, 3]]})
    assert hash(made) == hash(PPOConfig(env_kwargs={"shape": [1, [2, 3]]}))
    assert made != PPOConfig()
    assert pickle.loads(pickle.dumps(made)) == made
    assert copy.deepcopy(made) == made


def test_environment_arguments_do_not_share_their_callers_lists() -> None:
    sides = [1, 2]
    made = PPOConfig(env_kwargs={"sides": sides})
    sides.append(3)
    assert made.env_kwargs["sides"] == [1, 2]


@config
class PairConfig(AlgorithmConfig):
    """A config from outside, with two rules of its own."""

    low: int = 0
    """Lower end."""
    high: Annotated[int, Field(ge=0)] = 1
    """Upper end."""

    def problems(self) -> Iterator[Problem]:
        if self.low > self.high:
            yield Problem("low", "is above high")
        if self.low == 13:
            yield Problem("low", "is unlucky")


def test_a_config_of_ones_own_tells_all_its_broken_rules() -> None:
    with pytest.raises(ConfigError) as error:
        PairConfig(low=13, high=2).checked()
    assert [problem.message for problem in error.value.problems] == ["is above high", "is unlucky"]
    assert PairConfig(low=1, high=2, gamma=0.5).gamma == 0.5


def test_a_config_of_ones_own_is_named_by_where_it_is() -> None:
    assert PairConfig.label() == "pair"
    assert PairConfig.reference().endswith(":PairConfig")
    assert PPOConfig.reference() == PPOConfig.label() == "ppo"


def test_a_callable_environment_has_a_printable_name() -> None:
    def make_maze() -> None: ...

    assert PPOConfig(env="Maze-v0").env_id == "Maze-v0"
    assert PPOConfig(env=make_maze).env_id.endswith("make_maze")
    with pytest.raises(ConfigError, match=r"id .* or a callable; got 3"):
        PPOConfig(env=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [AlgorithmConfig, PPOConfig])
def test_every_setting_has_help(settings: type[AlgorithmConfig]) -> None:
    paths = [*dict(setting_paths(settings)), *fields_of(settings)]
    assert [path for path in paths if not help_text(settings, path)] == []


def test_help_fits_two_screens() -> None:
    assert len(list(setting_paths(PPOConfig))) <= 68


def test_a_config_without_an_algorithm_says_how_to_name_one() -> None:
    with pytest.raises(NotImplementedError, match="algorithm_path"):
        PairConfig().build()
