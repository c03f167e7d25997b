"""Checkpoints written by a process of their own: the same files, and what goes wrong is told."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rl.algorithms import beside
from rl.algorithms.beside import BesideTheRun
from rl.core.records.checkpoint import Content, read_checkpoint
from rl.core.records.checkpoint_store import CheckpointStore
from rl.core.records.checkpoint_writer import CheckpointWriter, on_thread
from rl.core.records.frozen import Frozen
from rl.errors import StorageError

pytestmark = pytest.mark.xdist_group("processes")


@pytest.fixture
def process() -> Iterator[BesideTheRun]:
    made = BesideTheRun()
    yield made
    made.close()


def content(rows: Frozen) -> dict[str, Content]:
    return {
        "counters.json": b'{"a": 1}',
        "learner.safetensors": {"weights": np.arange(6, dtype=np.float32)},
        "memory/rows.safetensors": rows,
    }


def rows() -> Frozen:
    return Frozen({"rows": np.arange(1000)})


def children() -> set[int]:
    path = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    return {int(word) for word in path.read_text().split()}


def test_it_writes_what_a_thread_writes(tmp_path: Path, process: BesideTheRun) -> None:
    manifests = []
    for name, submit in (("thread", on_thread), ("process", process)):
        store = CheckpointStore(tmp_path / name)
        writer = CheckpointWriter(store, submit)
        writer.begin(10, content(rows()), {"env_steps": 10}, best=True)
        writer.wait()
        assert writer.failure() is None
        assert store.best == store.latest is not None
        manifests.append((store.latest / "manifest.json").read_bytes())
    assert manifests[0] == manifests[1]


def test_what_never_changes_is_written_once(tmp_path: Path, process: BesideTheRun) -> None:
    store = CheckpointStore(tmp_path)
    writer = CheckpointWriter(store, process)
    kept = rows()
    for steps in (1, 2):
        writer.begin(steps, content(kept), {"env_steps": steps})
        writer.wait()
        assert kept.held()
        assert kept.arrays is None
    first, second = (path / "memory/rows.safetensors" for path in store.paths())
    assert first.stat().st_ino == second.stat().st_ino
    assert read_checkpoint(second.parents[1]).arrays("memory/rows.safetensors")["rows"][-1] == 999


def test_a_disk_that_refuses_is_told_and_the_next_one_is_written(
    tmp_path: Path, process: BesideTheRun
) -> None:
    directory = tmp_path / "checkpoints"
    directory.write_text("in the way")
    writer = CheckpointWriter(CheckpointStore(directory), process)
    writer.begin(1, content(rows()), {})
    writer.wait()
    failure = writer.failure()
    assert isinstance(failure, StorageError)
    assert str(directory) in str(failure)
    assert writer.failure() is None  # told once
    directory.unlink()
    writer.begin(2, content(rows()), {})
    writer.wait()
    assert writer.failure() is None
    assert read_checkpoint(directory / "latest").files


@pytest.mark.fault(
    "the process that writes checkpoints is killed",
    "a warning, the run goes on and tries again; earlier checkpoints stand",
)
def test_a_killed_writer_costs_its_checkpoint_alone(tmp_path: Path, process: BesideTheRun) -> None:
    store = CheckpointStore(tmp_path)
    writer = CheckpointWriter(store, process)
    writer.begin(1, content(rows()), {})
    writer.wait()
    assert process.runtime is not None
    pid = process.runtime.submit(os.getpid).result()
    assert pid != os.getpid()
    # Held still, so that the next checkpoint has not been written when it dies.
    os.kill(pid, signal.SIGSTOP)
    writer.begin(2, content(rows()), {})
    assert writer.busy
    os.kill(pid, signal.SIGKILL)
    writer.wait()
    failure = writer.failure()
    assert isinstance(failure, StorageError)
    assert "SIGKILL" in str(failure)
    writer.begin(3, content(rows()), {})
    writer.wait()
    assert writer.failure() is None
    assert [path.name for path in store.paths()] == ["step_000000001", "step_000000003"]


def test_a_bug_of_ours_is_raised(tmp_path: Path, process: BesideTheRun) -> None:
    writer = CheckpointWriter(CheckpointStore(tmp_path), process)
    writer.begin(1, {"../escape": b""}, {})
    writer.wait()
    with pytest.raises(AssertionError, match="escape"):
        writer.failure()


def test_no_process_is_left(tmp_path: Path) -> None:
    before = children()
    process = BesideTheRun()
    writer = CheckpointWriter(CheckpointStore(tmp_path), process)
    writer.begin(1, content(rows()), {})
    writer.wait()
    assert children() - before
    process.close()
    deadline = time.monotonic() + 10
    while children() - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not children() - before


@pytest.mark.fault(
    "no process can be started to write checkpoints", "a thread of the driver writes them"
)
def test_where_there_can_be_no_process_a_thread_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(beside, "Runtime", refuse)
    store = CheckpointStore(tmp_path)
    writer = CheckpointWriter(store, BesideTheRun())
    writer.begin(1, content(rows()), {})
    writer.wait()
    assert store.latest is not None
