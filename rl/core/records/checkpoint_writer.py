"""Writes the checkpoints of a run beside it: training waits for the copy, not for the disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rl.core.records.checkpoint import Arrays, Json
from rl.core.records.checkpoint_store import CheckpointStore
from rl.core.records.files import sync_file
from rl.errors import StorageError

__all__ = ["CheckpointWriter"]


class CheckpointWriter:
    """One checkpoint at a time, on a thread of its own. Call `wait` before the run ends."""

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store
        self._thread: threading.Thread | None = None
        self._path: Path | None = None
        self._error: BaseException | None = None

    def begin(
        self,
        env_steps: int,
        files: Mapping[str, bytes | Arrays],
        meta: Mapping[str, Json],
        *,
        logs: Sequence[Path] = (),
        best: bool = False,
    ) -> None:
        """Begins to write a checkpoint, once the one before is done.

        Args:
            env_steps: Names it.
            files: As `write_checkpoint` takes them; nobody may change them any more.
            meta: As `write_checkpoint` takes it.
            logs: Files that it refers to: they reach the disk first.
            best: Whether `best` shall point at it.
        """
        self.wait()

        def write() -> None:
            for log in logs:
                sync_file(log)
            self._path = self._store.save(env_steps, files, meta)
            if best:
                self._store.mark_best(self._path)

        self._path = None
        self._thread = threading.Thread(
            target=self._run, args=(write,), name="checkpoint", daemon=True
        )
        self._thread.start()

    def _run(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            self._error = StorageError(f"cannot write {error.filename}: {error.strerror}")
            self._error.__cause__ = error
        except BaseException as error:
            self._error = error

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._thread is not None and self._thread.is_alive()

    def failure(self) -> StorageError | None:
        """Why the last checkpoint could not be written; told once. A bug of ours is raised."""
        if self.busy:
            return None
        error, self._error = self._error, None
        if error is not None and not isinstance(error, StorageError):
            raise error
        return error

    def wait(self) -> Path | None:
        """Waits for the disk; returns where the last checkpoint went, None if there is none."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        return self._path
