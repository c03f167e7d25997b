"""The loop: who turns it, who is woken, and what a user's callback may do."""

import logging
import os
import threading
import time
from collections.abc import Iterator

import pytest

from rl.core.runtime.reactor import IDLE_TICK, Reactor


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    made = Reactor(lambda now: False)
    yield made
    made.close()


def test_a_descriptor_is_heard_by_the_thread_that_waits(reactor: Reactor) -> None:
    read, write = os.pipe()
    heard: list[str] = []

    def handler() -> None:
        os.read(read, 1)
        heard.append(threading.current_thread().name)

    reactor.register(read, handler)
    reactor.block(lambda: False, IDLE_TICK + 0.1)  # until the background has given way
    threading.Timer(0.05, os.write, (write, b"x")).start()
    assert reactor.block(lambda: bool(heard), 5.0)
    assert heard == [threading.current_thread().name]
    reactor.unregister(read)
    os.close(read)
    os.close(write)


def test_a_descriptor_is_heard_though_nobody_waits(reactor: Reactor) -> None:
    read, write = os.pipe()
    heard = threading.Event()

    def handler() -> None:
        os.read(read, 1)
        heard.set()

    reactor.register(read, handler)
    os.write(write, b"x")
    assert heard.wait(5.0)
    reactor.unregister(read)
    os.close(read)
    os.close(write)


def test_a_nudge_wakes_the_thread_that_listens(reactor: Reactor) -> None:
    reactor.block(lambda: False, IDLE_TICK + 0.1)  # until the background has given way
    seconds = []
    for _ in range(5):
        done = threading.Event()

        def settle(done: threading.Event = done) -> None:
            done.set()
            seconds.append(-time.monotonic())
            reactor.nudge()

        threading.Timer(0.03, settle).start()
        assert reactor.block(done.is_set, 5.0)
        seconds[-1] += time.monotonic()
    # Else it would notice at a tick, up to half a second later.
    assert max(seconds) < IDLE_TICK * 0.4


def test_waiting_ends_when_time_is_up(reactor: Reactor) -> None:
    start = time.monotonic()
    assert not reactor.block(lambda: False, 0.1)
    assert 0.1 <= time.monotonic() - start < 0.3


def test_a_callback_may_wait_for_something_else(reactor: Reactor) -> None:
    order: list[str] = []

    def callback() -> None:
        order.append("begun")
        reactor.block(lambda: False, 0.02)
        order.append("ended")

    reactor.call_later(callback)
    assert reactor.block(lambda: len(order) == 2, 5.0)


def test_a_callback_that_raises_is_logged_and_harms_no_other(
    reactor: Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[int] = []
    with caplog.at_level(logging.ERROR):
        reactor.call_later(lambda: 1 // 0)
        reactor.call_later(lambda: ran.append(1))
        assert reactor.block(lambda: bool(ran), 5.0)
    assert "a done callback raised" in caplog.text


def test_a_handler_that_raises_does_not_end_the_background(
    reactor: Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    read, write = os.pipe()
    calls: list[int] = []
    twice = threading.Event()

    def handler() -> None:
        os.read(read, 1)
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("once")
        twice.set()

    reactor.register(read, handler)
    os.write(write, b"xy")
    assert twice.wait(5.0)
    assert "it goes on" in caplog.text
    reactor.unregister(read)
    os.close(read)
    os.close(write)
