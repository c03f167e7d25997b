"""What the settings of every algorithm that can have memory must fulfil together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, Protocol

from rl.configs.algorithm_config import LearnersConfig
from rl.errors import Problem

__all__ = ["MEMORY_DEFAULTS", "MemoryKind", "memory_problems"]

MemoryKind = Literal["gru", "lstm"]

MEMORY_DEFAULTS: Mapping[str, int] = {"memory_size": 64, "sequence_length": 32}


class MemorySettings(Protocol):
    """The settings that algorithms with memory share."""

    @property
    def memory(self) -> MemoryKind | None: ...
    @property
    def sequence_length(self) -> int: ...
    @property
    def learners(self) -> LearnersConfig: ...


def memory_problems(
    config: MemorySettings, batch: str, *others: str, defaults: Mapping[str, int] = MEMORY_DEFAULTS
) -> Iterator[Problem]:
    """Yields what is wrong with the fields together.

    Args:
        config: The settings.
        batch: The setting that says how many steps an update learns from.
        others: Further settings that count steps of whole sequences.
        defaults: Of the settings that count only with memory.
    """
    if config.memory is None:
        yield from config.learners.enough_rows(batch, getattr(config, batch))
        for name, default in defaults.items():
            value = getattr(config, name)
            if value != default:
                yield Problem(name, f"{value} has no effect without memory; write gru or lstm")
        return
    length = config.sequence_length
    for name in (*others, batch):
        value = getattr(config, name)
        if value % length:
            yield Problem(
                name,
                f"{value} is not made of whole sequences of {length} steps (sequence_length);"
                f" write {-(-value // length) * length}, or another sequence_length",
            )
    size, least = getattr(config, batch), config.learners.num * length
    if size < least:
        yield Problem(
            batch,
            f"{size} is {size // length} sequences of {length} steps (sequence_length), and"
            f" each of {config.learners.num} learners (learners.num) needs one; write {least} or"
            " more, or fewer learners",
        )
