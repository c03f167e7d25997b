"""Arrays that never change: written once, then shared by every later checkpoint.

Checkpoints share a file by hard links, so each is complete in itself: it can be copied, moved or
deleted without regard to the others, and the disk frees the file with the last that has it.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rl.core.records.files import sync_file

__all__ = ["Frozen", "StoredFile"]

_NO_LINKS = frozenset((errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS))
"""Another file system, one without hard links, or too many of them."""


@dataclass(frozen=True)
class StoredFile:
    """A file as it was when its content was last known."""

    path: Path
    size: int
    sha256: str
    stamp: tuple[int, int, int]
    """Device, number and time of the last change."""

    @classmethod
    def of(cls, path: Path, sha256: str) -> Self:
        """The file at `path`, whose sum is known. Raises `OSError`."""
        found = path.lstat()
        return cls(path, found.st_size, sha256, (found.st_dev, found.st_ino, found.st_mtime_ns))

    def unchanged(self) -> bool:
        """Whether it is still there, the same, as far as that can be seen without reading it."""
        try:
            return self == StoredFile.of(self.path, self.sha256)
        except OSError:
            return False

    def share(self, path: Path) -> None:
        """Makes `path` the same file, or a copy where there are no links. Raises `OSError`."""
        try:
            os.link(self.path, path, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            shutil.copyfile(self.path, path, follow_symlinks=False)
            sync_file(path)


class Frozen:
    """Content of a `.safetensors` file: in memory until a checkpoint holds it, then there."""

    def __init__(
        self,
        arrays: Mapping[str, NDArray[np.generic]] | None = None,
        file: StoredFile | None = None,
    ) -> None:
        """One of both is there: arrays that nobody changes any more, or a file with them."""
        self.arrays = arrays
        self.file = file

    def held(self) -> bool:
        """Whether a file has it that is still what it was."""
        return self.file is not None and self.file.unchanged()

    def written(self, file: StoredFile) -> None:
        """Notes the newest file that has it; the arrays are needed no more."""
        self.file, self.arrays = file, None
