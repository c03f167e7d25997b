"""Who is compared in `runtime.py`: one actor that is called, in every way there is here."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import tempfile
import time
from abc import ABC
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from rl.core.runtime import Runtime

__all__ = ["CANDIDATES", "Candidate", "Target", "timed"]

Array = npt.NDArray[np.uint8]
MEGABYTES = (1, 10, 100)
PIPELINED = 1000


class Target:
    """What every candidate's actor can do."""

    def __init__(self) -> None:
        self.array = np.ones(0, np.uint8)

    def nothing(self) -> None:
        """An empty call."""

    def hold(self, megabytes: int) -> None:
        self.array = np.ones(megabytes * 2**20, np.uint8)

    def give(self) -> Any:
        return self.array

    def ends(self, array: Any) -> int:
        return int(array[0]) + int(array[-1])

    def step(self, steps: int) -> None:
        """Environment steps of a millisecond of processor time each."""
        for _ in range(steps):
            until = time.thread_time() + 1e-3
            while time.thread_time() < until:
                pass


def nothing() -> None:
    """An empty task."""


class Candidate(ABC):
    """Measures return seconds for one go; a candidate leaves out what it has no word for."""

    name: str
    measures: dict[str, Callable[[], float]]

    def close(self) -> None:  # noqa: B027  # only those that have processes end them
        """Ends its processes."""


def timed(action: Callable[[], object]) -> float:
    """Seconds that `action` takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


class Process(Candidate):
    """The process engine."""

    name = "process"

    def __init__(self) -> None:
        self.runtime = Runtime("process")
        self.actor = self.runtime.spawn(Target)
        self.other = self.runtime.spawn(Target)
        self.runtime.get([self.actor.call(Target.nothing), self.other.call(Target.nothing)])
        self.measures = {
            "round_trip": lambda: timed(lambda: self.actor.call(Target.nothing).result()),
            "pipelined": lambda: timed(self.pipelined) / PIPELINED,
            "task": lambda: timed(lambda: self.runtime.submit(nothing).result()),
            "start": lambda: self.start(()),
            "start_torch": lambda: self.start(("torch",)),
        }
        for size in MEGABYTES:
            array = np.ones(size * 2**20, np.uint8)
            self.measures[f"put_get_{size}MB"] = partial(timed, partial(self.put_get, array))
            self.measures[f"driver_to_actor_{size}MB"] = partial(timed, partial(self.give, array))
            self.measures[f"actor_to_actor_{size}MB"] = partial(self.hand_over, size)

    def put_get(self, array: Array) -> None:
        self.runtime.put(array).result()

    def give(self, array: Array) -> None:
        self.actor.call(Target.ends, array).result()

    def pipelined(self) -> None:
        self.runtime.get([self.actor.call(Target.nothing) for _ in range(PIPELINED)])

    def start(self, preload: tuple[str, ...]) -> float:
        begin = time.perf_counter()
        actor = self.runtime.spawn(Target, preload=preload)
        actor.call(Target.nothing).result()
        seconds = time.perf_counter() - begin
        actor.kill()
        return seconds

    def hand_over(self, size: int) -> float:
        self.actor.call(Target.hold, size).result()
        give, ends = self.actor.call, self.other.call
        for _ in range(2):  # the segments of this size
            ends(Target.ends, give(Target.give)).result()
        return timed(lambda: ends(Target.ends, give(Target.give)).result())

    def close(self) -> None:
        self.runtime.shutdown()


class Ray(Candidate):
    """Ray Core on this machine alone."""

    name = "ray"

    def __init__(self) -> None:
        import ray

        self.ray = ray
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=2 * 2**30,
        )
        self.target = ray.remote(num_cpus=0)(Target)
        self.task = ray.remote(num_cpus=0)(nothing)
        self.actor, self.other = self.target.remote(), self.target.remote()
        ray.get([self.actor.nothing.remote(), self.other.nothing.remote()])
        self.measures = {
            "round_trip": lambda: timed(lambda: ray.get(self.actor.nothing.remote())),
            "pipelined": lambda: timed(self.pipelined) / PIPELINED,
            "task": lambda: timed(lambda: ray.get(self.task.remote())),
            "start": self.start,
        }
        for size in MEGABYTES:
            array = np.ones(size * 2**20, np.uint8)
            self.measures[f"put_get_{size}MB"] = partial(timed, partial(self.put_get, array))
            self.measures[f"driver_to_actor_{size}MB"] = partial(timed, partial(self.give, array))
            self.measures[f"actor_to_actor_{size}MB"] = partial(self.hand_over, size)

    def put_get(self, array: Array) -> None:
        self.ray.get(self.ray.put(array))

    def give(self, array: Array) -> None:
        self.ray.get(self.actor.ends.remote(array))

    def pipelined(self) -> None:
        self.ray.get([self.actor.nothing.remote() for _ in range(PIPELINED)])

    def start(self) -> float:
        begin = time.perf_counter()
        actor = self.target.remote()
        self.ray.get(actor.nothing.remote())
        seconds = time.perf_counter() - begin
        self.ray.kill(actor)
        return seconds

    def hand_over(self, size: int) -> float:
        self.ray.get(self.actor.hold.remote(size))
        for _ in range(2):
            self.ray.get(self.other.ends.remote(self.actor.give.remote()))
        return timed(lambda: self.ray.get(self.other.ends.remote(self.actor.give.remote())))

    def close(self) -> None:
        self.ray.shutdown()


class Pipe(Candidate):
    """multiprocessing.Pipe: pickles through a socket pair."""

    name = "pipe"

    def __init__(self) -> None:
        self.here, there = multiprocessing.get_context("spawn").Pipe()
        self.process = multiprocessing.get_context("spawn").Process(
            target=answer_pipe, args=(there,), daemon=True
        )
        self.process.start()
        self.call(None)
        self.measures = {
            "round_trip": lambda: timed(lambda: self.call(None)),
            "pipelined": lambda: timed(self.pipelined) / PIPELINED,
        }
        for size in MEGABYTES:
            array = np.ones(size * 2**20, np.uint8)
            self.measures[f"driver_to_actor_{size}MB"] = partial(timed, partial(self.call, array))

    def call(self, value: Any) -> Any:
        self.here.send(value)
        return self.here.recv()

    def pipelined(self) -> None:
        for _ in range(PIPELINED // 100):
            for _ in range(100):
                self.here.send(None)
            for _ in range(100):
                self.here.recv()

    def close(self) -> None:
        self.process.kill()
        self.process.join()


class Pool(Candidate):
    """concurrent.futures.ProcessPoolExecutor."""

    name = "futures"

    def __init__(self) -> None:
        self.pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        self.pool.submit(nothing).result()
        self.measures = {
            "task": lambda: timed(lambda: self.pool.submit(nothing).result()),
            "pipelined": lambda: timed(self.pipelined) / PIPELINED,
        }

    def pipelined(self) -> None:
        for future in [self.pool.submit(nothing) for _ in range(PIPELINED)]:
            future.result()

    def close(self) -> None:
        self.pool.shutdown()


class Zmq(Candidate):
    """The floor of a call: 64 bytes through ROUTER and DEALER and back."""

    name = "zmq"

    def __init__(self) -> None:
        import zmq

        self.directory = tempfile.TemporaryDirectory()
        address = f"ipc://{self.directory.name}/socket"
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.bind(address)
        self.process = multiprocessing.get_context("spawn").Process(
            target=answer_zmq, args=(address,), daemon=True
        )
        self.process.start()
        self.identity = self.socket.recv_multipart()[0]
        self.measures = {
            "round_trip": lambda: timed(self.round_trip),
            "pipelined": lambda: timed(self.pipelined) / PIPELINED,
        }

    def round_trip(self) -> None:
        self.socket.send_multipart([self.identity, b"x" * 64])
        self.socket.recv_multipart()

    def pipelined(self) -> None:
        for _ in range(PIPELINED // 100):
            for _ in range(100):
                self.socket.send_multipart([self.identity, b"x" * 64])
            for _ in range(100):
                self.socket.recv_multipart()

    def close(self) -> None:
        self.process.kill()
        self.process.join()
        self.socket.close(0)
        self.context.term()
        self.directory.cleanup()


class Memcpy(Candidate):
    """The floor of an array's way: one copy into shared memory that is mapped already."""

    name = "memcpy"

    def __init__(self) -> None:
        self.measures = {}
        for size in MEGABYTES:
            source = np.ones(size * 2**20, np.uint8)
            fd = os.memfd_create("memcpy")
            os.posix_fallocate(fd, 0, source.nbytes)
            target = np.frombuffer(mmap.mmap(fd, source.nbytes), np.uint8)
            os.close(fd)
            copy = partial(timed, partial(np.copyto, target, source))
            copy()
            for what in ("put_get", "driver_to_actor", "actor_to_actor"):
                self.measures[f"{what}_{size}MB"] = copy


def answer_pipe(connection: Any) -> None:
    """The other end of `Pipe`."""
    while True:
        connection.recv()
        connection.send(None)


def answer_zmq(address: str) -> None:
    """The other end of `Zmq`."""
    import zmq

    socket = zmq.Context().socket(zmq.DEALER)
    socket.connect(address)
    socket.send(b"hello")
    while True:
        socket.send_multipart(socket.recv_multipart())


CANDIDATES: tuple[type[Candidate], ...] = (Process, Ray, Pipe, Pool, Zmq, Memcpy)
