"""How a process ended, in words that help."""

import signal
from pathlib import Path

import pytest

from rl.core.runtime.exits import Exit, describe_status, out_of_memory_kills


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "exit code 0"),
        (3 << 8, "exit code 3"),
        (signal.SIGKILL, "SIGKILL"),
        (signal.SIGSEGV | 0x80, "SIGSEGV (a segmentation fault in native code)"),
        (signal.SIGRTMIN + 2, f"signal {signal.SIGRTMIN + 2}"),
    ],
)
def test_a_wait_status_is_decoded(status: int, words: str) -> None:
    assert describe_status(status) == words


def test_a_kill_for_want_of_memory_says_so() -> None:
    assert "out of memory" in describe_status(signal.SIGKILL, out_of_memory=True)
    assert "out of memory" not in describe_status(signal.SIGSEGV, out_of_memory=True)


def test_the_kernels_count_is_read_where_there_is_one(tmp_path: Path) -> None:
    events = tmp_path / "memory.events"
    events.write_text("low 0\noom 5\noom_kill 3\n")
    assert out_of_memory_kills([tmp_path / "absent", events]) == 3
    events.write_text("oom_kill max\n")
    assert out_of_memory_kills([events]) == 0
    events.write_text("")
    assert out_of_memory_kills([events]) == 0


def test_an_exit_shows_the_last_lines() -> None:
    assert str(Exit("SIGKILL")) == "its process ended: SIGKILL."
    assert str(Exit("exit code 1", 7, ("one", "two"))) == (
        "process 7 ended: exit code 1. Its last lines:\n  | one\n  | two"
    )
