"""Messages over a stream socket arrive whole and in order, however the stream is cut."""

from __future__ import annotations

import socket
import struct
import threading
from typing import Any

import pytest

from rl.core.runtime.line import MAX_MESSAGE, DriverLine, WorkerLine

LARGE = b"x" * 2**20  # several times what a socket holds


@pytest.fixture
def ends() -> Any:
    """(the driver's end, the bare other end)."""
    here, there = socket.socketpair()
    yield DriverLine(here), there
    here.close()
    there.close()


def test_a_stream_that_comes_byte_by_byte_gives_whole_messages(ends: Any) -> None:
    driver, there = ends
    other, other_end = socket.socketpair()
    with other, other_end:
        worker = WorkerLine(other.detach())
        worker.send((1, "one"))
        worker.close()
        data = other_end.recv(1000)
    heard = []
    for place in range(2 * len(data)):
        there.send((data * 2)[place : place + 1])
        heard += driver.read()
    assert heard == [(1, "one"), (1, "one")]


def test_many_messages_come_with_one_read_and_in_order(ends: Any) -> None:
    driver, there = ends
    worker = WorkerLine(there.detach())
    for number in range(100):
        worker.send((number,))
    assert driver.read() == [(number,) for number in range(100)]
    assert driver.read() == []
    worker.close()
    assert driver.read() is None


def test_a_full_socket_keeps_the_driver_from_nothing_and_loses_nothing(ends: Any) -> None:
    driver, there = ends
    assert not driver.send((0, LARGE))
    assert not driver.send((1, "behind it"))
    assert not driver.flush()
    heard: list[Any] = []
    worker = WorkerLine(there.detach())

    def listen() -> None:
        while len(heard) < 2:
            heard.extend(worker.read())

    listener = threading.Thread(target=listen)
    listener.start()
    while not driver.flush():
        pass
    listener.join(10)
    assert heard == [(0, LARGE), (1, "behind it")]
    worker.close()
    assert driver.send((2, LARGE))  # dropped: its launcher tells of the dead


def test_what_is_too_long_is_no_message(ends: Any) -> None:
    driver, there = ends
    there.send(struct.pack("=I", MAX_MESSAGE + 1))
    with pytest.raises(ValueError, match="a message of"):
        driver.read()


def test_a_worker_is_told_that_the_driver_is_gone() -> None:
    here, there = socket.socketpair()
    worker = WorkerLine(there.detach())
    DriverLine(here).send((1,))
    assert worker.read() == [(1,)]
    here.close()
    assert worker.read() == []
    with pytest.raises(OSError, match="pipe"):
        worker.send((2,))
    worker.close()
