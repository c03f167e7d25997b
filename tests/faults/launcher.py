"""Starts `train` in processes of its own, quickly: it imports once and forks for each.

Reads orders, a line of JSON each; `Launcher.start` says what is in them. Answers with the pid, and
when that process has ended with its status. One process at a time.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import time
from typing import Any

import rl.algorithms.registry
import rl.algorithms.training
import rl.cli.console
import rl.cli.main


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def child(order: dict[str, Any]) -> None:
    os.setpgid(0, 0)
    die_with_parent()
    os.chdir(order["directory"])
    os.environ |= order["environ"]
    if order["cores"]:
        os.sched_setaffinity(0, order["cores"])
    if order["small_shm"]:
        shrink_shared_memory()
    for name, value in order["limits"].items():
        resource.setrlimit(getattr(resource, name), (value, value))
    for number, name in ((0, os.devnull), (1, "stdout"), (2, "stderr")):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND
        os.dup2(os.open(name, flags, 0o666), number)
    if order["broken_pipe"]:
        read, write = os.pipe()
        os.close(read)
        os.dup2(write, 1)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, buffering=1) for number, mode in ((0, "r"), (1, "w"), (2, "w"))
    )
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if skew := order["skew"]:
        jump_clock(float(skew))
    os._exit(rl.cli.main.train_main(order["arguments"]))


def shrink_shared_memory() -> None:
    """Gives the process a /dev/shm of a page; ends it with 77 where that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    private = libc.unshare(0x20000) == 0  # CLONE_NEWNS
    private = private and libc.mount(b"none", b"/", None, 0x44000, None) == 0  # MS_REC | MS_PRIVATE
    if not private or libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, b"size=4k") != 0:
        os._exit(77)


def jump_clock(seconds: float) -> None:
    """The clock of the wall jumps to and fro at every look, as if somebody kept setting it."""
    real, looks = time.time, iter(int, 1)

    def jumping() -> float:
        next(looks)
        return real() + (seconds if int(real() * 10) % 2 else -seconds)

    time.time = jumping


def answer(**words: object) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


def main() -> None:
    die_with_parent()
    assert rl.algorithms.training  # what a run imports on its way
    for name in rl.algorithms.registry.algorithm_names():
        module = rl.algorithms.registry.config_class(name).algorithm_path.partition(":")[0]
        importlib.import_module(module)
    answer(ready=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            child(json.loads(line))
        answer(pid=pid)
        _, status = os.waitpid(pid, 0)
        answer(status=os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
