"""When a run writes checkpoints, what it does when the disk refuses, how it goes on from one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl.algorithms.algorithm import Algorithm
from rl.algorithms.beside import BesideTheRun
from rl.algorithms.snapshot import portable
from rl.configs.yaml_io import to_yaml
from rl.core.data.tree import Array
from rl.core.records.checkpoint import Checkpoint, write_checkpoint
from rl.core.records.checkpoint_store import CheckpointStore
from rl.core.records.checkpoint_writer import CheckpointWriter, on_thread
from rl.core.records.metrics import LogPosition, MetricsLogger
from rl.errors import CheckpointError, Diverged, RLError, StorageError

__all__ = ["Resumed", "Saves", "keep_batch", "resume_run"]

RECORDS = "records.json"
RETRY_S = 30.0
"""Until a checkpoint that could not be written is tried again; an interval may come first."""
LARGEST_SHARE = 0.02
"""Of the time that checkpoints due by the clock may take from training."""


class Saves:
    """The checkpoints of one stretch of a run."""

    def __init__(
        self,
        algorithm: Algorithm[Any],
        logger: MetricsLogger,
        store: CheckpointStore,
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`tell` says a line to the user; `clock` counts seconds."""
        self._algorithm = algorithm
        self._logger = logger
        self._settings = algorithm.config.checkpoints
        # A few a run are not worth a process.
        self._process = BesideTheRun() if self._settings.interval else None
        self._writer = CheckpointWriter(store, self._process or on_thread)
        self._tell = tell
        self._clock = clock
        self._copied_s = 0.0
        self._last = clock()
        self._retry_at: float | None = None
        self.store = store
        self.evaluated = True
        """Whether the evaluation that is due at this step, if one is, stands in the logs."""
        self.saved: tuple[int, bool] | None = None
        """Step of the newest checkpoint, and `evaluated` then."""

    def after(self, before: int, *, asked: bool) -> None:
        """An iteration that began at step `before` is over: writes a checkpoint if one is due."""
        self.notice()
        interval, now = self._settings.interval, self._clock()
        if (
            asked
            or (interval and self._algorithm.env_steps // interval > before // interval)
            or self._due_by_clock(now)
            or (self._retry_at is not None and now >= self._retry_at)
        ):
            self.begin()

    def _due_by_clock(self, now: float) -> bool:
        seconds = self._settings.seconds
        return 0 < seconds <= now - self._last and self._copied_s <= LARGEST_SHARE * (
            now - self._last
        )

    def begin(self, *, best: bool = False) -> None:
        """Begins to write a checkpoint, unless there is one of this very moment."""
        state = (self._algorithm.env_steps, self.evaluated)
        if self.saved == state and not best:
            return
        self._writer.wait()
        self.notice()
        began = self._clock()
        files, meta = self._algorithm.checkpoint_files()
        records = {
            "best": best,
            "evaluated": self.evaluated,
            "position": self._logger.position().to_json(),
        }
        files[RECORDS] = json.dumps(records).encode()
        self._writer.begin(state[0], files, meta, logs=self._logger.files(), best=best)
        self.saved, self._retry_at = state, None
        self._last = self._clock()
        self._copied_s = self._last - began

    def notice(self) -> None:
        """Tells of a checkpoint that could not be written, and plans the next attempt."""
        failure = self._writer.failure()
        if failure is not None:
            self.saved, self._retry_at = None, self._clock() + RETRY_S
            self._tell(
                f"warning: {failure}; training goes on with the earlier checkpoints, and it is"
                f" tried again in {RETRY_S:g} s"
            )

    def finish(self) -> Path:
        """Writes the last checkpoint and waits for it. Raises `StorageError`."""
        self._writer.wait()
        self.notice()
        self.begin()
        self._writer.wait()
        failure = self._writer.failure()
        if failure is not None:
            raise failure
        newest = self.store.latest
        assert newest is not None
        return newest

    def last_words(self) -> None:
        """As `finish`, where the run ends in any case: says it when there can be no checkpoint."""
        if self._algorithm.env_steps == 0:
            return
        if self._algorithm.midway:
            self._tell(
                "warning: the iteration under way was given up in the midst of learning; the run"
                " goes on from its last checkpoint"
            )
            return
        try:
            self.finish()
        except StorageError as error:
            self._tell(f"warning: {error}; the run goes on from its last checkpoint")

    def close(self) -> None:
        """Waits for the disk."""
        self._writer.wait()
        if self._process is not None:
            self._process.close()


@dataclass(frozen=True)
class Resumed:
    """Where a run goes on."""

    saved: tuple[int, bool] | None
    """See `Saves.saved`."""
    same_config: bool
    """Whether its logs begin with the config as it is now."""


def resume_run(
    algorithm: Algorithm[Any],
    store: CheckpointStore,
    logger: MetricsLogger,
    tell: Callable[[str], None],
) -> Resumed:
    """Takes algorithm and logs to the newest valid checkpoint.

    Raises:
        CheckpointError: There are checkpoints, but none is valid, or it is of another run.
    """
    store.sweep()
    if not store.paths():
        tell("the run had ended before its first checkpoint: it starts again from the beginning")
        logger.cut_back(0, LogPosition())
        return Resumed(None, False)
    checkpoint, skipped = store.newest_valid()
    for reason in skipped:
        tell(f"warning: {reason}; {checkpoint.path.name}, which is older, is used instead")
    lost = algorithm.restore(checkpoint)
    if lost:
        tell(
            f"warning: {lost} steps of unfinished episodes could not be played again: the run"
            " goes on, but not as if it had never stopped"
        )
    best, evaluated, position = _records(checkpoint)
    logger.cut_back(algorithm.env_steps, position)
    if best:
        store.mark_best(store.directory / checkpoint.path.name)
    now = to_yaml(portable(algorithm.config))
    same = position is not None and checkpoint.text("config.yaml") == now
    return Resumed((algorithm.env_steps, evaluated), same)


def _records(checkpoint: Checkpoint) -> tuple[bool, bool, LogPosition | None]:
    """Whether it was the best, whether its evaluation is logged, and how far the logs reached."""
    if RECORDS not in checkpoint.files:  # written by hand, with `Algorithm.save`
        return False, True, None
    records: Any = checkpoint.json(RECORDS)
    try:
        position = LogPosition.from_json(records["position"])
        return bool(records["best"]), bool(records["evaluated"]), position
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        path = checkpoint.path / RECORDS
        raise CheckpointError(f"{path} does not say where the logs stood: {error!r}") from error


def keep_batch(error: Diverged, run: Path, tell: Callable[[str], None]) -> Path | None:
    """Writes what was learnt from when a run diverged, as `diverged_<step>/` in its directory.

    A directory in the format of a checkpoint, with a file of arrays for each runner: observations
    [T + 1, B, *obs], actions, rewards, ends and what the policy had said of its actions. Where
    batches are drawn from a replay, `batch.safetensors` is the last: M transitions, as learnt from.
    """
    if not error.rollouts:
        return None
    steps = error.env_steps
    path = run / f"diverged_{steps:09d}"
    files = {"batch.safetensors": dict(error.batch)} if error.batch else {}
    for rollout in error.rollouts:
        arrays: dict[str, Array] = {
            "actions": rollout.actions,
            "rewards": rollout.rewards,
            "terminated": rollout.terminated,
            "truncated": rollout.truncated,
            **{f"extras/{name}": array for name, array in rollout.extras.items()},
        }
        seen = rollout.observations
        for name, leaf in seen.items() if isinstance(seen, dict) else [("", seen)]:
            arrays[f"observations/{name}"] = leaf
        files[f"runner_{rollout.runner}.safetensors"] = arrays
    try:
        write_checkpoint(path, files, {"env_steps": steps, "error": str(error)})
    except RLError as other:  # the first error is the one to tell
        tell(f"warning: {other}")
        return None
    tell(f"what it was learning from is kept in {path}")
    return path
