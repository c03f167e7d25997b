"""The checkpoints of one run: the last few and the best, named by step, never overwritten."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from rl.core.records.checkpoint import (
    Checkpoint,
    Content,
    Json,
    read_checkpoint,
    write_checkpoint,
)
from rl.core.records.files import replace_symlink, temporary_sibling
from rl.errors import CheckpointError, StorageError

__all__ = ["CheckpointStore"]

_STEP = re.compile(r"step_(\d{9,})(?:-(\d+))?")
_LEFTOVER = re.compile(r"\.(step_\d|latest|best).*\.tmp-\d+-\d+")
_LATEST, _BEST = "latest", "best"


class CheckpointStore:
    """`directory` belongs to one process at a time: the one that holds the run's lock."""

    def __init__(self, directory: Path, keep: int = 3) -> None:
        """Keeps the `keep` newest, at least one, besides the best."""
        assert keep >= 1, f"keep={keep} would keep no checkpoint"
        self.directory = directory
        self.keep = keep

    def save(self, env_steps: int, files: Mapping[str, Content], meta: Mapping[str, Json]) -> Path:
        """Writes `step_000100000`, points `latest` at it, removes what need not be kept.

        A second checkpoint at the same step becomes `step_000100000-2`. Raises `StorageError`;
        the earlier checkpoints are then as they were.
        """
        try:
            path = self._free_path(env_steps)
            write_checkpoint(path, files, meta)
            self._link(_LATEST, path)
            self._prune(path)
        except OSError as error:
            raise StorageError(f"cannot save to {self.directory}: {error.strerror}") from error
        return path

    def mark_best(self, path: Path) -> None:
        """Points `best` at a checkpoint of this store, which is then kept."""
        self._link(_BEST, path)

    def paths(self) -> list[Path]:
        """Every checkpoint, valid or not, oldest first."""
        found = []
        if self.directory.is_dir():
            for path in self.directory.iterdir():
                match = _STEP.fullmatch(path.name)
                if match and path.is_dir() and not path.is_symlink():
                    found.append(((int(match[1]), int(match[2] or 1)), path))
        return [path for _, path in sorted(found)]

    @property
    def latest(self) -> Path | None:
        """What `latest` points at, if it is there."""
        return self._target(_LATEST)

    @property
    def best(self) -> Path | None:
        """What `best` points at, if it is there."""
        return self._target(_BEST)

    def newest_valid(self) -> tuple[Checkpoint, list[str]]:
        """The newest checkpoint that verifies, and why each newer one did not.

        Raises `CheckpointError` with all the reasons when there is none.
        """
        skipped: list[str] = []
        for path in reversed(self.paths()):
            try:
                return read_checkpoint(path), skipped
            except CheckpointError as error:
                skipped.append(str(error))
        if not skipped:
            raise CheckpointError(
                f"no checkpoint in {self.directory}: the run ended before its first one; start it"
                f" again with --config {self.directory.parent / 'config.yaml'}, and set"
                " checkpoints.interval to have some on the way"
            )
        reasons = "".join(f"\n  {reason}" for reason in skipped)
        raise CheckpointError(f"no valid checkpoint in {self.directory}{reasons}")

    def sweep(self) -> None:
        """Removes what a writer that was killed left behind. Call before resuming a run."""
        if self.directory.is_dir():
            for path in self.directory.iterdir():
                if _LEFTOVER.fullmatch(path.name):
                    _remove(path)

    def _free_path(self, env_steps: int) -> Path:
        path = first = self.directory / f"step_{env_steps:09d}"
        attempt = 1
        while path.exists() or path.is_symlink():
            attempt += 1
            path = first.with_name(f"{first.name}-{attempt}")
        return path

    def _link(self, name: str, path: Path) -> None:
        assert path.parent == self.directory, f"{path} is no checkpoint of {self.directory}"
        try:
            replace_symlink(self.directory / name, path.name)
        except OSError as error:
            raise StorageError(
                f"cannot point {self.directory / name} at {path.name}: {error.strerror}"
            ) from error

    def _target(self, name: str) -> Path | None:
        link = self.directory / name
        if not link.is_symlink():
            return None
        target = self.directory / link.readlink().name
        return target if target.is_dir() else None

    def _prune(self, saved: Path) -> None:
        # After a resume, damaged checkpoints of later steps may be there: they displace nothing.
        needed = (saved, self.best)
        for path in self.paths()[: -self.keep]:
            if path not in needed:
                # Renamed first: a kill half way leaves no listed checkpoint without its files.
                doomed = temporary_sibling(path)
                try:
                    path.rename(doomed)
                except OSError as error:
                    raise StorageError(f"cannot remove {path}: {error.strerror}") from error
                _remove(doomed)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
