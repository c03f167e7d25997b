"""What the settings of every algorithm that learns from a replay buffer must fulfil together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Protocol

from pydantic import Field

from rl.configs.algorithm_config import LearnersConfig
from rl.errors import Problem

__all__ = ["PRIORITY_DEFAULTS", "ReplaySettings", "Share", "idle_problems", "replay_problems"]

Share = Annotated[float, Field(ge=0, le=1)]

PRIORITY_DEFAULTS = {"priority_alpha": 0.6, "priority_beta": 0.4}


class ReplaySettings(Protocol):
    """The settings that DQN, SAC and TD3 share."""

    @property
    def seed(self) -> int: ...
    @property
    def total_steps(self) -> int: ...
    @property
    def gamma(self) -> float: ...
    @property
    def normalize_observations(self) -> bool: ...
    @property
    def rollout_length(self) -> int: ...
    @property
    def buffer_size(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def learning_starts(self) -> int: ...
    @property
    def updates_per_step(self) -> float: ...
    @property
    def n_step(self) -> int: ...
    @property
    def prioritized(self) -> bool: ...
    @property
    def priority_alpha(self) -> float: ...
    @property
    def priority_beta(self) -> float: ...
    @property
    def num_environments(self) -> int: ...
    @property
    def learners(self) -> LearnersConfig: ...


def replay_problems(config: ReplaySettings) -> Iterator[Problem]:
    """Yields what is wrong with the fields together."""
    if config.buffer_size < config.batch_size:
        yield Problem(
            "buffer_size",
            f"{config.buffer_size} is less than batch_size {config.batch_size}; write"
            f" {config.batch_size} or more, or a smaller batch_size",
        )
    if config.learning_starts >= config.total_steps:
        yield Problem(
            "learning_starts",
            f"{config.learning_starts} is not before the end, total_steps {config.total_steps}:"
            " nothing would be learnt; write less, or a larger total_steps",
        )
    kept = config.buffer_size // config.num_environments
    for setting in ("n_step", "rollout_length"):
        if getattr(config, setting) > kept:
            yield Problem(
                setting,
                f"{getattr(config, setting)} is more than the {kept} transitions that buffer_size"
                f" {config.buffer_size} keeps of each of {config.num_environments} environments;"
                " write less, or a larger buffer_size",
            )
    yield from idle_problems(config, "prioritized", PRIORITY_DEFAULTS)


def idle_problems(
    config: object, option: str, defaults: Mapping[str, object], effective: bool = True
) -> Iterator[Problem]:
    """Yields the settings that were given but have no effect.

    Args:
        config: The settings.
        option: One of them, a truth value.
        defaults: Of the settings that count only where the option is `effective`.
        effective: Its other value leaves them idle.
    """
    if getattr(config, option) == effective:
        return
    for setting, default in defaults.items():
        value = getattr(config, setting)
        if value != default:
            yield Problem(
                setting,
                f"{value} has no effect while {option} is {str(not effective).lower()}; write"
                f" {option}: {str(effective).lower()}, or leave it"
                f" {'out' if default is None else f'at {default}'}",
            )
