"""A save that is killed or refused at any file system call, and files damaged afterwards."""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from rl.algorithms.beside import BesideTheRun
from rl.cli.main import train_main
from rl.core.records.checkpoint import read_checkpoint
from rl.core.records.checkpoint_store import CheckpointStore
from rl.core.records.checkpoint_writer import on_thread
from rl.core.records.frozen import Frozen
from rl.errors import StorageError
from tests.faults.runs import Launcher, settings, write_config

CALLS = (
    *("openat", "write", "pwrite64", "fsync", "fdatasync", "ftruncate", "close", "mkdir", "rmdir"),
    *("rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat", "unlink"),
    *("unlinkat", "readlink", "readlinkat", "newfstatat", "fstat", "lseek", "getdents64"),
)
REFUSED = 6


def _save(store: CheckpointStore, env_steps: int, block: Frozen) -> Path:
    arrays = {"w": np.full(1000, env_steps, np.float32)}
    files = {
        "config.yaml": b"algo: ppo\n",
        "learner.safetensors": arrays,
        "policy/weights.safetensors": arrays,
        "replay/rows_0.safetensors": block,
    }
    return store.save(env_steps, files, {"env_steps": env_steps})


def _store(directory: Path) -> tuple[CheckpointStore, Frozen]:
    """Two checkpoints of which one is kept, so that the next save links, prunes and marks."""
    store, block = CheckpointStore(directory, keep=1), Frozen({"rows": np.zeros(1000)})
    store.mark_best(_save(store, 1, block))
    _save(store, 2, block)
    return store, block


def _in_a_child(work: Callable[[], object], tracer: list[str], log: Path) -> int:
    """Does the work in a fork that strace holds from its first moment; its status or -signal."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:  # from its first line: an error that is injected here must not leave the fork
            os.read(read, 1)
            work()
            code = 0
        except StorageError:
            code = REFUSED
        finally:
            os._exit(code)
    os.close(read)
    strace = subprocess.Popen(
        ["strace", "-q", "-o", str(log), *tracer, "-p", str(pid)], stderr=subprocess.PIPE, text=True
    )
    status = Path(f"/proc/{pid}/status")
    deadline = time.monotonic() + 20
    while "TracerPid:\t0" in status.read_text() and strace.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    if strace.poll() is not None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        pytest.skip(f"strace cannot be used here: {strace.communicate()[1].strip()}")
    os.write(write, b"x")
    os.close(write)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    strace.communicate()
    return code


def _save_third(directory: Path) -> Callable[[], object]:
    store, block = _store(directory)

    def work() -> None:
        store.mark_best(_save(store, 3, block))

    return work


def _assert_sound(directory: Path) -> None:
    """Every listed checkpoint loads, and the run can go on saving."""
    store = CheckpointStore(directory, keep=1)
    store.sweep()
    for path in store.paths():
        read_checkpoint(path)
    newest, skipped = store.newest_valid()
    assert skipped == []
    assert newest.meta["env_steps"] in (2, 3)
    assert store.latest is not None
    assert store.best is not None
    _save(store, 4, Frozen({"rows": np.zeros(1000)}))
    assert store.newest_valid()[0].meta["env_steps"] == 4
    assert [path.name for path in directory.iterdir() if path.name.startswith(".")] == []


def _points(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """Every file system call that a save makes: its name, and the how manieth of its kind."""
    log = tmp_path / "calls"
    traced = ["-e", f"trace={','.join('?' + call for call in CALLS)}"]
    assert _in_a_child(_save_third(tmp_path / "counted"), traced, log) == 0
    counts: dict[str, int] = {}
    for call in re.findall(r"^(\w+)\(", log.read_text(), re.MULTILINE):
        counts[call] = counts.get(call, 0) + 1
    assert counts["fsync"] > 5
    for call, count in counts.items():
        for number in range(1, count + 1):
            yield call, number


HOW = {"SIGKILL": "signal=SIGKILL", "EIO": "error=EIO", "ENOSPC": "error=ENOSPC"}


@pytest.mark.fault(
    "SIGKILL, EIO, ENOSPC at any file system call of a save",
    "the new checkpoint is whole or not there, every listed one loads, saving goes on",
)
@pytest.mark.skipif(shutil.which("strace") is None, reason="there is no strace")
@pytest.mark.parametrize(
    ("how", "share"),
    [
        *((how, 12) for how in HOW),
        *(pytest.param(how, 1, marks=[pytest.mark.slow, pytest.mark.timeout(1200)]) for how in HOW),
    ],
)
def test_a_save_is_whole_or_not_there_whatever_call_fails(
    tmp_path: Path, how: str, share: int
) -> None:
    codes = []
    for place, (call, number) in enumerate(_points(tmp_path)):
        if place % share:
            continue
        directory = tmp_path / f"{call}-{number}"
        work = _save_third(directory)
        inject = f"inject={call}:{HOW[how]}:when={number}"
        code = _in_a_child(work, ["-e", f"trace={call}", "-e", inject], tmp_path / "log")
        expected = (-9,) if how == "SIGKILL" else (0, REFUSED)
        assert code in expected, f"{inject}: {code}"
        codes.append(code)
        _assert_sound(directory)
        shutil.rmtree(directory)
    assert REFUSED in codes or how == "SIGKILL", "no call was refused"
    assert len(codes) >= 5


def _flip(path: Path, chance: random.Random) -> str:
    content = bytearray(path.read_bytes())
    place = chance.randrange(len(content))
    content[place] ^= 1 << chance.randrange(8)
    path.unlink()  # it may be shared with another checkpoint
    path.write_bytes(content)
    return path.name


def _cut(path: Path, chance: random.Random) -> str:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: chance.randrange(len(content))])
    return path.name


def _swap(path: Path, chance: random.Random) -> str:
    """Another file of the checkpoint in its place, with other content."""
    root = next(parent for parent in path.parents if parent.name.startswith("step_"))
    others = sorted(
        other
        for other in root.rglob("*")
        if other.is_file() and other.read_bytes() != path.read_bytes()
    )
    other = chance.choice(others)
    content = other.read_bytes()
    path.unlink()
    path.write_bytes(content)
    return path.name


def _remove(path: Path, chance: random.Random) -> str:
    path.unlink()
    return path.name


DAMAGE = (_flip, _flip, _cut, _swap, _remove)


@pytest.mark.fault(
    "flipped bits, cut, swapped, missing files in a checkpoint",
    "the file is named, the next older one is used with a warning; code 6 when none is left",
)
def test_no_damage_to_a_checkpoint_goes_unseen(launcher: Launcher, tmp_path: Path) -> None:
    values = settings("dqn", "inline", total_steps=512, checkpoints={"interval": 128, "keep": 3})
    write_config(tmp_path / "config.yaml", values)
    assert launcher.run("--config", "config.yaml", "--run-dir", "run") == 0, launcher.said()
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    *_, older, newest = store.paths()
    whole, chance = tmp_path / "whole", random.Random(1)
    shutil.copytree(newest, whole)
    for number in range(300):
        victim = chance.choice(sorted(path for path in newest.rglob("*") if path.is_file()))
        name = DAMAGE[number % len(DAMAGE)](victim, chance)
        checkpoint, reasons = store.newest_valid()
        assert checkpoint.path.name == older.name, f"{name} was damaged, and it loaded"
        assert len(reasons) == 1
        assert name in reasons[0], reasons
        shutil.rmtree(newest)
        shutil.copytree(whole, newest)

    _flip(newest / "learner.safetensors", chance)
    (tmp_path / "run" / "result.json").unlink()
    assert launcher.run("--resume", "run") == 0, launcher.said()
    assert re.search(r"warning: .*learner\.safetensors.*is used instead", launcher.said())
    for path in store.paths():
        (path / "counters.json").unlink()
    (tmp_path / "run" / "result.json").unlink()
    assert launcher.run("--resume", "run") == 6
    assert launcher.said().count("counters.json") == len(store.paths())
    assert "Traceback" not in launcher.said()


@pytest.fixture
def saved_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints are written by this process, where a test can refuse."""
    monkeypatch.setattr(BesideTheRun, "__call__", lambda _, work: on_thread(work))


@pytest.mark.usefixtures("saved_here")
@pytest.mark.fault(
    "the disk is full while a checkpoint is written",
    "earlier checkpoints stand, a warning, the run goes on and tries again",
)
def test_a_full_disk_is_told_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path / "config.yaml", settings("ppo", "inline", total_steps=1024))
    rename, refused = Path.rename, []

    def refuse(path: Path, target: Path) -> Path:
        if "step_" in path.name and len(refused) < 2 and Path("run/checkpoints/latest").exists():
            refused.append(path)
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    assert train_main(["--config", "config.yaml", "--run-dir", "run"]) == 0
    said = capsys.readouterr().out
    assert len(refused) == 2
    assert said.count("training goes on with the earlier checkpoints") == 2
    assert said.count("No space left on device") == 2
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    assert store.newest_valid()[0].meta["env_steps"] == 1024


@pytest.mark.usefixtures("saved_here")
@pytest.mark.fault(
    "the disk is still full at the end of the run",
    "code 6 and failure.json; --resume completes the run",
)
def test_a_disk_that_stays_full_ends_the_run_with_its_own_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path / "config.yaml", settings("ppo", "inline", total_steps=512))

    def refuse(path: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", refuse)
        assert train_main(["--config", "config.yaml", "--run-dir", "run"]) == 6
    said = capsys.readouterr()
    assert "No space left on device" in said.err.splitlines()[-1]
    assert '"exit_code": 6' in (tmp_path / "run" / "failure.json").read_text()
    assert train_main(["--resume", "run"]) == 0
    assert not (tmp_path / "run" / "failure.json").exists()
