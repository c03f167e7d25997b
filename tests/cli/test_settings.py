"""Defaults < preset < file < flags, validated once, each problem with its source."""

from __future__ import annotations

from pathlib import Path

import pytest

from rl.cli.settings import Sources, config_from, setting_flags, sources_for
from rl.configs import PPOConfig
from rl.configs.describe import setting_paths
from rl.errors import ConfigError, UsageError


def settle(
    *argv: str, env: str | None = "Taxi-v3", config: Path | None = None, presets: bool = True
) -> PPOConfig:
    sources = sources_for(None, env, str(config) if config else None, None, presets=presets)
    made, _ = config_from(sources, (), argv, "train", "")
    assert isinstance(made, PPOConfig)
    return made


def test_without_anything_there_are_the_defaults() -> None:
    assert settle() == PPOConfig()


def test_flags_win_over_the_file_which_wins_over_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("gamma: 0.7\nnum_epochs: 3\nenv_runners: {envs_per_runner: 16}\n")
    made = settle("--gamma", "0.6", env="CartPole-v1", config=file)
    assert made.gamma == 0.6
    assert made.num_epochs == 3
    assert made.env_runners.envs_per_runner == 16
    assert made.learning_rate == 3e-3  # the preset's
    assert made.seed == 0


def test_the_files_environment_chooses_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("env: Pendulum-v1\n")
    assert settle(env=None, config=file).gamma == 0.9
    assert settle(env=None, config=file, presets=False).gamma == 0.99


def test_flags_become_what_their_settings_are() -> None:
    line = """
        --hidden-sizes 32 16 --max-grad-norm none --normalize-rewards --no-orthogonal-init
        --target-kl 1e-2 --env-runners.num 3 --learners.device cuda:1 --seed 7
        --env-kwargs size=8 slip=1e-3 name=big open=true goal=a=b --log-std-init -2
    """
    made = settle(*line.split())
    assert made.hidden_sizes == (32, 16)
    assert made.max_grad_norm is None
    assert made.normalize_rewards
    assert not made.orthogonal_init
    assert made.target_kl == 0.01
    assert made.env_runners.num == 3
    assert made.env_runners.envs_per_runner == 1
    assert made.learners.device == "cuda:1"
    assert made.log_std_init == -2.0
    assert made.env_kwargs == {"size": 8, "slip": 1e-3, "name": "big", "open": True, "goal": "a=b"}


def test_sampling_while_learning_has_a_short_flag() -> None:
    assert settle("--pipeline").env_runners.overlap
    assert not settle("--pipeline", "--no-pipeline").env_runners.overlap
    assert "pipeline" not in settle("--pipeline").values()


def test_environment_arguments_of_flags_join_those_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("env_kwargs: {size: 8, slip: 1.0}\n")
    assert settle("--env-kwargs", "slip=0.5", config=file).env_kwargs == {"size": 8, "slip": 0.5}


def test_problems_of_all_sources_come_together_with_their_places(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("gamma: 7\nlearners:\n  thread: 2\n")
    with pytest.raises(ConfigError) as error:
        settle("--clip-range", "-1", "--gama", "2", "--env-kwargs", "x", config=file)
    found = {problem.path: problem.message for problem in error.value.problems}
    assert set(found) == {"--gama", "env_kwargs", "gamma", "learners.thread", "clip_range"}
    assert found["gamma"].endswith(f"({file} line 1)")
    assert found["learners.thread"].endswith(f"`learners.threads`? ({file} line 3)")
    assert found["clip_range"].endswith("(--clip-range -1)")


def test_a_flag_mends_what_the_file_has_wrong(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("gamma: 7\n")
    assert settle("--gamma", "0.5", config=file).gamma == 0.5


def test_a_flag_that_breaks_a_rule_with_the_preset_names_the_presets_line() -> None:
    with pytest.raises(ConfigError, match=r"128 is more than the 64 .*preset ppo/CartPole-v1 line"):
        settle("--rollout-length", "8", env="CartPole-v1")


def test_another_librarys_flag_has_a_near_name() -> None:
    with pytest.raises(ConfigError, match=r"did you mean --env-runners\.envs-per-runner"):
        settle("--n-envs", "4")


def test_a_file_of_another_algorithm_contradicts_the_flag(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("algo: mine:MyConfig\n")
    with pytest.raises(UsageError, match=r"--algo ppo contradicts .*own\.yaml line 1"):
        sources_for("ppo", None, str(file), None, presets=True)


def test_every_setting_has_a_flag() -> None:
    flags = {flag.path: flag for flag in setting_flags(PPOConfig, Sources(PPOConfig).merged())}
    assert list(flags) == [path for path, _ in setting_paths(PPOConfig)]
    assert flags["activation"].metavar == "tanh|relu|elu|gelu|silu"
    assert flags["target_kl"].metavar == "FLOAT|none"
    assert flags["env_runners.envs_per_runner"].default == ("1",)  # of PPO, not of the section
    assert all(flag.help for flag in flags.values())
