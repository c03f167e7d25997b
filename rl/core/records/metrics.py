"""A run's numbers go to TensorBoard and to `progress.csv`; the x-axis is environment steps.

    logger.log({"rollout/ep_rew_mean": 21.5}, env_steps=2048)

A disk that refuses costs points, which are counted in `dropped` and told once; never the run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tensorboard.compat.proto.summary_pb2 import Summary

from rl.core.records.board import Setting, hparams_end, hparams_start, layout
from rl.core.records.event_file import EventFile, event_files, scalar, text, video
from rl.core.records.guard import WriteGuard
from rl.core.records.progress import STEPS_COLUMN, ProgressTable, cut_rows, keep_rows

__all__ = ["LogPosition", "MetricsLogger"]

_FLUSH_SECONDS = 2.0
_EPISODES = "episodes.csv"


@dataclass(frozen=True)
class LogPosition:
    """How far a run's logs reached at some moment; the default is before their first word."""

    progress_rows: int = 0
    """Rows of `progress.csv`."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Bytes of `episodes.csv` and of each event file."""
    layout: bool = False
    """Whether TensorBoard had been given its layout."""

    def to_json(self) -> dict[str, Any]:
        """The inverse of `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Raises `KeyError`, `TypeError` or `ValueError` for anything but a position."""
        sizes = {str(name): int(size) for name, size in dict(data["sizes"]).items()}
        return cls(int(data["progress_rows"]), sizes, bool(data["layout"]))


class MetricsLogger:
    """Writes event files and `progress.csv` into a run directory that exists."""

    def __init__(
        self,
        run_directory: str | os.PathLike[str],
        *,
        layout: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`layout` adds the custom-scalars page; `clock` (seconds) says when to flush."""
        self._directory = Path(run_directory)
        self._clock = clock
        self._flushed = clock()
        self._guard = WriteGuard("TensorBoard's event file")
        self._events: EventFile | None = None
        self._pending = 0
        self._env_steps = 0
        self._latest: dict[str, tuple[int, float]] = {}
        self._layout_due = layout
        self._hparams_started = False
        self._progress = ProgressTable(self._directory / "progress.csv")

    @property
    def dropped(self) -> int:
        """Points of curves, texts and rows that could not be written."""
        return self._guard.dropped + self._progress.guard.dropped

    def log(self, metrics: Mapping[str, float], env_steps: int) -> None:
        """Adds a point to every curve, and one row to `progress.csv`."""
        values = {name: float(value) for name, value in metrics.items()}
        self._env_steps = env_steps
        self._latest |= {name: (env_steps, value) for name, value in values.items()}
        self._add(env_steps, *[scalar(name, value) for name, value in values.items()])
        # TensorBoard reads a layout once; by the first update nearly all metrics have been seen.
        if self._layout_due and any(name.startswith("train/") for name in values):
            self._write_layout()
        self._progress.append(values, env_steps)
        if self._clock() - self._flushed >= _FLUSH_SECONDS:
            self.flush()

    def log_text(self, tag: str, markdown: str, step: int) -> None:
        """Shows Markdown on TensorBoard's Text page."""
        self._add(step, text(tag, markdown))
        self.flush()

    def log_video(self, tag: str, gif: bytes, height: int, width: int, step: int) -> None:
        """Shows a GIF on TensorBoard's Images page."""
        self._add(step, video(tag, gif, height, width))
        self.flush()

    def log_hparams(
        self,
        settings: Mapping[str, Setting],
        final: Mapping[str, float] | None = None,
        *,
        succeeded: bool = True,
    ) -> None:
        """Puts the run into the HParams tables: call with `settings` when it begins.

        Call again with `final`, the last values of the metrics, when it ends. Both in one call do.
        """
        if not self._hparams_started:
            self._hparams_started = True
            self._add(0, *hparams_start(settings))
        if final is not None:
            points = {name: (self._env_steps, float(value)) for name, value in final.items()}
            new = [
                scalar(name, point[1])
                for name, point in points.items()
                if self._latest.get(name) != point
            ]
            self._add(self._env_steps, *new, hparams_end(succeeded=succeeded))
        self.flush()

    def position(self) -> LogPosition:
        """Hands everything to the operating system, and says how far the files reach now."""
        self.flush()
        sizes = {}
        with self._guard.writing():
            for path in self.files():
                sizes[path.name] = path.stat().st_size
        return LogPosition(self._progress.rows, sizes, not self._layout_due)

    def files(self) -> list[Path]:
        """Every file of curves and tables that is there."""
        tables = [self._progress.path, self._directory / _EPISODES]
        return [*(path for path in tables if path.exists()), *event_files(self._directory)]

    def cut_back(self, env_steps: int, to: LogPosition | None = None) -> None:
        """Forgets what was logged after `env_steps`, before a run goes on from a checkpoint.

        `progress.csv` and `episodes.csv` lose the rows; TensorBoard forgets the points. With the
        position at that moment the event files lose them too, and so does every file what was
        logged later at the same step.
        """
        self.flush()
        self._env_steps = env_steps
        episodes = self._directory / _EPISODES
        with self._progress.guard.writing():
            cut_rows(self._progress.path, STEPS_COLUMN, env_steps)
            cut_rows(episodes, "env_step", env_steps)
            if to is not None:
                keep_rows(self._progress.path, to.progress_rows)
                _shorten(episodes, to.sizes)
            self._progress.look_again()
        with self._guard.writing():
            self._close_events()
            if to is not None:
                for path in event_files(self._directory):
                    _shorten(path, to.sizes)
                self._layout_due = self._layout_due and not to.layout
                self._hparams_started = bool(event_files(self._directory))
            self._events = EventFile(self._directory, purge_from=env_steps + 1)

    def flush(self) -> None:
        """Hands everything to the operating system; done unasked every two seconds of logging."""
        self._flushed = self._clock()
        with self._guard.writing(self._pending):
            if self._events is not None:
                self._events.flush()
        self._pending = 0
        self._progress.flush()

    def close(self) -> None:
        """Writes what is pending and closes the files. A second call does nothing."""
        if self._layout_due and self._latest:
            self._write_layout()
        self.flush()
        with self._guard.writing():
            self._close_events()
        self._progress.close()

    def _close_events(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None

    def _write_layout(self) -> None:
        self._layout_due = False
        self._add(0, layout(self._latest))

    def _add(self, step: int, *values: Summary.Value) -> None:
        with self._guard.writing(len(values)):
            if self._events is None:
                self._events = EventFile(self._directory)
            self._events.add(step, *values)
            self._pending += len(values)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _shorten(path: Path, sizes: Mapping[str, int]) -> None:
    """Cuts a file to what it was, or removes one that was not there. Raises `OSError`."""
    if not path.exists():
        return
    size = sizes.get(path.name)
    if size is None:
        path.unlink()
    elif 0 <= size < path.stat().st_size:
        os.truncate(path, size)
