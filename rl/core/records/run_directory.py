"""One run, one directory: every file of a run has its place here, and one process at a time writes.

The lock belongs to the open file, so the kernel frees it however the process ends; the file
`.lock` stays and tells who held it last.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import fcntl
import json
import logging
import math
import os
import re
import shlex
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from rl.core.records.files import is_temporary, sweep, write_atomically
from rl.core.records.machine import describe_machine
from rl.errors import StorageError, UsageError

__all__ = ["RunDirectory", "run_name"]

_logger = logging.getLogger(__name__)

_LOCK_NAME = ".lock"
_CONFIG_NAME = "config.yaml"
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}


def run_name(env: str, algo: str, seed: int, now: datetime) -> str:
    """`CartPole-v1__ppo__s1__20260131-235959`: one component of a path, whatever `env` is."""
    return f"{_safe(env)}__{_safe(algo)}__s{seed}__{now:%Y%m%d-%H%M%S}"


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-")[:80] or "unnamed"


class RunDirectory:
    """A locked run directory. Use `create` for a new run, `open` to go on with one.

    Both raise `UsageError` when the directory cannot be had; then nothing has been written.
    """

    def __init__(self, path: Path, lock: int | None) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        root: str | os.PathLike[str] = "runs",
        env: str,
        algo: str,
        seed: int,
        now: datetime | None = None,
    ) -> Self:
        """Makes and locks the directory of a new run: `path`, or else a fresh name below `root`.

        `path` may exist if it is empty, but for what a run left that was killed before it had a
        config. `now` names the run, local time by default.
        """
        if path is not None:
            return cls(*_create_given(Path(path)))
        return cls(*_create_named(Path(root), run_name(env, algo, seed, now or datetime.now())))

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Locks the directory of an earlier run, to go on with it; tidies up after a kill."""
        directory = Path(path)
        if not (directory / _CONFIG_NAME).is_file():
            raise UsageError(_why_no_run(directory))
        run = cls(directory, _lock(directory))
        sweep(directory)
        return run

    @property
    def config_file(self) -> Path:
        """The settings, as `train --config` takes them."""
        return self.path / _CONFIG_NAME

    @property
    def command_file(self) -> Path:
        """The command line that started the run; a resumed run adds its own."""
        return self.path / "command.txt"

    @property
    def environment_file(self) -> Path:
        """Versions, commit and hardware."""
        return self.path / "environment.json"

    @property
    def progress_file(self) -> Path:
        """Every logged metric, a row an iteration."""
        return self.path / "progress.csv"

    @property
    def log_file(self) -> Path:
        """What the terminal showed."""
        return self.path / "train.log"

    @property
    def episodes_file(self) -> Path:
        """A row an episode."""
        return self.path / "episodes.csv"

    @property
    def checkpoints(self) -> Path:
        """Directory of the checkpoints, with the links `latest` and `best`."""
        return self.path / "checkpoints"

    @property
    def policy(self) -> Path:
        """Directory of the self-contained trained policy."""
        return self.path / "policy"

    @property
    def videos(self) -> Path:
        """Directory of recorded episodes."""
        return self.path / "videos"

    @property
    def result_file(self) -> Path:
        """How the run ended; there once it has."""
        return self.path / "result.json"

    @property
    def failure_file(self) -> Path:
        """Why the run failed; there only after a failure."""
        return self.path / "failure.json"

    def write_config(self, yaml: str) -> None:
        """Writes `config.yaml`."""
        self._write(self.config_file, yaml)

    def write_command(self, arguments: Sequence[str]) -> None:
        """Adds a command line to `command.txt`, quoted so that a shell takes it back."""
        earlier = self.command_file.read_text("utf-8") if self.command_file.exists() else ""
        self._write(self.command_file, f"{earlier}{shlex.join(arguments)}\n")

    def write_environment(self) -> None:
        """Writes `environment.json`."""
        self._write(self.environment_file, _json(describe_machine()))

    def write_result(self, result: Mapping[str, object]) -> None:
        """Writes `result.json`; a failure told earlier, before a resume, is over and goes."""
        self._write(self.result_file, _json(result))
        self.failure_file.unlink(missing_ok=True)

    def write_failure(self, failure: Mapping[str, object]) -> None:
        """Writes `failure.json`."""
        self._write(self.failure_file, _json(failure))

    def _write(self, path: Path, text: str) -> None:
        try:
            write_atomically(path, text.encode())
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}") from error

    def close(self) -> None:
        """Gives the lock back. A second call does nothing."""
        _release(self._lock)
        self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _create_given(path: Path) -> tuple[Path, int | None]:
    try:
        existing = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
        begun = _LOCK_NAME in existing
        if begun:
            _release(_acquire(path))  # a run that is going on is the better message
        # A run killed before it had a config has left nothing that could be continued, or missed.
        content = [n for n in existing if not (begun and (n == _LOCK_NAME or is_temporary(n)))]
        if content:
            raise UsageError(
                f"run directory {path} is not empty (it holds {content[0]}): nothing is ever "
                f"overwritten; continue it with --resume {path}, or give another --run-dir"
            )
        path.mkdir(parents=True, exist_ok=True)
        lock = _lock(path)
        sweep(path)
    except (OSError, ValueError) as error:
        raise UsageError(_cannot_make(path, error)) from error
    return path, lock


def _create_named(root: Path, name: str) -> tuple[Path, int | None]:
    attempt = 1
    while True:
        path = root / (name if attempt == 1 else f"{name}-{attempt}")
        try:
            root.mkdir(parents=True, exist_ok=True)
            path.mkdir()
            return path, _lock(path)
        except FileExistsError as error:
            if not path.is_dir():
                raise UsageError(_cannot_make(path, error)) from error
            attempt += 1
        except (OSError, ValueError) as error:
            raise UsageError(_cannot_make(path, error)) from error


def _cannot_make(path: Path, error: OSError | ValueError) -> str:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return (
        f"cannot make run directory {path}: {reason}; give a directory that can be "
        "written with --run-dir"
    )


def _lock(directory: Path) -> int | None:
    """Locks the directory and says in the lock file who did."""
    descriptor = _acquire(directory)
    if descriptor is not None:
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "start": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
    return descriptor


def _acquire(directory: Path) -> int | None:
    """The descriptor that holds the lock; None where the file system has no locks."""
    try:
        descriptor = os.open(directory / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UsageError(
            f"cannot lock run directory {directory}: {error.strerror}; a run needs to write to it"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise UsageError(
            f"run directory {directory} is in use by {_holder(directory)}: two runs in one "
            "directory would spoil each other; wait for it, or give another --run-dir"
        ) from error
    except OSError as error:
        os.close(descriptor)
        if error.errno not in _NO_LOCKS:
            raise StorageError(f"cannot lock run directory {directory}: {error}") from error
        _logger.warning("%s has no file locks: nothing keeps a second run out", directory)
        return None
    return descriptor


def _release(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)


def _holder(directory: Path) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        holder = json.loads((directory / _LOCK_NAME).read_text("utf-8"))
        return f"process {holder['pid']} on {holder['host']}, started {holder['start']}"
    return "another process"


def _why_no_run(directory: Path) -> str:
    what = f"{directory} is not a run directory: "
    if not directory.exists():
        names = [path.parent.name for path in directory.parent.glob(f"*/{_CONFIG_NAME}")]
        near = difflib.get_close_matches(directory.name, names, n=1, cutoff=0.4)
        return (
            what
            + "it does not exist"
            + (
                f"; did you mean {directory.parent / near[0]}?"
                if near
                else "; give the path of a run"
            )
        )
    for parent in list(directory.absolute().parents)[:3]:
        if (parent / _CONFIG_NAME).is_file():
            return what + f"it lies inside one; give {parent}"
    return what + f"it has no {_CONFIG_NAME}; give the directory that `train` made for the run"


def _json(value: Mapping[str, object]) -> str:
    return json.dumps(_finite(value), indent=2, ensure_ascii=False) + "\n"


def _finite(value: object) -> object:
    """The same value with null where JSON has no number: nan and the infinities."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
