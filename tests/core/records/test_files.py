import errno
import os
from pathlib import Path

import pytest

from rl.core.records.files import AppendFile, replace_symlink, write_atomically


@pytest.mark.parametrize("syscall", ["fsync", "replace"])
def test_interrupted_replacement_keeps_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syscall: str
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, syscall, refuse)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_link_is_moved_to_another_target(tmp_path: Path) -> None:
    link = tmp_path / "latest"
    replace_symlink(link, "one")
    replace_symlink(link, "two")
    assert link.readlink() == Path("two")
    assert [entry.name for entry in tmp_path.iterdir()] == ["latest"]


def test_a_torn_append_is_cut_back_to_whole_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows"
    file = AppendFile(path)
    file.append(b"first\n")
    file.flush()
    write = os.write
    calls = []

    def tear(descriptor: int, content: bytes) -> int:
        calls.append(1)
        if len(calls) == 1:
            return write(descriptor, content[:3])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", tear)
        file.append(b"second\n")
        with pytest.raises(OSError, match="No space"):
            file.flush()
    assert path.read_bytes() == b"first\n"
    file.append(b"third\n")
    file.close()
    assert path.read_bytes() == b"first\nthird\n"


def test_appending_goes_on_where_an_earlier_process_stopped(tmp_path: Path) -> None:
    for record in (b"a\n", b"b\n"):
        file = AppendFile(tmp_path / "rows")
        file.append(record)
        file.close()
        file.close()
    assert (tmp_path / "rows").read_bytes() == b"a\nb\n"
