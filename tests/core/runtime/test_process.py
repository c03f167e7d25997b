"""What only real processes can show: deaths, hangs, memory, and that nothing is left behind."""

import ctypes
import gc
import logging
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rl.core.runtime import ActorHandle, Runtime, note_progress
from rl.core.runtime.process import ProcessEngine
from rl.core.runtime.reactor import BUSY_TICK
from rl.errors import (
    ActorDied,
    ActorError,
    CallTimeout,
    Cancelled,
    NotSerializable,
    RestartsExhausted,
    UnknownMethod,
    UsageError,
)

ROOT = Path(__file__).parents[3]
PATIENCE = 20.0


def count(directory: str) -> int:
    return len(list(Path(directory).iterdir()))


class Worker:
    def __init__(self, value: int = 0) -> None:
        self.value = value

    def add(self, amount: int) -> int:
        self.value += amount
        return self.value

    def nothing(self) -> None:
        """An empty call: its message and its answer are the shortest."""

    def pid(self) -> int:
        return os.getpid()

    def ones(self, size: int) -> npt.NDArray[np.uint8]:
        return np.ones(size, np.uint8)

    def total(self, array: npt.NDArray[np.uint8]) -> int:
        return int(array.sum())

    def writeable(self, array: npt.NDArray[np.uint8]) -> bool:
        return array.flags.writeable

    def keep(self, array: npt.NDArray[np.uint8]) -> None:
        self.kept = array

    def keep_two(self, first: object, array: Any) -> None:
        self.kept = array

    def kept_total(self) -> int:
        return int(self.kept.sum())

    def echo(self, text: bytes) -> bytes:
        return text

    def sleep(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    def sleep_with_the_lock_held(self, seconds: int) -> None:
        ctypes.PyDLL(None).sleep(seconds)

    def sleep_in_steps(self, seconds: float) -> float:
        for _ in range(10):
            time.sleep(seconds / 10)
            note_progress()
        return seconds

    def crash(self) -> None:
        sys.stderr.write("about to crash\n")
        ctypes.string_at(0)

    def leave(self, code: int) -> None:
        os._exit(code)

    def unpicklable(self) -> Any:
        return threading.Lock()

    def raise_awkward(self) -> None:
        raise AwkwardError(1, 2)

    def start_child(self, new_session: bool) -> int:
        return subprocess.Popen(["sleep", "600"], start_new_session=new_session).pid

    def environment(self, name: str) -> str | None:
        return os.environ.get(name)

    def modules(self) -> list[str]:
        return sorted(sys.modules)

    def num_threads(self) -> int:
        return count("/proc/self/task")

    def touch(self, path: str) -> None:
        with Path(path).open("a") as file:
            file.write("x")

    def say(self, text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


class AwkwardError(Exception):
    """Cannot be made again from its arguments."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class FailsOnSecondLife:
    def __init__(self, path: str) -> None:
        with Path(path).open("a") as file:
            file.write("x")
        if Path(path).stat().st_size > 1:
            raise LookupError("gone for good")

    def pid(self) -> int:
        return os.getpid()


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    with Runtime("process") as made:
        yield made


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def engine_of(runtime: Runtime) -> ProcessEngine:
    assert isinstance(runtime._engine, ProcessEngine)
    return runtime._engine


# Deaths


def test_a_killed_actor_is_seen_at_once_and_made_anew(runtime: Runtime) -> None:
    actor = runtime.spawn(Worker, 5, max_restarts=3)
    assert actor.call(Worker.add, 1).result(PATIENCE) == 6
    assert actor.pid == actor.call(Worker.pid).result(PATIENCE)
    under_way = [actor.call(Worker.sleep, 60.0) for _ in range(3)]
    assert actor.pid is not None
    start = time.monotonic()
    os.kill(actor.pid, signal.SIGKILL)
    for future in under_way:
        with pytest.raises(ActorDied, match=r"'Worker-0': process \d+ ended: SIGKILL"):
            future.result(PATIENCE)
    assert time.monotonic() - start < 1.0
    assert actor.call(Worker.add, 1).result(PATIENCE) == 6
    assert actor.restarts == 1


def test_many_kills_at_random_moments_within_the_budget_are_survived(runtime: Runtime) -> None:
    actor = runtime.spawn(Worker, max_restarts=100)
    rng = np.random.default_rng(0)
    completed = kills = 0
    while kills < 25:
        try:
            actor.call(Worker.add, 1).result(PATIENCE)
            completed += 1
        except ActorDied:
            continue
        if actor.pid is not None and rng.random() < 0.5:
            time.sleep(float(rng.random()) * 0.002)
            os.kill(actor.pid, signal.SIGKILL)
            kills += 1
    assert completed >= 25
    assert eventually(lambda: actor.restarts == 25)


def test_a_crash_tells_its_signal_and_its_last_lines(runtime: Runtime) -> None:
    actor = runtime.spawn(Worker)
    with pytest.raises(ActorDied) as caught:
        actor.call(Worker.crash).result(PATIENCE)
    assert "SIGSEGV" in str(caught.value)
    assert "about to crash" in str(caught.value)
    assert "in crash" in str(caught.value)  # faulthandler's stack


def test_leaving_with_exit_code_0_is_a_death_too(runtime: Runtime) -> None:
    actor = runtime.spawn(Worker)
    with pytest.raises(ActorDied, match="exit code 0"):
        actor.call(Worker.leave, 0).result(PATIENCE)


def test_the_same_crash_three_times_without_a_completed_call_is_final(runtime: Runtime) -> None:
    actor = runtime.spawn(Worker, max_restarts=50)
    for _ in range(2):
        with pytest.raises(ActorDied):
            actor.call(Worker.crash).result(PATIENCE)
    with pytest.raises(RestartsExhausted, match="3 times in a row"):
        actor.call(Worker.crash).result(PATIENCE)


def test_a_constructor_that_fails_on_restart_shows_its_own_error(
    runtime: Runtime, tmp_path: Path
) -> None:
    actor = runtime.spawn(FailsOnSecondLife, str(tmp_path / "lives"), max_restarts=5)
    os.kill(actor.call(FailsOnSecondLife.pid).result(PATIENCE), signal.SIGKILL)
    eventually(lambda: actor.restarts == 1)
    with pytest.raises(ActorError) as caught:
        actor.call(FailsOnSecondLife.pid).result(PATIENCE)
    assert isinstance(caught.value.__cause__, LookupError)


def test_actors_survive_the_death_of_the_forkserver(runtime: Runtime) -> None:
    actor = runtime.spawn(Worker, max_restarts=3)
    worker = actor.call(Worker.pid).result(PATIENCE)
    child = actor.call(Worker.start_child, False).result(PATIENCE)
    (launcher,) = engine_of(runtime)._dispatcher._launchers
    launcher._forkserver.process.kill()
    assert eventually(lambda: actor.restarts == 1)
    assert actor.call(Worker.pid).result(PATIENCE) != worker
    assert eventually(lambda: not alive(worker))
    assert eventually(lambda: not alive(child))


# Hangs


@pytest.mark.parametrize(
    "method", [Worker.sleep, Worker.sleep_with_the_lock_held], ids=lambda method: method.__name__
)
def test_a_hung_actor_is_killed_with_its_stack_and_replaced(method: Any) -> None:
    with Runtime("process", step_timeout=0.5) as runtime:
        actor = runtime.spawn(Worker, max_restarts=1)
        pid = actor.call(Worker.pid).result(PATIENCE)
        with pytest.raises(ActorDied) as caught:
            actor.call(method, 600).result(PATIENCE)
        assert f"no progress in '{method.__name__}' for 0.5 s" in str(caught.value)
        assert f"in {method.__name__}" in str(caught.value).partition("last lines")[2]
        assert not alive(pid)
        assert actor.call(Worker.add, 1).result(PATIENCE) == 1


def test_a_stopped_process_counts_as_hung() -> None:
    with Runtime("process") as runtime:
        actor = runtime.spawn(Worker, max_restarts=1, step_timeout=0.5)
        os.kill(actor.call(Worker.pid).result(PATIENCE), signal.SIGSTOP)
        with pytest.raises(ActorDied, match="no progress in 'add'"):
            actor.call(Worker.add, 1).result(PATIENCE)
        assert actor.call(Worker.add, 1).result(PATIENCE) == 1


def test_slow_calls_that_get_on_are_left_alone() -> None:
    with Runtime("process", step_timeout=0.5) as runtime:
        actor = runtime.spawn(Worker)
        futures = [actor.call(Worker.sleep_in_steps, 1.0), actor.call(Worker.sleep, 0.3)]
        assert runtime.get(futures, timeout=PATIENCE) == [1.0, 0.3]
        assert actor.restarts == 0


def test_a_result_that_is_not_there_in_time_raises_and_the_call_goes_on(runtime: Runtime) -> None:
    actor = runtime.spawn(Worker)
    future = actor.call(Worker.sleep, 0.3)
    with pytest.raises(CallTimeout, match=r"no answer to 'sleep' within 0\.05 s"):
        future.result(0.05)
    with pytest.raises(TimeoutError):
        runtime.get([future], timeout=0.05)
    assert future.result(PATIENCE) == 0.3


# What cannot travel


def test_an_argument_that_cannot_travel_is_named(runtime: Runtime) -> None:
    actor = runtime.spawn(Worker)
    future = actor.call(Worker.keep, threading.Lock())  # type: ignore[arg-type]
    with pytest.raises(NotSerializable, match=r"method 'keep': argument 0 \(lock: "):
        future.result(PATIENCE)
    with pytest.raises(NotSerializable, match="constructor: argument 1"):
        runtime.spawn(Worker, threading.Lock())
    with pytest.raises(NotSerializable, match="put"):
        runtime.put(threading.Lock())
    assert actor.call(Worker.add, 1).result(PATIENCE) == 1


def test_a_handle_is_no_argument(runtime: Runtime) -> None:
    actor = runtime.spawn(Worker)
    with pytest.raises(NotSerializable, match="a handle stays in the process"):
        actor.call(Worker.keep, actor).result(PATIENCE)  # type: ignore[arg-type]


def test_a_result_that_cannot_travel_is_told(runtime: Runtime) -> None:
    actor = runtime.spawn(Worker)
    with pytest.raises(NotSerializable, match="result of 'unpicklable'"):
        actor.call(Worker.unpicklable).result(PATIENCE)
    assert actor.call(Worker.add, 1).result(PATIENCE) == 1


def test_an_exception_that_cannot_be_made_again_comes_as_its_traceback(runtime: Runtime) -> None:
    actor = runtime.spawn(Worker)
    with pytest.raises(ActorError, match="raised AwkwardError: 1 and 2") as caught:
        actor.call(Worker.raise_awkward).result(PATIENCE)
    assert "in raise_awkward" in str(caught.value.__cause__)


def test_the_remote_traceback_is_the_cause_of_the_original(runtime: Runtime) -> None:
    with pytest.raises(ActorError) as caught:
        runtime.submit(int, "x").result(PATIENCE)
    assert isinstance(caught.value.__cause__, ValueError)
    assert "Traceback" in str(caught.value.__cause__.__cause__)


# Cancelling


def test_a_call_that_was_sent_but_not_begun_is_taken_back(runtime: Runtime, tmp_path: Path) -> None:
    actor = runtime.spawn(Worker)
    actor.call(Worker.pid).result(PATIENCE)
    running = actor.call(Worker.sleep, 0.5)
    time.sleep(0.2)
    behind = [actor.call(Worker.touch, str(tmp_path / "touched")) for _ in range(2)]
    assert behind[0].cancel()
    assert not running.cancel()
    with pytest.raises(Cancelled, match="'touch' was cancelled"):
        behind[0].result(PATIENCE)
    assert running.result(PATIENCE) == 0.5
    behind[1].result(PATIENCE)
    assert (tmp_path / "touched").read_text() == "x"
    assert not behind[1].cancel()


def test_tasks_share_as_many_workers_as_there_are_cores() -> None:
    with Runtime("process", resources={"cpu": 2}) as runtime:
        for _ in range(4):
            runtime.get([runtime.submit(abs, -number) for number in range(10)], timeout=PATIENCE)
        assert len(engine_of(runtime)._dispatcher.actors) == 2


def test_a_task_whose_worker_dies_fails_and_the_next_gets_a_new_one() -> None:
    with Runtime("process", resources={"cpu": 1}) as runtime:
        for _ in range(3):
            with pytest.raises(ActorDied, match="exit code 5"):
                runtime.submit(os._exit, 5).result(PATIENCE)
            assert runtime.submit(abs, -1).result(PATIENCE) == 1
        assert len(engine_of(runtime)._dispatcher.actors) == 1


def test_a_task_that_waits_is_taken_back() -> None:
    with Runtime("process", resources={"cpu": 1}) as runtime:
        first, second = runtime.submit(time.sleep, 0.3), runtime.submit(time.sleep, 600.0)
        assert second.cancel()
        assert second.done()
        assert first.result(PATIENCE) is None
        with pytest.raises(Cancelled):
            second.result(PATIENCE)


# Memory


def test_arrays_arrive_read_only_small_and_large(runtime: Runtime) -> None:
    actor = runtime.spawn(Worker)
    for size in (10, 1_000_000):
        result = actor.call(Worker.ones, size).result(PATIENCE)
        assert not result.flags.writeable
        assert not actor.call(Worker.writeable, np.ones(size, np.uint8)).result(PATIENCE)
        assert not runtime.put(np.ones(size, np.uint8)).result(PATIENCE).flags.writeable


def test_an_array_between_actors_is_never_mapped_by_the_driver(runtime: Runtime) -> None:
    maker, reader = runtime.spawn(Worker), runtime.spawn(Worker)
    array = maker.call(Worker.ones, 4_000_000)
    assert reader.call(Worker.total, array.as_argument()).result(PATIENCE) == 4_000_000
    (segment,) = engine_of(runtime)._dispatcher.book._foreign.values()
    assert segment._memory is None
    assert array.result(PATIENCE).sum() == 4_000_000
    assert segment._memory is not None


def test_segments_are_used_again(runtime: Runtime) -> None:
    maker, reader = runtime.spawn(Worker), runtime.spawn(Worker)
    for _ in range(50):
        array = maker.call(Worker.ones, 1_000_000)
        reader.call(Worker.total, array.as_argument()).result(PATIENCE)
        reader.call(Worker.total, np.ones(1_000_000, np.uint8)).result(PATIENCE)
        del array
    book = engine_of(runtime)._dispatcher.book
    assert len(book._foreign) <= 3
    assert len(book.pool._free) + len(book.pool._lent) <= 3


def test_an_array_that_an_actor_keeps_is_not_overwritten(runtime: Runtime) -> None:
    actor = runtime.spawn(Worker)
    actor.call(Worker.keep, np.ones(1_000_000, np.uint8)).result(PATIENCE)
    for _ in range(5):
        actor.call(Worker.total, np.zeros(1_000_000, np.uint8)).result(PATIENCE)
    assert actor.call(Worker.kept_total).result(PATIENCE) == 1_000_000


def load_fails() -> None:
    raise ValueError("cannot be loaded")


class FailsToLoad:
    def __reduce__(self) -> Any:
        return load_fails, ()


def unknown(worker: Worker, first: object, array: Any) -> None:
    """No method of it."""


def test_arguments_that_nobody_looked_at_come_back(runtime: Runtime) -> None:
    actor = runtime.spawn(Worker)
    ref = runtime.put(np.ones(1_000_000, np.uint8)).as_argument()
    with pytest.raises(NotSerializable, match="an argument of 'keep_two' cannot be read"):
        actor.call(Worker.keep_two, FailsToLoad(), ref).result(PATIENCE)
    with pytest.raises(UnknownMethod):
        actor.call(unknown, None, ref).result(PATIENCE)
    actor.call(Worker.sleep, 0.2)
    assert actor.call(Worker.keep_two, None, ref).cancel()
    assert actor.call(Worker.add, 1).result(PATIENCE) == 1
    (worker,) = engine_of(runtime)._dispatcher.workers.values()
    assert not worker.partner.loans
    actor.call(Worker.keep_two, None, ref).result(PATIENCE)
    assert len(worker.partner.loans) == 1


def test_what_a_dead_actor_sent_stays_and_what_it_was_lent_comes_back(runtime: Runtime) -> None:
    actor = runtime.spawn(Worker, max_restarts=1)
    result = actor.call(Worker.ones, 1_000_000)
    actor.call(Worker.keep, np.ones(1_000_000, np.uint8)).result(PATIENCE)
    assert actor.pid is not None
    os.kill(actor.pid, signal.SIGKILL)
    assert eventually(lambda: actor.restarts == 1)
    assert actor.call(Worker.total, result.as_argument()).result(PATIENCE) == 1_000_000
    assert result.result(PATIENCE).sum() == 1_000_000
    book = engine_of(runtime)._dispatcher.book
    assert eventually(lambda: not book.pool._lent)


def test_large_results_do_not_touch_dev_shm(runtime: Runtime) -> None:
    before = os.statvfs("/dev/shm").f_bfree
    results = [runtime.spawn(Worker).call(Worker.ones, 20_000_000) for _ in range(2)]
    assert [future.result(PATIENCE).sum() for future in results] == [20_000_000] * 2
    assert os.statvfs("/dev/shm").f_bfree == before


# Workers


def test_a_light_worker_has_no_torch_and_one_thread_per_library(runtime: Runtime) -> None:
    actor = runtime.spawn(Worker, preload=())
    modules = actor.call(Worker.modules).result(PATIENCE)
    assert "numpy" in modules
    assert "torch" not in modules
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        assert actor.call(Worker.environment, name).result(PATIENCE) == "1"
    # Its own, the life-line, and two of the transport.
    assert actor.call(Worker.num_threads).result(PATIENCE) <= 4


def test_environment_variables_are_there_before_anything_is_imported(runtime: Runtime) -> None:
    actor = runtime.spawn(Worker, environment={"OMP_NUM_THREADS": "3", "MINE": "yes"})
    assert actor.call(Worker.environment, "MINE").result(PATIENCE) == "yes"
    assert actor.call(Worker.environment, "OMP_NUM_THREADS").result(PATIENCE) == "3"
    assert "MINE" not in os.environ
    assert runtime.spawn(Worker).call(Worker.environment, "MINE").result(PATIENCE) is None


def test_what_a_worker_prints_is_logged_with_its_name(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "rl.workers"):
        actor = runtime.spawn(Worker, name="talker")
        actor.call(Worker.say, "hello there").result(PATIENCE)
        assert eventually(lambda: "talker: hello there" in caplog.messages)


def test_an_actor_waits_for_resources_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with Runtime("process", resources={"gpu": 1}) as runtime:
        first = runtime.spawn(Worker, name="first", resources={"gpu": 1})
        second = runtime.spawn(Worker, name="second", resources={"gpu": 0.5})
        assert "actor 'second' waits for 0.5 gpu (free: 0 of 1)" in caplog.text
        future = second.call(Worker.add, 1)
        assert first.call(Worker.add, 1).result(PATIENCE) == 1
        assert not future.done()
        first.kill()
        assert future.result(PATIENCE) == 1


def test_calls_from_many_threads_get_their_own_answers(runtime: Runtime) -> None:
    actor = runtime.spawn(Worker)
    wrong: list[int] = []

    def ask() -> None:
        last = 0
        for _ in range(200):
            value = actor.call(Worker.add, 1).result(PATIENCE)
            if value <= last:
                wrong.append(value)
            last = value

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert actor.call(Worker.add, 0).result(PATIENCE) == 800


def test_no_answer_waits_for_the_next_tick(runtime: Runtime) -> None:
    actors = [runtime.spawn(Worker) for _ in range(2)]
    runtime.get([actor.call(Worker.add, 1) for actor in actors], timeout=PATIENCE)
    seconds = []
    for _ in range(20):
        start = time.monotonic()
        for future in [actor.call(Worker.add, 1) for actor in actors]:
            future.result(PATIENCE)
        actors[0].call(Worker.nothing).result(PATIENCE)
        seconds.append(time.monotonic() - start)
    assert float(np.median(seconds)) < BUSY_TICK / 4


def test_more_than_the_sockets_hold_goes_both_ways_while_nobody_reads(runtime: Runtime) -> None:
    actor = runtime.spawn(Worker)
    busy = actor.call(Worker.sleep, 0.3)
    texts = [bytes([number]) * 30_000 for number in range(200)]  # 6 MB, none in a segment
    futures = [actor.call(Worker.echo, text) for text in texts]
    assert not busy.done()  # so nothing was read yet, and nobody waited to send
    assert runtime.get(futures, timeout=PATIENCE) == texts


def test_a_callback_runs_though_nobody_waits(runtime: Runtime) -> None:
    actor = runtime.spawn(Worker)
    seen = threading.Event()
    actor.call(Worker.sleep, 0.05).add_done_callback(lambda future: seen.set())
    assert seen.wait(PATIENCE)


# Nothing is left


def kill_by_handle(actor: ActorHandle[Worker]) -> None:
    actor.kill()


def kill_worker_alone(actor: ActorHandle[Worker]) -> None:
    assert actor.pid is not None
    os.kill(actor.pid, signal.SIGKILL)


@pytest.mark.parametrize("end", [kill_worker_alone, kill_by_handle], ids=lambda end: end.__name__)
def test_grandchildren_die_with_their_worker(
    runtime: Runtime, end: Callable[[ActorHandle[Worker]], None]
) -> None:
    actor = runtime.spawn(Worker)
    child = actor.call(Worker.start_child, False).result(PATIENCE)
    assert alive(child)
    end(actor)
    assert eventually(lambda: not alive(child))


def test_shutdown_leaves_no_process_thread_file_or_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    gc.collect()
    before = (count("/proc/self/fd"), threading.active_count())
    with Runtime("process") as runtime:
        assert count(str(tmp_path)) == 0
        actors = [runtime.spawn(Worker) for _ in range(3)]
        pids = [actor.call(Worker.pid).result(PATIENCE) for actor in actors]
        pids += [
            actor.call(Worker.start_child, i > 0).result(PATIENCE) for i, actor in enumerate(actors)
        ]
        runtime.get([actor.call(Worker.ones, 1_000_000) for actor in actors])
        busy = actors[0].call(Worker.sleep, 600.0)
    with pytest.raises(ActorDied, match="shut down"):
        busy.result(PATIENCE)
    assert not any(alive(pid) for pid in pids)
    gc.collect()
    assert (count("/proc/self/fd"), threading.active_count()) == before
    assert count(str(tmp_path)) == 0


def test_many_calls_and_starts_leak_no_descriptor_or_process(runtime: Runtime) -> None:
    keeper = runtime.spawn(Worker)
    keeper.call(Worker.add, 1).result(PATIENCE)

    def once() -> None:
        actor = runtime.spawn(Worker)
        actor.call(Worker.add, 1).result(PATIENCE)
        actor.kill()
        runtime.get([keeper.call(Worker.add, 1) for _ in range(100)])

    once()
    workers = engine_of(runtime)._dispatcher.workers
    eventually(lambda: len(workers) == 1)
    before = count("/proc/self/fd")
    for _ in range(20):
        once()
    assert eventually(lambda: len(workers) == 1)
    assert eventually(lambda: count("/proc/self/fd") == before)
    assert list(engine_of(runtime)._dispatcher.actors) == [keeper.name]


SCRIPT = """
import os, sys, time
import rl.core.runtime as runtime_module

class Busy:
    def start(self, new_session):
        import subprocess
        return [os.getpid(), subprocess.Popen(["sleep", "600"], start_new_session=new_session).pid]
    def wait(self):
        time.sleep(600)

runtime = runtime_module.Runtime("process")
actors = [runtime.spawn(Busy) for _ in range(2)]
pids = sum([a.call(Busy.start, i == 1).result(20) for i, a in enumerate(actors)], [])
waiting = [a.call(Busy.wait) for a in actors]
print(*pids, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_when_the_driver_dies_everything_dies(how: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, env=environment, text=True
    ) as driver:
        assert driver.stdout is not None
        pids = [int(word) for word in driver.stdout.readline().split()]
        assert len(pids) == 4
        assert all(alive(pid) for pid in pids)
        driver.send_signal(how)
    assert eventually(lambda: not any(alive(pid) for pid in pids), 5.0)
    assert eventually(lambda: list(tmp_path.iterdir()) == [script], 5.0)


def test_a_fork_of_the_driver_that_exits_does_no_harm(runtime: Runtime) -> None:
    actor = runtime.spawn(Worker)
    actor.call(Worker.add, 1).result(PATIENCE)
    child = os.fork()
    if child == 0:
        runtime.shutdown()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert actor.call(Worker.add, 1).result(PATIENCE) == 2


def test_a_preloaded_module_that_fails_is_the_actors_own_error(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fails_to_import.py").write_text("raise RuntimeError('at import')")
    monkeypatch.syspath_prepend(tmp_path)
    actor = runtime.spawn(Worker, preload=("fails_to_import", "there_is_no_such_module"))
    assert actor.call(Worker.add, 1).result(PATIENCE) == 1


def test_an_actor_starts_though_the_directory_of_the_driver_is_gone(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert runtime.spawn(Worker).call(Worker.add, 1).result(PATIENCE) == 1


HUNG = """
import ctypes, os, time
from rl.core.runtime import Runtime

class Hung:
    def pids(self):
        return [os.getpid(), os.getppid()]
    def hang(self):
        ctypes.PyDLL(None).sleep(600)

runtime = Runtime("process")
actor = runtime.spawn(Hung)
print(*actor.call(Hung.pids).result(20), flush=True)
waiting = actor.call(Hung.hang)
time.sleep(600)
"""


def test_a_worker_that_hangs_in_native_code_dies_with_driver_and_forkserver(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", HUNG], stdout=subprocess.PIPE, env=environment, text=True
    ) as driver:
        assert driver.stdout is not None
        worker, forkserver = (int(word) for word in driver.stdout.readline().split())
        time.sleep(0.2)
        driver.send_signal(signal.SIGSTOP)
        os.kill(forkserver, signal.SIGKILL)
        driver.kill()
    assert eventually(lambda: not alive(worker), 5.0)


def test_a_worker_takes_no_ctrl_c(runtime: Runtime) -> None:
    actor = runtime.spawn(Worker)
    os.kill(actor.call(Worker.pid).result(PATIENCE), signal.SIGINT)
    assert actor.call(Worker.add, 1).result(PATIENCE) == 1


def test_ctrl_c_reaches_the_driver_alone() -> None:
    program = textwrap.dedent("""
        import os, signal, sys, time
        from rl.core.runtime import Runtime
        class Slow:
            def work(self):
                time.sleep(0.5)
                return "finished"
        with Runtime("process") as runtime:
            actor = runtime.spawn(Slow)
            future = actor.call(Slow.work)
            try:
                os.killpg(0, signal.SIGINT)
                time.sleep(5)
            except KeyboardInterrupt:
                print(future.result(20), actor.restarts)
    """)
    done = subprocess.run(
        [sys.executable, "-"],
        input=program,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == ("finished 0", "")


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match="step_timeout is -1"):
        Runtime("process", step_timeout=-1)
    with Runtime("process") as runtime, pytest.raises(UsageError, match="max_restarts is -1"):
        runtime.spawn(Worker, max_restarts=-1)
    with pytest.raises(UsageError, match="'proces' does not exist"):
        Runtime("proces")
