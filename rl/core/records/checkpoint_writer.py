"""Writes the checkpoints of a run beside it: training waits for the copy, not for the disk."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from rl.core.records.checkpoint import Content, Json
from rl.core.records.checkpoint_store import CheckpointStore
from rl.core.records.files import sync_file
from rl.core.records.frozen import Frozen, StoredFile
from rl.errors import StorageError

__all__ = ["CheckpointWriter", "Job", "Shared", "Submit", "on_thread", "run"]


Shared = Mapping[str, StoredFile]
"""The files of a written checkpoint that later ones may have, too, by name."""


class Job(Protocol):
    """A checkpoint that is being written."""

    def done(self) -> bool:
        """Whether it is over."""

    def result(self) -> Shared:
        """Waits for it; raises what it raised."""


Submit = Callable[[Callable[[], Shared]], Job]
"""Begins something beside the run."""


class CheckpointWriter:
    """One checkpoint at a time. Call `wait` before the run ends."""

    def __init__(self, store: CheckpointStore, submit: Submit) -> None:
        """Writes to a store; `submit` says where that is done: `on_thread`, or in a process."""
        self._store = store
        self._submit = submit
        self._job: Job | None = None
        self._shared: dict[str, Frozen] = {}
        self._error: BaseException | None = None

    def begin(
        self,
        env_steps: int,
        files: Mapping[str, Content],
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
        self._shared = {name: file for name, file in files.items() if isinstance(file, Frozen)}
        self._job = self._submit(
            functools.partial(_write, self._store, env_steps, files, meta, tuple(logs), best)
        )

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._job is not None and not self._job.done()

    def failure(self) -> StorageError | None:
        """Why the last checkpoint could not be written; told once. A bug of ours is raised."""
        if self.busy:
            return None
        self.wait()
        error, self._error = self._error, None
        if error is not None and not isinstance(error, StorageError):
            raise error
        return error

    def wait(self) -> None:
        """Waits for the disk."""
        if self._job is None:
            return
        try:
            shared = self._job.result()
        except Exception as error:
            self._error = error
        else:
            for name, file in shared.items():
                self._shared[name].written(file)
        self._job = None


def _write(
    store: CheckpointStore,
    env_steps: int,
    files: Mapping[str, Content],
    meta: Mapping[str, Json],
    logs: Sequence[Path],
    best: bool,
) -> Shared:
    """Writes a checkpoint; it may be another process that does. Raises `StorageError`."""
    try:
        for log in logs:
            sync_file(log)
        path = store.save(env_steps, files, meta)
        if best:
            store.mark_best(path)
    except OSError as error:
        raise StorageError(f"cannot write {error.filename}: {error.strerror}") from error
    frozen = {name: file for name, file in files.items() if isinstance(file, Frozen)}
    return {name: file.file for name, file in frozen.items() if file.file is not None}


class _OnThread:
    """A job on a thread of its own, which does not keep the interpreter from ending."""

    def __init__(self, work: Callable[[], Shared]) -> None:
        self._shared: Shared | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(
            target=self._run, args=(work,), name="checkpoint", daemon=True
        )
        self._thread.start()

    def _run(self, work: Callable[[], Shared]) -> None:
        try:
            self._shared = work()
        except BaseException as error:
            self._error = error

    def done(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> Shared:
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._shared is not None
        return self._shared


def on_thread(work: Callable[[], Shared]) -> Job:
    """Begins the work on a thread of this process."""
    return _OnThread(work)


def run(work: Callable[[], Shared]) -> Shared:
    """Does the work here: a task for another process, which has a short name in messages."""
    return work()
