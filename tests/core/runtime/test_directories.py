"""The socket directory is private and its name fits."""

import stat
import tempfile
from pathlib import Path

import pytest

from rl.core.runtime.directories import LONGEST_PATH, SOCKET_NAME, socket_directory


def test_only_the_user_can_enter_the_socket_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    directory = Path(socket_directory())
    assert directory.parent == tmp_path
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_long_temporary_directory_is_left_for_a_short_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * LONGEST_PATH)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    directory = Path(socket_directory())
    assert len(str(directory / SOCKET_NAME)) <= LONGEST_PATH
    assert list(long.iterdir()) == []
    directory.rmdir()
