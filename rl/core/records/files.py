"""Files that are whole or not there: atomic replacement, durable writes, appends that roll back."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
from pathlib import Path

__all__ = [
    "AppendFile",
    "is_temporary",
    "replace_symlink",
    "sweep",
    "sync_directory",
    "sync_file",
    "temporary_sibling",
    "write_atomically",
    "write_durably",
]

_counter = itertools.count()
_TEMPORARY = re.compile(r"\..+\.tmp-\d+-\d+")


def temporary_sibling(path: Path) -> Path:
    """A hidden name beside `path` that no other process or earlier call uses."""
    return path.with_name(f".{path.name}.tmp-{os.getpid()}-{next(_counter)}")


def is_temporary(name: str) -> bool:
    """Whether a name is one that `temporary_sibling` gives."""
    return _TEMPORARY.fullmatch(name) is not None


def sync_directory(path: Path) -> None:
    """Makes the names in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Makes the content of a file survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(directory: Path) -> None:
    """Removes what writers that were killed left in a directory that nobody else writes to."""
    for path in directory.iterdir():
        if is_temporary(path.name):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def write_durably(path: Path, content: bytes) -> None:
    """Writes a new file and waits until the disk has it. Raises `FileExistsError`."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces a file in one step: a reader, or a crash, meets the old content or the new one."""
    temporary = temporary_sibling(path)
    try:
        write_durably(temporary, content)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def replace_symlink(link: Path, target: str) -> None:
    """Points `link` at `target`, relative to the link's directory, in one step."""
    temporary = temporary_sibling(link)
    try:
        temporary.symlink_to(target)
        temporary.replace(link)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_directory(link.parent)


class AppendFile:
    """A file that grows by whole records: a failed write leaves no torn one behind.

    Records gather in memory until `flush`. When the disk refuses, the file is cut back to its last
    whole record, what was pending is dropped, and the `OSError` is raised.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self._pending = bytearray()

    def append(self, record: bytes) -> None:
        """Adds a record; it reaches the file with the next `flush`."""
        self._pending += record

    def flush(self) -> None:
        """Hands what is pending to the operating system. Raises `OSError`, and drops it then."""
        if not self._pending:
            return
        content, self._pending = memoryview(bytes(self._pending)), bytearray()
        whole = os.fstat(self._descriptor).st_size
        try:
            while content:
                content = content[os.write(self._descriptor, content) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, whole)
            raise

    def close(self) -> None:
        """Flushes and closes; closed even when the flush raises. A second call does nothing."""
        if self._descriptor < 0:
            return
        try:
            self.flush()
        finally:
            os.close(self._descriptor)
            self._descriptor = -1
