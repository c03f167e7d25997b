"""What every engine has to do, as checks that anybody can run on theirs.

    from rl.testing.runtimes import RUNTIME_CHECKS, check_runtime
    check_runtime(lambda: rl.Runtime(engine=MyEngine()))        # all of them
    pytest.mark.parametrize("check", RUNTIME_CHECKS)            # or one test each

A check gets a fresh runtime and raises AssertionError when the contract is broken.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from rl.core.runtime import ActorHandle, Runtime
from rl.errors import (
    ActorDied,
    ActorError,
    ResourcesUnavailable,
    RestartsExhausted,
    UnknownMethod,
    UsageError,
)

__all__ = ["RUNTIME_CHECKS", "RuntimeCheck", "check_runtime"]

RuntimeCheck = Callable[[Runtime], None]
PATIENCE_S = 30.0
"""For whatever should take milliseconds, on a machine that is busy."""


def check_runtime(make_runtime: Callable[[], Runtime]) -> None:
    """Runs every check on a runtime of its own. Raises an ExceptionGroup of all that failed."""
    failed: list[Exception] = []
    for check in RUNTIME_CHECKS:
        try:
            with make_runtime() as runtime:
                check(runtime)
        except Exception as error:
            error.add_note(f"in {check.__name__}")
            failed.append(error)
    if failed:
        raise ExceptionGroup(
            f"{len(failed)} of {len(RUNTIME_CHECKS)} runtime checks failed", failed
        )


class Ledger:
    """An actor that writes down what happens to it."""

    def __init__(self, start: float = 0.0, *, step: float = 1.0) -> None:
        self.total = start
        self.step = step
        self.entries: list[int] = []

    def add(self, amount: float, times: int = 1) -> float:
        self.total += amount * times * self.step
        return self.total

    def enter(self, number: int) -> int:
        self.entries.append(number)
        return number

    def book(self) -> list[int]:
        return self.entries

    def fill(self, size: int, value: float) -> npt.NDArray[np.float64]:
        return np.full(size, value)

    def sum_of(self, array: npt.NDArray[np.float64], *, scale: float = 1.0) -> float:
        return float(array.sum()) * scale

    def echo(self, value: Any) -> Any:
        return value

    def refuse(self) -> None:
        raise ZeroDivisionError("the user's own mistake")

    def leave(self) -> None:
        raise SystemExit(3)

    def wait_a_little(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds


class Broken:
    """An actor that cannot be made."""

    def __init__(self) -> None:
        raise LookupError("nothing there")

    def anything(self) -> None:
        """Never runs."""


def double(value: Any) -> Any:
    """A task."""
    return value * 2


def fail(message: str) -> None:
    """A task that fails."""
    raise ValueError(message)


def raised_by(action: Callable[[], object], kind: type[BaseException]) -> BaseException:
    """The error of `kind` that `action` raises."""
    try:
        action()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


def check_calls_return_values(runtime: Runtime) -> None:
    """Positional and keyword arguments arrive, results come back, state stays."""
    actor = runtime.spawn(Ledger, 10.0, step=2.0)
    assert actor.call(Ledger.add, 1.0).result(PATIENCE_S) == 12.0
    assert actor.call(Ledger.add, 1.0, times=3).result(PATIENCE_S) == 18.0
    assert actor.call(Ledger.echo, None).result(PATIENCE_S) is None


def check_calls_run_in_order(runtime: Runtime) -> None:
    """Many calls under way at once run one after the other, as they were made."""
    actor = runtime.spawn(Ledger)
    futures = [actor.call(Ledger.enter, number) for number in range(1000)]
    assert runtime.get(futures, timeout=PATIENCE_S) == list(range(1000))
    assert actor.call(Ledger.book).result(PATIENCE_S) == list(range(1000))


def check_actors_are_separate(runtime: Runtime) -> None:
    """Two actors of one class share nothing."""
    first, second = runtime.spawn(Ledger, 1.0), runtime.spawn(Ledger, 2.0)
    first.call(Ledger.add, 10.0).result(PATIENCE_S)
    assert second.call(Ledger.add, 0.0).result(PATIENCE_S) == 2.0
    assert first.name != second.name


def check_futures_are_arguments(runtime: Runtime) -> None:
    """A future as an argument is replaced by its value, finished or not, by place and by name."""
    maker, reader = runtime.spawn(Ledger), runtime.spawn(Ledger)
    array = maker.call(Ledger.fill, 100_000, 0.5)
    assert reader.call(Ledger.sum_of, array.as_argument()).result(PATIENCE_S) == 50_000.0
    scale = maker.call(Ledger.echo, 2.0)
    ready = maker.call(Ledger.fill, 10, 1.0)
    ready.result(PATIENCE_S)
    assert (
        reader.call(Ledger.sum_of, ready.as_argument(), scale=scale.as_argument()).result(
            PATIENCE_S
        )
        == 20.0
    )
    started = runtime.spawn(Ledger, maker.call(Ledger.echo, 7.0))
    assert started.call(Ledger.add, 0.0).result(PATIENCE_S) == 7.0


def check_a_waiting_call_keeps_its_place(runtime: Runtime) -> None:
    """A call that waits for an argument is not overtaken by later calls on the same actor."""
    slow, actor = runtime.spawn(Ledger), runtime.spawn(Ledger)
    late = slow.call(Ledger.wait_a_little, 0.1)
    slow_entry = slow.call(Ledger.echo, 1)
    actor.call(Ledger.echo, late)
    actor.call(Ledger.enter, slow_entry.as_argument())
    actor.call(Ledger.enter, 2)
    assert actor.call(Ledger.book).result(PATIENCE_S) == [1, 2]


def check_objects(runtime: Runtime) -> None:
    """What was put comes back, to the caller and to every callee, large or small."""
    array = np.arange(200_000, dtype=np.float64)
    ref = runtime.put(array)
    np.testing.assert_array_equal(ref.result(PATIENCE_S), array)
    actors = [runtime.spawn(Ledger) for _ in range(2)]
    sums = [actor.call(Ledger.sum_of, ref.as_argument()) for actor in actors for _ in range(3)]
    assert runtime.get(sums, timeout=PATIENCE_S) == [array.sum()] * 6
    assert runtime.get(runtime.put({"a": 1}), timeout=PATIENCE_S) == {"a": 1}


def check_values_survive_later_calls(runtime: Runtime) -> None:
    """An array that a caller or an actor keeps does not change when memory is used again."""
    actor, keeper = runtime.spawn(Ledger), runtime.spawn(Ledger)
    kept = [actor.call(Ledger.fill, 50_000, float(i)).result(PATIENCE_S) for i in range(8)]
    held = keeper.call(Ledger.echo, actor.call(Ledger.fill, 50_000, 1.5))
    for i in range(8):
        actor.call(Ledger.fill, 50_000, -1.0 - i).result(PATIENCE_S)
    assert [float(array[0]) for array in kept] == [float(i) for i in range(8)]
    assert [float(array[-1]) for array in kept] == [float(i) for i in range(8)]
    assert float(held.result(PATIENCE_S).sum()) == 75_000.0


def check_array_kinds_survive(runtime: Runtime) -> None:
    """Every dtype, shape and memory order arrives as it left, small and large."""
    actor = runtime.spawn(Ledger)
    base = np.arange(24_000).reshape(20, 30, 40)
    for value in (
        base,
        np.asfortranarray(base),
        base[::2, :, ::-1],
        base.astype(np.uint8),
        np.zeros((0, 3), np.float32),
        np.array(3.0),
        np.array([True, False]),
        base.astype("f4")[:3, :2, :1],
    ):
        got = actor.call(Ledger.echo, value).result(PATIENCE_S)
        assert got.dtype == value.dtype
        np.testing.assert_array_equal(got, value)


def check_tasks(runtime: Runtime) -> None:
    """Stateless functions run, take futures, and fail with their own error as the cause."""
    futures = [runtime.submit(double, number) for number in range(20)]
    assert runtime.get(futures, timeout=PATIENCE_S) == [2 * number for number in range(20)]
    assert runtime.submit(double, futures[3]).result(PATIENCE_S) == 12
    error = raised_by(lambda: runtime.submit(fail, "so").result(PATIENCE_S), ActorError)
    assert isinstance(error.__cause__, ValueError)


def check_wait(runtime: Runtime) -> None:
    """`wait` returns what is done, at most as many as asked for, in the order given."""
    actor = runtime.spawn(Ledger)
    futures = [actor.call(Ledger.enter, number) for number in range(4)]
    ready, pending = runtime.wait(futures, num_returns=4, timeout=PATIENCE_S)
    assert (ready, pending) == (futures, [])
    ready, pending = runtime.wait(futures, num_returns=2, timeout=PATIENCE_S)
    assert (ready, pending) == (futures[:2], futures[2:])
    raised_by(lambda: runtime.wait(futures, num_returns=5), UsageError)


def check_done_callbacks(runtime: Runtime) -> None:
    """A callback runs once, for a future that will finish and for one that has."""
    actor = runtime.spawn(Ledger)
    seen: list[float] = []
    future = actor.call(Ledger.add, 1.0)
    future.add_done_callback(lambda done: seen.append(done.result()))
    future.result(PATIENCE_S)
    future.add_done_callback(lambda done: seen.append(done.result()))
    deadline = time.monotonic() + PATIENCE_S
    while len(seen) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert seen == [1.0, 1.0]


def check_errors_arrive(runtime: Runtime) -> None:
    """An exception comes with the future, its cause the original; the actor lives on."""
    actor = runtime.spawn(Ledger, name="culprit")
    actor.call(Ledger.enter, 1)
    future = actor.call(Ledger.refuse)
    error = raised_by(lambda: future.result(PATIENCE_S), ActorError)
    assert isinstance(error.__cause__, ZeroDivisionError)
    assert "culprit" in str(error)
    assert "refuse" in str(error)
    assert isinstance(future.exception(PATIENCE_S), ActorError)
    assert actor.call(Ledger.book).result(PATIENCE_S) == [1]
    assert actor.restarts == 0


def check_a_failed_argument_fails_the_call(runtime: Runtime) -> None:
    """A call whose argument failed does not run; it gives the argument's error."""
    actor, other = runtime.spawn(Ledger), runtime.spawn(Ledger)
    future = other.call(Ledger.echo, actor.call(Ledger.refuse))
    other.call(Ledger.enter, 1)
    error = raised_by(lambda: future.result(PATIENCE_S), ActorError)
    assert isinstance(error.__cause__, ZeroDivisionError)
    assert other.call(Ledger.book).result(PATIENCE_S) == [1]


def check_a_constructor_that_raises(runtime: Runtime) -> None:
    """`spawn` returns; every call raises the constructor's error, and it is not tried again."""
    actor = runtime.spawn(Broken, max_restarts=5)
    for _ in range(2):
        future = actor.call(Broken.anything)
        error = raised_by(lambda future=future: future.result(PATIENCE_S), ActorError)  # type: ignore[misc]
        assert isinstance(error.__cause__, LookupError)
    assert actor.restarts == 0


def check_unknown_methods(runtime: Runtime) -> None:
    """A message that the actor does not understand names it and what was meant."""

    def enterr(ledger: Ledger) -> None:
        """Not a method of it."""

    actor = runtime.spawn(Ledger, name="hearer")
    error = raised_by(lambda: actor.call(enterr).result(PATIENCE_S), UnknownMethod)
    assert "hearer" in str(error)
    assert "'enter'" in str(error)


def check_death_without_restarts(runtime: Runtime) -> None:
    """An actor that ends fails its calls, those to come as well; others go on."""
    actor, other = runtime.spawn(Ledger), runtime.spawn(Ledger)
    error = raised_by(lambda: actor.call(Ledger.leave).result(PATIENCE_S), ActorDied)
    assert "3" in str(error)
    raised_by(lambda: actor.call(Ledger.book).result(PATIENCE_S), ActorDied)
    assert other.call(Ledger.book).result(PATIENCE_S) == []


def check_restarts(runtime: Runtime) -> None:
    """With a budget, an actor is made anew with its first arguments, until the budget is spent."""
    actor = runtime.spawn(Ledger, 5.0, max_restarts=2)
    for restarts in (1, 2):
        assert actor.call(Ledger.add, 1.0).result(PATIENCE_S) == 6.0
        raised_by(lambda: actor.call(Ledger.leave).result(PATIENCE_S), ActorDied)
        assert actor.restarts == restarts
    assert actor.call(Ledger.add, 1.0).result(PATIENCE_S) == 6.0
    raised_by(lambda: actor.call(Ledger.leave).result(PATIENCE_S), RestartsExhausted)
    raised_by(lambda: actor.call(Ledger.book).result(PATIENCE_S), RestartsExhausted)


def check_kill(runtime: Runtime) -> None:
    """A killed actor stays dead, however many restarts it had; a second kill does nothing."""
    actor: ActorHandle[Ledger] = runtime.spawn(Ledger, max_restarts=3)
    actor.call(Ledger.enter, 1).result(PATIENCE_S)
    actor.kill()
    raised_by(lambda: actor.call(Ledger.book).result(PATIENCE_S), ActorDied)
    actor.kill()
    assert actor.restarts == 0


def check_names_are_unique(runtime: Runtime) -> None:
    """Two actors cannot have one name while both live."""
    first = runtime.spawn(Ledger, name="one")
    raised_by(lambda: runtime.spawn(Ledger, name="one"), UsageError)
    first.call(Ledger.book).result(PATIENCE_S)


def check_impossible_resources(runtime: Runtime) -> None:
    """A request that can never be met is an error at once."""
    error = raised_by(
        lambda: runtime.spawn(Ledger, name="greedy", resources={"cpu": 1e6}), ResourcesUnavailable
    )
    assert "greedy" in str(error)
    raised_by(lambda: runtime.spawn(Ledger, resources={"unheard-of": 1}), ResourcesUnavailable)


def check_shutdown(runtime: Runtime) -> None:
    """After the end calls fail, results stay, and a second shutdown does nothing."""
    actor = runtime.spawn(Ledger)
    array = actor.call(Ledger.fill, 50_000, 2.0).result(PATIENCE_S)
    runtime.shutdown()
    runtime.shutdown()
    assert float(array.sum()) == 100_000.0
    raised_by(lambda: actor.call(Ledger.book).result(PATIENCE_S), ActorDied)
    raised_by(lambda: runtime.spawn(Ledger), UsageError)
    raised_by(lambda: runtime.submit(double, 1), UsageError)
    raised_by(lambda: runtime.put(1), UsageError)


RUNTIME_CHECKS: tuple[RuntimeCheck, ...] = tuple(
    value
    for name, value in list(globals().items())
    if name.startswith("check_") and name != "check_runtime"
)
"""Every check, in the order of this file."""
