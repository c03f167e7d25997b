import errno
import os
from pathlib import Path

import numpy as np
import pytest

from rl.core.records.checkpoint_store import CheckpointStore
from rl.errors import CheckpointError, StorageError


def save(store: CheckpointStore, env_steps: int) -> Path:
    weights = {"w": np.full(3, env_steps, np.float32)}
    return store.save(env_steps, {"weights.safetensors": weights}, {"env_steps": env_steps})


def names(store: CheckpointStore) -> list[str]:
    return [path.name for path in store.paths()]


def test_checkpoints_are_named_by_step_and_latest_points_at_the_newest(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    assert store.latest is None
    save(store, 5)
    path = save(store, 100_000)
    assert names(store) == ["step_000000005", "step_000100000"]
    assert store.latest == path
    assert (store.directory / "latest").readlink() == Path("step_000100000")


def test_steps_beyond_nine_digits_stay_in_order(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for env_steps in (10**9 + 1, 10**9 - 1, 5):
        save(store, env_steps)
    assert names(store) == ["step_000000005", "step_999999999", "step_1000000001"]


def test_the_last_few_and_the_best_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    best = save(store, 1)
    store.mark_best(best)
    for env_steps in (2, 3, 4):
        save(store, env_steps)
    assert names(store) == ["step_000000001", "step_000000003", "step_000000004"]
    assert store.best == best
    store.mark_best(store.paths()[-1])
    save(store, 5)
    assert names(store) == ["step_000000004", "step_000000005"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best",
        "latest",
        "step_000000004",
        "step_000000005",
    ]


def test_a_second_checkpoint_at_a_step_stands_beside_the_first(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for _ in range(3):
        save(store, 7)
    assert names(store) == ["step_000000007", "step_000000007-2", "step_000000007-3"]
    assert store.newest_valid()[0].path.name == "step_000000007-3"


def test_a_damaged_newest_is_skipped_and_told(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for env_steps in (1, 2, 3):
        save(store, env_steps)
    (tmp_path / "step_000000003" / "manifest.json").unlink()
    os.truncate(tmp_path / "step_000000002" / "weights.safetensors", 9)
    checkpoint, skipped = store.newest_valid()
    assert checkpoint.meta == {"env_steps": 1}
    assert len(skipped) == 2
    assert "step_000000003" in skipped[0]
    assert "step_000000002" in skipped[1]
    os.truncate(tmp_path / "step_000000001" / "meta.json", 0)
    with pytest.raises(CheckpointError, match=r"(?s)no valid checkpoint.*0003.*0002.*0001"):
        store.newest_valid()


def test_a_damaged_later_checkpoint_does_not_displace_a_new_one(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    (save(store, 9) / "manifest.json").unlink()
    for env_steps in (4, 5):
        save(store, env_steps)
        assert store.newest_valid()[0].meta == {"env_steps": env_steps}
    assert names(store) == ["step_000000005", "step_000000009"]


def test_an_empty_store_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint in .*--config"):
        CheckpointStore(tmp_path / "none").newest_valid()


def test_half_written_and_foreign_names_are_never_taken(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 1)
    for name in ("step_9", "step_000000009.tmp", ".step_000000009.tmp-1-1", "checkpoint_temp"):
        (tmp_path / name).mkdir()
    (tmp_path / "step_000000008").write_text("a file")
    (tmp_path / "step_000000007").symlink_to("step_000000001")
    assert names(store) == ["step_000000001"]


def test_leftovers_of_a_killed_writer_are_swept_and_nothing_else(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 1)
    (tmp_path / ".step_000000002.tmp-99-0").mkdir()
    (tmp_path / ".step_000000002.tmp-99-0" / "half").write_text("x")
    (tmp_path / ".latest.tmp-99-1").symlink_to("step_000000002")
    (tmp_path / ".notes").write_text("mine")
    store.sweep()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".notes",
        "latest",
        "step_000000001",
    ]


def test_a_failed_save_leaves_the_earlier_ones_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    first = save(store, 1)
    original, calls = os.fsync, 0

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(StorageError, match="No space"):
            save(store, 2)
    assert store.latest == first
    assert store.newest_valid() == (store.newest_valid()[0], [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step_000000001"]

    # Every later point of a save: whatever fails, the newest valid one is 1 or 3.
    for survived in range(12):

        def refuse_later(descriptor: int, allowed: int = survived) -> None:
            nonlocal calls
            calls += 1
            if calls > allowed:
                raise OSError(errno.ENOSPC, "No space left on device")
            original(descriptor)

        calls = 0
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", refuse_later)
            try:
                save(store, 3)
            except StorageError:
                checkpoint, skipped = store.newest_valid()
                assert checkpoint.meta["env_steps"] in (1, 3)
                assert skipped == []
                continue
        break
    assert calls > 3
    assert store.newest_valid()[0].meta == {"env_steps": 3}
