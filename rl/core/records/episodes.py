"""Finished episodes: every one a row of `episodes.csv`, the last hundred in the rolling means."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from rl.core.records.files import AppendFile
from rl.core.records.guard import WriteGuard

__all__ = ["EPISODES_HEADER", "EpisodeLog", "EpisodeWindow", "WindowState"]

EPISODES_HEADER = "env_step,return,length,seconds"

WindowState: TypeAlias = Mapping[str, list[list[float | None]]]


class EpisodeLog:
    """Appends to `episodes.csv`. A full disk costs rows, which are counted, never the run."""

    def __init__(self, path: Path) -> None:
        self._guard = WriteGuard(path.name)
        self._file: AppendFile | None = None
        self._pending = 0
        with self._guard.writing():
            file = AppendFile(path)
            if path.stat().st_size == 0:
                file.append(f"{EPISODES_HEADER}\n".encode())
                file.flush()
            self._file = file

    @property
    def dropped(self) -> int:
        """Rows that could not be written."""
        return self._guard.dropped

    def append(self, env_step: int, episode_return: float, length: int, seconds: float) -> None:
        """Adds an episode that ended at `env_step`, counted in environment steps of the whole run.

        `seconds` is the time since sampling began. The row reaches the file with the next `flush`.
        """
        if self._file is None:
            self._guard.dropped += 1
            return
        row = f"{env_step},{float(episode_return)!r},{int(length)},{seconds:.3f}\n"
        self._file.append(row.encode())
        self._pending += 1

    def flush(self) -> None:
        """Hands the rows to the operating system."""
        if self._file is not None:
            with self._guard.writing(self._pending):
                self._file.flush()
        self._pending = 0

    def close(self) -> None:
        """Flushes and closes."""
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None


@dataclass(frozen=True)
class _Episode:
    episode_return: float
    length: int
    success: float | None


class EpisodeWindow:
    """Means over the last `size` episodes; nan before the first."""

    def __init__(self, size: int = 100) -> None:
        self._episodes: deque[_Episode] = deque(maxlen=size)

    def __len__(self) -> int:
        return len(self._episodes)

    def add(self, episode_return: float, length: int, success: bool | None = None) -> None:
        """Adds an episode; `success` where the environment tells it (`info["is_success"]`)."""
        rate = None if success is None else float(success)
        self._episodes.append(_Episode(float(episode_return), int(length), rate))

    @property
    def return_mean(self) -> float:
        """Mean undiscounted return."""
        return _mean([episode.episode_return for episode in self._episodes])

    @property
    def length_mean(self) -> float:
        """Mean number of steps."""
        return _mean([episode.length for episode in self._episodes])

    @property
    def success_rate(self) -> float:
        """Share of successes among the episodes that told; nan when none did."""
        return _mean([episode.success for episode in self._episodes if episode.success is not None])

    def metrics(self) -> dict[str, float]:
        """The `rollout/` metrics; empty before the first episode."""
        if not self._episodes:
            return {}
        metrics = {"rollout/ep_rew_mean": self.return_mean, "rollout/ep_len_mean": self.length_mean}
        if not math.isnan(self.success_rate):
            metrics["rollout/success_rate"] = self.success_rate
        return metrics

    def state(self) -> WindowState:
        """What a checkpoint keeps, ready for JSON; oldest episode first."""
        return {"episodes": [[e.episode_return, e.length, e.success] for e in self._episodes]}

    def load_state(self, state: WindowState) -> None:
        """Takes the place of what is there. A smaller window keeps the newest episodes."""
        self._episodes.clear()
        for episode_return, length, success in state["episodes"]:
            assert episode_return is not None
            assert length is not None
            self._episodes.append(_Episode(float(episode_return), int(length), success))


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
