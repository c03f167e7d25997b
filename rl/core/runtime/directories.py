"""Where the sockets of a runtime lie, and where its workers stand."""

from __future__ import annotations

import tempfile
from pathlib import Path

__all__ = ["SOCKET_NAME", "current_directory", "socket_directory"]

LONGEST_PATH = 107
"""Bytes of the name of a unix socket."""
SOCKET_NAME = "driver"


def socket_directory() -> str:
    """A fresh directory that only this user can enter, its name short enough for sockets."""
    directory = tempfile.mkdtemp(prefix="rl-")
    if len(f"{directory}/{SOCKET_NAME}".encode()) > LONGEST_PATH:
        Path(directory).rmdir()
        directory = tempfile.mkdtemp(prefix="rl-", dir="/tmp")
    return directory


def current_directory() -> str:
    """Where the driver stands; empty when that was deleted: workers then stay where they are."""
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return ""
