"""Arrays that never change are written once and shared by the checkpoints that hold them."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from rl.core.records.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from rl.core.records.checkpoint_store import CheckpointStore
from rl.core.records.frozen import Frozen
from rl.errors import CheckpointError, StorageError

NAME = "replay/rows.safetensors"


def rows(number: int = 0) -> Frozen:
    return Frozen({"x": np.arange(9) + number})


def write(path: Path, *blocks: Frozen) -> Checkpoint:
    files = {f"replay/rows{n or ''}.safetensors": block for n, block in enumerate(blocks)}
    write_checkpoint(path, {"own.json": path.name.encode(), **files}, {})
    return read_checkpoint(path)


def content(checkpoint: Checkpoint) -> list[int]:
    return checkpoint.arrays(NAME)["x"].tolist()  # type: ignore[no-any-return]


def test_a_second_checkpoint_has_the_same_file(tmp_path: Path) -> None:
    block = rows()
    assert not block.held()
    first = write(tmp_path / "1", block)
    assert block.held()
    assert block.arrays is None, "no longer in memory"
    second = write(tmp_path / "2", block)
    assert content(second) == content(first) == list(range(9))
    assert (tmp_path / "1" / NAME).samefile(tmp_path / "2" / NAME)
    assert second.sums[NAME] == first.sums[NAME]
    assert not (tmp_path / "1" / "own.json").samefile(tmp_path / "2" / "own.json")


def test_each_checkpoint_is_complete_in_itself(tmp_path: Path) -> None:
    block = rows()
    write(tmp_path / "1", block)
    write(tmp_path / "2", block)
    shutil.rmtree(tmp_path / "1")
    assert content(read_checkpoint(tmp_path / "2")) == list(range(9))
    third = write(tmp_path / "3", block)
    assert (tmp_path / "3" / NAME).samefile(tmp_path / "2" / NAME)
    shutil.copytree(tmp_path / "3", tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "2")
    shutil.rmtree(third.path)
    assert content(read_checkpoint(tmp_path / "elsewhere")) == list(range(9))


def test_pruning_frees_what_no_checkpoint_has_any_more(tmp_path: Path) -> None:
    store, old, kept = CheckpointStore(tmp_path, keep=2), rows(1), rows(2)
    store.save(1, {"a.safetensors": old, "b.safetensors": kept}, {})
    for step in (2, 3):
        path = store.save(step, {"b.safetensors": kept}, {})
    assert (path / "b.safetensors").stat().st_nlink == 2, "steps 2 and 3"
    assert not old.held(), "it went with step 1"
    assert store.newest_valid()[0].arrays("b.safetensors")["x"][0] == 2


def test_what_was_read_is_shared_too(tmp_path: Path) -> None:
    block = write(tmp_path / "1", rows()).frozen(NAME)
    assert block.held()
    write(tmp_path / "2", block)
    assert (tmp_path / "1" / NAME).samefile(tmp_path / "2" / NAME)


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_where_there_are_no_links_it_is_copied(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    block = rows()
    write(tmp_path / "1", block)
    monkeypatch.setattr(os, "link", refuse)
    assert content(write(tmp_path / "2", block)) == list(range(9))
    assert not (tmp_path / "1" / NAME).samefile(tmp_path / "2" / NAME)


def test_a_file_that_was_changed_or_is_gone_is_not_held(tmp_path: Path) -> None:
    block = rows()
    path = write(tmp_path / "1", block).path / NAME
    size = path.stat().st_size
    path.write_bytes(b"x" * size)
    assert not block.held(), "same size, other content"
    path.unlink()
    assert not block.held()
    with pytest.raises(StorageError, match="No such file"):
        write(tmp_path / "2", block)
    assert [entry.name for entry in tmp_path.iterdir()] == ["1"]


def test_a_save_that_failed_leaves_the_arrays_where_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = rows(1), rows(2)
    write(tmp_path / "1", old)

    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        with pytest.raises(StorageError):
            write(tmp_path / "2", old, new)
    assert old.held()
    assert new.arrays is not None
    assert not new.held()
    third = write(tmp_path / "3", old, new)
    assert third.arrays("replay/rows1.safetensors")["x"][0] == 2


def test_damage_to_a_shared_file_is_named_in_every_checkpoint(tmp_path: Path) -> None:
    block = rows()
    write(tmp_path / "1", block)
    write(tmp_path / "2", block)
    with (tmp_path / "1" / NAME).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
    for name in ("1", "2"):
        with pytest.raises(CheckpointError, match=r"rows\.safetensors is damaged"):
            read_checkpoint(tmp_path / name)
