"""The Ray engine on a Ray of this machine. Skipped where the extra `ray` is not installed."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rl.core.runtime import Runtime, note_progress
from rl.errors import (
    ActorDied,
    Cancelled,
    NotSerializable,
    ResourcesUnavailable,
    RestartsExhausted,
    UsageError,
)
from rl.testing.runtimes import RUNTIME_CHECKS, RuntimeCheck

ray: Any = pytest.importorskip("ray", reason="needs the extra `ray`: pip install -e '.[ray]'")
pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]
PATIENCE = 240.0


@pytest.fixture
def runtime(ray_here: None) -> Iterator[Runtime]:
    with Runtime("ray") as runtime:
        yield runtime


@pytest.mark.parametrize("check", RUNTIME_CHECKS, ids=lambda check: check.__name__)
def test_ray_keeps_the_contract(runtime: Runtime, check: RuntimeCheck) -> None:
    check(runtime)


class Worker:
    def __init__(self, value: int = 0) -> None:
        self.value = value

    def add(self, amount: int) -> int:
        self.value += amount
        return self.value

    def ones(self, size: int) -> npt.NDArray[np.uint8]:
        return np.ones(size, np.uint8)

    def total(self, array: npt.NDArray[np.uint8]) -> int:
        return int(array.sum())

    def try_to_write(self, array: npt.NDArray[np.uint8]) -> bool:
        return bool(array.flags.writeable)

    def threads(self) -> dict[str, str]:
        return {name: text for name, text in os.environ.items() if name.endswith("_NUM_THREADS")}

    def variable(self, name: str) -> str | None:
        return os.environ.get(name)

    def crash(self) -> None:
        os._exit(5)

    def sleep(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    def slow_steps(self, steps: int, seconds: float) -> int:
        for _ in range(steps):
            time.sleep(seconds)
            note_progress()
        return steps

    def lock(self) -> Any:
        return threading.Lock()

    def touch_and_wait(self, file: str, seconds: float) -> None:
        Path(file).touch()
        time.sleep(seconds)


def wait_for(what: Any, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_killed_process_is_noticed_and_made_anew(runtime: Runtime) -> None:
    actor = runtime.spawn(Worker, 5, max_restarts=2)
    assert actor.call(Worker.add, 1).result(PATIENCE) == 6
    pid = actor.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: actor.restarts == 1)  # though nobody has called
    assert actor.call(Worker.add, 1).result(PATIENCE) == 6
    assert actor.pid != pid


def test_calls_under_way_fail_with_the_process_and_are_not_sent_again(runtime: Runtime) -> None:
    actor = runtime.spawn(Worker, max_restarts=1)
    actor.call(Worker.add, 1).result(PATIENCE)
    calls = [actor.call(Worker.sleep, 30.0), actor.call(Worker.add, 1)]
    assert actor.pid is not None
    os.kill(actor.pid, signal.SIGKILL)
    for call in calls:
        with pytest.raises(ActorDied, match="Worker-0"):
            call.result(PATIENCE)
    assert actor.call(Worker.add, 1).result(PATIENCE) == 1


def test_deaths_beyond_the_budget_are_final(runtime: Runtime) -> None:
    actor = runtime.spawn(Worker, max_restarts=1)
    with pytest.raises(ActorDied):
        actor.call(Worker.crash).result(PATIENCE)
    with pytest.raises(RestartsExhausted, match="1 times"):
        actor.call(Worker.crash).result(PATIENCE)


def test_a_hung_actor_is_killed_with_its_stack_and_replaced(ray_here: None) -> None:
    with Runtime("ray", step_timeout=1.0) as runtime:
        actor = runtime.spawn(Worker, max_restarts=1)
        actor.call(Worker.add, 1).result(PATIENCE)
        with pytest.raises(ActorDied, match=r"(?s)no progress in 'sleep' for 1 s.*time\.sleep"):
            actor.call(Worker.sleep, 1000.0).result(PATIENCE)
        assert actor.call(Worker.add, 1).result(PATIENCE) == 1


def test_slow_calls_that_get_on_are_left_alone(ray_here: None) -> None:
    with Runtime("ray", step_timeout=1.0) as runtime:
        actor = runtime.spawn(Worker)
        assert actor.call(Worker.slow_steps, 6, 0.4).result(PATIENCE) == 6
        assert actor.restarts == 0


def test_answers_of_an_incarnation_that_was_given_up_are_dropped_and_counted(
    ray_here: None,
) -> None:
    with Runtime("ray") as runtime:
        engine: Any = runtime._engine
        actor: Any = runtime.spawn(Worker, max_restarts=1)
        actor.call(Worker.add, 1).result(PATIENCE)
        first = actor._actor.worker
        os.kill(first.pid, signal.SIGKILL)
        wait_for(lambda: actor.restarts == 1)
        actor.call(Worker.add, 1).result(PATIENCE)
        late = ((0, "", None), None)  # as it would come out of Ray
        with engine.lock:
            before = engine._dispatcher.stale
            engine._dispatcher._answered(first, 1, *late)
            engine._dispatcher._handle_events()
            assert engine._dispatcher.stale == before + 1
        assert actor.call(Worker.add, 1).result(PATIENCE) == 2


def test_a_call_that_was_sent_but_not_begun_is_taken_back(runtime: Runtime, tmp_path: Path) -> None:
    actor = runtime.spawn(Worker)
    begun = actor.call(Worker.touch_and_wait, str(tmp_path / "begun"), 1.0)
    wait_for((tmp_path / "begun").exists)
    waiting = actor.call(Worker.add, 10)
    assert waiting.cancel()
    with pytest.raises(Cancelled):
        waiting.result(PATIENCE)
    assert not begun.cancel()
    assert actor.call(Worker.add, 1).result(PATIENCE) == 1


def test_one_thread_per_library_whatever_the_actor_reserves(runtime: Runtime) -> None:
    actor = runtime.spawn(Worker, resources={"cpu": 2})
    threads = actor.call(Worker.threads).result(PATIENCE)
    assert threads["OMP_NUM_THREADS"] == "1"
    assert set(threads.values()) == {"1"}


def test_environment_variables_of_runtime_and_actor(ray_here: None) -> None:
    with Runtime("ray", env_vars={"COLOUR": "red", "SHAPE": "round"}) as runtime:
        actor = runtime.spawn(Worker, environment={"COLOUR": "blue"})
        assert actor.call(Worker.variable, "SHAPE").result(PATIENCE) == "round"
        assert actor.call(Worker.variable, "COLOUR").result(PATIENCE) == "blue"


def test_arrays_arrive_read_only_small_and_large(runtime: Runtime) -> None:
    actor = runtime.spawn(Worker)
    for size in (10, 1_000_000):
        sent = actor.call(Worker.ones, size)
        assert not sent.result(PATIENCE).flags.writeable
        assert not actor.call(Worker.try_to_write, np.zeros(size, np.uint8)).result(PATIENCE)
        put = runtime.put(np.zeros(size, np.uint8))
        assert not actor.call(Worker.try_to_write, put.as_argument()).result(PATIENCE)


def test_arguments_are_those_of_the_moment_of_the_call(runtime: Runtime) -> None:
    slow, actor = runtime.spawn(Worker), runtime.spawn(Worker)
    for size in (10, 1_000_000):
        array = np.ones(size, np.uint8)
        slow.call(Worker.sleep, 0.2)
        actor.call(Worker.add, slow.call(Worker.add, 0).as_argument())  # holds the next one back
        total = actor.call(Worker.total, array)
        array[:] = 0
        assert total.result(PATIENCE) == size


def test_a_large_result_goes_to_another_actor_without_visiting_the_driver(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker, reader = runtime.spawn(Worker), runtime.spawn(Worker)
    fetched: list[Any] = []
    get = ray.get
    monkeypatch.setattr(ray, "get", lambda *a, **k: fetched.append(a) or get(*a, **k))
    made = maker.call(Worker.ones, 1_000_000)
    total = reader.call(Worker.total, made.as_argument())
    assert total.result(PATIENCE) == 1_000_000
    assert fetched == []
    assert made.result(PATIENCE).nbytes == 1_000_000
    assert len(fetched) == 1


def test_what_cannot_travel_is_named(runtime: Runtime) -> None:
    actor = runtime.spawn(Worker)
    with pytest.raises(NotSerializable, match=r"'add'.*argument 0 \(lock"):
        actor.call(Worker.add, threading.Lock()).result(PATIENCE)  # type: ignore[arg-type]
    with pytest.raises(NotSerializable, match="result of 'lock' cannot travel"):
        actor.call(Worker.lock).result(PATIENCE)
    with pytest.raises(NotSerializable, match="constructor"):
        runtime.spawn(Worker, threading.Lock())  # type: ignore[arg-type]


def test_resources_that_are_taken_make_the_next_actor_wait(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    first = runtime.spawn(Worker, name="first", resources={"arcade": 1})
    first.call(Worker.add, 1).result(PATIENCE)
    second = runtime.spawn(Worker, name="second", resources={"arcade": 1})
    waiting = second.call(Worker.add, 1)
    wait_for(lambda: "'second' waits for 1 arcade" in caplog.text)
    assert not waiting.done()
    first.kill()
    assert waiting.result(PATIENCE) == 1


def test_what_no_node_has_is_an_error_that_tells_what_there_is(runtime: Runtime) -> None:
    began = time.monotonic()
    with pytest.raises(ResourcesUnavailable, match=r"asks for 5 cpu.*1 node with .*4 cpu"):
        runtime.spawn(Worker, resources={"cpu": 5})
    with pytest.raises(ResourcesUnavailable, match=r"no room for 3 x 2 cpu .*4 cpu"):
        runtime.place([{"cpu": 2}] * 3)
    with pytest.raises(ResourcesUnavailable, match=r"2 x 1 cpu \(strict_spread\)"):
        runtime.place([{"cpu": 1}] * 2, "strict_spread")
    assert time.monotonic() - began < 20


def test_places_hold_their_room_until_the_runtime_ends(ray_here: None) -> None:
    with Runtime("ray") as runtime:
        places = runtime.place([{"cpu": 2}] * 2)
        actors = [runtime.spawn(Worker, place=place, max_restarts=1) for place in places]
        assert runtime.get([actor.call(Worker.add, 1) for actor in actors], PATIENCE) == [1, 1]
        with pytest.raises(ResourcesUnavailable):
            runtime.place([{"cpu": 1}])
        assert actors[0].pid is not None
        os.kill(actors[0].pid, signal.SIGKILL)
        wait_for(lambda: actors[0].restarts == 1)
        assert actors[0].call(Worker.add, 1).result(PATIENCE) == 1, "in the same place"
    with Runtime("ray") as runtime:
        assert len(runtime.place([{"cpu": 4}])) == 1


def test_two_runtimes_of_one_cluster_have_names_of_their_own(ray_here: None) -> None:
    with Runtime("ray") as first, Runtime("ray", namespace="theirs") as second:
        one = first.spawn(Worker, name="runner-0")
        two = second.spawn(Worker, name="runner-0")
        one.call(Worker.add, 1).result(PATIENCE)
        assert two.call(Worker.add, 2).result(PATIENCE) == 2
        names = {(actor["namespace"], actor["name"]) for actor in _named_actors()}
        assert ("theirs", "runner-0#1") in names
        assert len([name for _, name in names if name == "runner-0#1"]) == 2


def _named_actors() -> list[dict[str, str]]:
    from ray.util import list_named_actors

    found: list[dict[str, str]] = list_named_actors(all_namespaces=True)
    return found


def test_a_ray_that_others_made_is_left_as_it_was(ray_here: None) -> None:
    with Runtime("ray") as runtime:
        runtime.spawn(Worker).call(Worker.add, 1).result(PATIENCE)
    assert ray.is_initialized()
    wait_for(lambda: not _named_actors())
    with pytest.raises(UsageError, match=r"working_dir.*ray\.init"):
        Runtime("ray", working_dir=".")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"address": "ray://somewhere:10001"}, "ray job submit"),
        ({"address": "somewhere"}, "host:port"),
        ({"address": "local"}, "leave it out"),
        ({"address": "127.0.0.1:1"}, "nothing answers there"),
        ({"address": "auto", "resources": {"gpu": 1}}, "knows what it has"),
        ({"colour": "red"}, "no option colour; it has address, "),
    ],
)
def test_settings_that_cannot_be_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Runtime("ray", **options)
