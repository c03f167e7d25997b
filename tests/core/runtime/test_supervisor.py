"""The life of an actor, event by event: every order of crashes, on a clock of numbers."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.core.runtime.board import WINDOW
from rl.core.runtime.events import (
    Answered,
    BecameReady,
    Begin,
    Call,
    CancelAsked,
    Construct,
    Constructed,
    ConstructionFailed,
    Deliver,
    DumpStacks,
    End,
    Event,
    Fail,
    Instruction,
    KillAsked,
    KillWorker,
    Over,
    Send,
    StartWorker,
    Submitted,
    Tick,
    Warn,
    Withdrawn,
    WorkerGone,
    WorkerUp,
)
from rl.core.runtime.exits import Exit
from rl.core.runtime.supervisor import Phase, Policy, Supervisor
from rl.errors import ActorDied, ActorError, Cancelled, RestartsExhausted, RuntimeFault

KILLED = Exit("SIGKILL", pid=7)


def alive(policy: Policy | None = None, now: float = 0.0) -> Supervisor:
    supervisor = Supervisor("a", policy or Policy())
    supervisor.handle(Begin(), now)
    revive(supervisor, now)
    return supervisor


def revive(supervisor: Supervisor, now: float = 0.0) -> list[Instruction]:
    incarnation = supervisor.incarnation
    assert supervisor.handle(WorkerUp(incarnation), now) == [Construct(incarnation)]
    return supervisor.handle(Constructed(incarnation), now)


def submit(supervisor: Supervisor, number: int = 1, now: float = 0.0) -> list[Call]:
    calls = [Call(f"m{i}") for i in range(number)]
    for call in calls:
        supervisor.handle(Submitted(call), now)
    return calls


def errors(instructions: list[Instruction]) -> list[BaseException]:
    return [item.error for item in instructions if isinstance(item, Fail)]


def test_a_life_without_incident() -> None:
    supervisor = Supervisor("a", Policy())
    call = Call("m")
    assert supervisor.handle(Submitted(call), 0.0) == []
    assert supervisor.handle(Begin(), 0.0) == [StartWorker(0)]
    assert supervisor.handle(WorkerUp(0), 0.1) == [Construct(0)]
    assert supervisor.handle(Constructed(0), 0.2) == [Send(call)]
    assert supervisor.handle(Answered(0, 1, "answer"), 0.3) == [Deliver(call, "answer")]
    assert supervisor.handle(KillAsked(), 0.4) == [KillWorker(0)]
    assert supervisor.handle(WorkerGone(0, KILLED), 0.5) == [Over()]


def test_calls_beyond_the_window_wait_and_are_sent_in_order() -> None:
    supervisor = alive()
    calls = submit(supervisor, WINDOW + 10)
    assert [call.number for call in calls[:WINDOW]] == list(range(1, WINDOW + 1))
    assert calls[WINDOW].number == 0
    sent: list[Call] = []
    for number in range(1, WINDOW + 1):
        out = supervisor.handle(Answered(0, number), 0.0)
        assert out[0] == Deliver(calls[number - 1])
        sent += [item.call for item in out if isinstance(item, Send)]
    assert sent == calls[WINDOW:]


def test_a_call_that_is_not_ready_holds_back_those_behind_it() -> None:
    supervisor = alive()
    waiting, behind = Call("m", ready=False), Call("m")
    assert supervisor.handle(Submitted(waiting), 0.0) == []
    assert supervisor.handle(Submitted(behind), 0.0) == []
    assert supervisor.handle(BecameReady(waiting), 0.0) == [Send(waiting), Send(behind)]


def test_a_withdrawn_call_lets_those_behind_it_through() -> None:
    supervisor = alive()
    waiting, behind = Call("m", ready=False), Call("m")
    supervisor.handle(Submitted(waiting), 0.0)
    supervisor.handle(Submitted(behind), 0.0)
    error = ValueError()
    assert supervisor.handle(Withdrawn(waiting, error), 0.0) == [Fail(waiting, error), Send(behind)]
    assert supervisor.handle(Withdrawn(waiting, error), 0.0) == []


def test_only_a_call_that_was_not_sent_is_cancelled_here() -> None:
    supervisor = Supervisor("a", Policy())
    (call,) = submit(supervisor)
    (failed,) = supervisor.handle(CancelAsked(call), 0.0)
    assert isinstance(failed, Fail)
    assert isinstance(failed.error, Cancelled)
    living = alive()
    (sent,) = submit(living)
    assert living.handle(CancelAsked(sent), 0.0) == []


def test_a_death_fails_every_call_made_before_it_and_none_made_after() -> None:
    supervisor = alive(Policy(max_restarts=1))
    before = [*submit(supervisor, 2), Call("waits", ready=False)]
    supervisor.handle(Submitted(before[2]), 0.0)
    supervisor.handle(Answered(0, 1), 1.0)
    out = supervisor.handle(WorkerGone(0, KILLED), 1.0)
    assert [item.call for item in out if isinstance(item, Fail)] == before[1:]
    assert all(type(error) is ActorDied for error in errors(out))
    assert StartWorker(1) in out
    (after,) = submit(supervisor)
    assert revive(supervisor) == [Send(after)]


def test_each_failed_call_has_an_error_of_its_own() -> None:
    supervisor = alive(Policy(max_restarts=1))
    submit(supervisor, 2)
    first, second = errors(supervisor.handle(WorkerGone(0, KILLED), 0.0))
    assert first is not second


@pytest.mark.parametrize(
    "event",
    [
        WorkerUp(0),
        Constructed(0),
        Answered(0, 1),
        WorkerGone(0, KILLED),
        ConstructionFailed(0, "k", ActorError),
    ],
)
def test_messages_of_an_earlier_incarnation_are_dropped_and_counted(event: Event) -> None:
    supervisor = alive(Policy(max_restarts=2))
    submit(supervisor)
    supervisor.handle(Answered(0, 1), 0.0)
    supervisor.handle(WorkerGone(0, KILLED), 0.0)
    revive(supervisor)
    submit(supervisor)
    stale = supervisor.stale
    assert supervisor.handle(event, 0.0) == []
    assert supervisor.stale == stale + 1
    assert supervisor.phase is Phase.ALIVE


def test_an_answer_to_a_call_long_settled_is_dropped() -> None:
    supervisor = alive()
    submit(supervisor)
    assert supervisor.handle(Answered(0, 1), 0.0)
    assert supervisor.handle(Answered(0, 1), 0.0) == []
    assert supervisor.stale == 1


def test_without_a_budget_the_first_death_is_final() -> None:
    supervisor = alive()
    submit(supervisor)
    out = supervisor.handle(WorkerGone(0, KILLED), 0.0)
    (error,) = errors(out)
    assert type(error) is ActorDied
    assert "SIGKILL" in str(error)
    assert "max_restarts" in str(error)
    assert out[-1] == Over()
    (late,) = (Call("m"),)
    (failed,) = supervisor.handle(Submitted(late), 0.0)
    assert isinstance(failed, Fail)
    assert type(failed.error) is ActorDied


def test_the_budget_is_for_ten_minutes() -> None:
    supervisor = alive(Policy(max_restarts=2))
    for now in (0.0, 300.0, 700.0):
        submit(supervisor, now=now)
        supervisor.handle(Answered(supervisor.incarnation, supervisor.incarnation + 1), now)
        out = supervisor.handle(WorkerGone(supervisor.incarnation, KILLED), now)
        assert Over() not in out
        revive(supervisor, now)
    (call,) = submit(supervisor)
    out = supervisor.handle(WorkerGone(3, KILLED), 701.0)
    assert [type(error) for error in errors(out)] == [RestartsExhausted]
    assert "2 times within 10 minutes" in str(errors(out)[0])
    assert call.number


def test_a_life_without_a_completed_call_delays_the_next_start_and_doubles() -> None:
    policy = Policy(max_restarts=100, same_failure_limit=100, longest_delay=1.0)
    supervisor = alive(policy)
    now = 0.0
    for delay in (0.1, 0.2, 0.4, 0.8, 1.0, 1.0):
        assert not any(
            isinstance(item, StartWorker)
            for item in supervisor.handle(WorkerGone(supervisor.incarnation, KILLED), now)
        )
        assert supervisor.handle(Tick(), now + delay * 0.9) == []
        now += delay
        assert supervisor.handle(Tick(), now) == [StartWorker(supervisor.incarnation)]
        revive(supervisor, now)


def test_after_a_completed_call_the_next_start_is_at_once() -> None:
    supervisor = alive(Policy(max_restarts=9))
    for incarnation in range(5):
        submit(supervisor)
        supervisor.handle(Answered(incarnation, incarnation + 1), 0.0)
        out = supervisor.handle(WorkerGone(incarnation, KILLED), 0.0)
        assert StartWorker(incarnation + 1) in out
        revive(supervisor)


def die_and_return(supervisor: Supervisor, exit_: Exit, now: float) -> list[Instruction]:
    out = supervisor.handle(WorkerGone(supervisor.incarnation, exit_), now)
    if supervisor.phase is Phase.BACKING_OFF:
        assert supervisor.handle(Tick(), now + 30.0) == [StartWorker(supervisor.incarnation)]
        revive(supervisor, now + 30.0)
    return out


def test_the_same_end_three_times_in_a_row_is_the_last() -> None:
    supervisor = alive(Policy(max_restarts=50, late_tick=1e9))
    die_and_return(supervisor, Exit("SIGSEGV"), 0.0)
    die_and_return(supervisor, Exit("SIGSEGV"), 100.0)
    (call,) = submit(supervisor)
    out = die_and_return(supervisor, Exit("SIGSEGV"), 200.0)
    (error,) = errors(out)
    assert type(error) is RestartsExhausted
    assert "3 times in a row" in str(error)
    assert supervisor.phase is Phase.ENDED
    assert call.number


def test_different_ends_are_not_the_same_end() -> None:
    supervisor = alive(Policy(max_restarts=50, late_tick=1e9))
    for number, how in enumerate(("SIGSEGV", "SIGKILL", "SIGSEGV", "exit code 1")):
        die_and_return(supervisor, Exit(how), 100.0 * number)
    assert supervisor.phase is Phase.ALIVE


def test_ends_from_outside_are_bounded_by_the_budget_alone() -> None:
    supervisor = alive(Policy(max_restarts=8, late_tick=1e9))
    for number in range(8):
        die_and_return(supervisor, KILLED, 50.0 * number)
        assert supervisor.phase is Phase.ALIVE
    (call,) = submit(supervisor, now=400.0)
    (error,) = errors(supervisor.handle(WorkerGone(8, KILLED), 400.0))
    assert type(error) is RestartsExhausted
    assert "which is its budget" in str(error)
    assert call.number


def test_an_end_from_outside_does_not_hide_that_a_program_ends_alike() -> None:
    supervisor = alive(Policy(max_restarts=50, late_tick=1e9))
    crash = Exit("SIGSEGV")
    for number, end in enumerate((crash, KILLED, crash, KILLED, crash)):
        assert supervisor.phase is Phase.ALIVE
        die_and_return(supervisor, end, 50.0 * number)
    assert supervisor.phase is Phase.ENDED


def test_a_hang_that_is_killed_here_counts_as_a_hang() -> None:
    supervisor = alive(Policy(max_restarts=50, step_timeout=1.0, late_tick=1e9))
    for number in range(3):
        assert supervisor.phase is Phase.ALIVE
        now = 100.0 * number
        submit(supervisor, now=now)
        assert supervisor.handle(Tick(), now + 2.0) == [DumpStacks(number)]
        assert supervisor.handle(Tick(), now + 3.0) == [KillWorker(number)]
        die_and_return(supervisor, KILLED, now + 3.0)
    assert supervisor.phase is Phase.ENDED


def test_a_constructor_that_raises_at_first_is_never_tried_again() -> None:
    supervisor = Supervisor("a", Policy(max_restarts=5))
    (call,) = submit(supervisor)
    supervisor.handle(Begin(), 0.0)
    supervisor.handle(WorkerUp(0), 0.0)
    made: list[ActorError] = []

    def make() -> ActorError:
        made.append(ActorError("constructor"))
        return made[-1]

    out = supervisor.handle(ConstructionFailed(0, "ValueError", make), 0.0)
    assert out == [Fail(call, made[0]), KillWorker(0)]
    (failed,) = supervisor.handle(Submitted(Call("m")), 0.0)
    assert isinstance(failed, Fail)
    assert failed.error is made[1]
    assert supervisor.handle(WorkerGone(0, KILLED), 0.0) == [Over()]


def test_a_constructor_that_raises_on_a_restart_is_tried_three_times() -> None:
    supervisor = alive(Policy(max_restarts=50, late_tick=1e9))
    submit(supervisor)
    supervisor.handle(Answered(0, 1), 0.0)
    supervisor.handle(WorkerGone(0, KILLED), 0.0)
    for attempt in (1, 2, 3):
        supervisor.handle(WorkerUp(attempt), 0.0)
        failed = ConstructionFailed(attempt, "ValueError at env.py:3", lambda: ActorError("mine"))
        assert supervisor.handle(failed, 0.0) == [KillWorker(attempt)]
        submit(supervisor)
        out = supervisor.handle(WorkerGone(attempt, KILLED), 0.0)
        assert [str(error) for error in errors(out)] == ["mine"]
        if attempt < 3:
            assert supervisor.handle(Tick(), 100.0 * attempt) == [StartWorker(attempt + 1)]
    assert out[-1] == Over()


def test_a_worker_that_dies_before_it_speaks_is_started_again() -> None:
    supervisor = Supervisor("a", Policy(max_restarts=5))
    supervisor.handle(Begin(), 0.0)
    out = supervisor.handle(WorkerGone(0, KILLED), 0.0)
    assert Over() not in out
    assert supervisor.handle(Tick(), 0.2) == [StartWorker(1)]


def hang(supervisor: Supervisor, start: float, seconds: float) -> list[tuple[float, Instruction]]:
    """Ticks twenty times a second."""
    ticks = [start + 0.05 * i for i in range(int(seconds / 0.05))]
    return [(now, item) for now in ticks for item in supervisor.handle(Tick(), now)]


def test_a_hung_worker_is_warned_about_then_dumped_then_killed_then_replaced() -> None:
    supervisor = alive(Policy(max_restarts=1, step_timeout=2.0, dump_grace=0.3))
    (call,) = submit(supervisor)
    seen = hang(supervisor, 0.0, 4.0)
    assert [type(item) for _, item in seen] == [Warn, DumpStacks, KillWorker]
    (warned, _), (dumped, _), (killed, _) = seen
    assert 1.0 < warned < 1.1
    assert 2.0 < dumped < 2.1
    assert 2.3 < killed < 2.45
    out = supervisor.handle(WorkerGone(0, Exit("SIGKILL", 7, ("File env.py",))), 4.0)
    (error,) = errors(out)
    assert re.search(r"no progress in 'm0' for 2 s.*File env.py", str(error), re.DOTALL)
    assert call.number


def test_the_answer_of_a_worker_found_to_hang_comes_too_late() -> None:
    supervisor = alive(Policy(max_restarts=1, step_timeout=1.0))
    (call,) = submit(supervisor)
    supervisor.handle(Tick(), 1.1)
    assert supervisor.handle(Answered(0, 1), 1.2) == []
    assert supervisor.stale == 1
    out = supervisor.handle(WorkerGone(0, KILLED), 1.5)
    assert [item.call for item in out if isinstance(item, Fail)] == [call]


def test_progress_an_answer_and_idleness_are_no_hang() -> None:
    supervisor = alive(Policy(step_timeout=1.0))
    submit(supervisor, 2)
    assert supervisor.handle(Tick(progress_at=0.9), 1.4) == []
    supervisor.handle(Answered(0, 1), 1.5)
    assert supervisor.handle(Tick(), 1.9) == []
    supervisor.handle(Answered(0, 2), 2.0)
    assert not supervisor.busy
    assert hang(supervisor, 2.0, 10.0) == []
    submit(supervisor, now=12.0)
    assert supervisor.handle(Tick(), 12.4) == []


def test_a_constructor_that_hangs_is_killed_after_the_start_timeout() -> None:
    supervisor = Supervisor("a", Policy(start_timeout=1.0))
    supervisor.handle(Begin(), 0.0)
    supervisor.handle(WorkerUp(0), 0.0)
    kinds = [type(item) for _, item in hang(supervisor, 0.0, 2.0)]
    assert kinds == [Warn, DumpStacks, KillWorker]


def test_a_machine_that_slept_kills_nobody() -> None:
    supervisor = alive(Policy(step_timeout=5.0))
    submit(supervisor)
    supervisor.handle(Tick(), 0.1)
    assert supervisor.handle(Tick(), 3600.0) == []
    assert hang(supervisor, 3600.05, 2.0) == []


def test_kill_is_final_and_repeatable_in_every_phase() -> None:
    steps: list[Callable[[Supervisor], object]] = [
        lambda s: s.handle(Begin(), 0.0),
        lambda s: s.handle(WorkerUp(0), 0.0),
        lambda s: s.handle(Constructed(0), 0.0),
        lambda s: s.handle(WorkerGone(0, KILLED), 0.0),
    ]
    for done in range(len(steps) + 1):
        supervisor = Supervisor("a", Policy(max_restarts=3))
        for step in steps[:done]:
            step(supervisor)
        calls = submit(supervisor)
        out = supervisor.handle(KillAsked(), 0.0)
        assert [item.call for item in out if isinstance(item, Fail)] == calls
        assert "killed" in str(errors(out)[0])
        worker_left = 1 <= done <= 3
        assert out[-1] == (KillWorker(0) if worker_left else Over())
        assert supervisor.handle(KillAsked(), 0.0) == []
        assert supervisor.handle(Tick(), 99.0) == []
        if worker_left:
            assert supervisor.handle(WorkerGone(0, KILLED), 0.0) == [Over()]


class World:
    """Carries out instructions, and checks what must hold whatever happens."""

    def __init__(self, policy: Policy) -> None:
        self.supervisor = Supervisor("a", policy)
        self.now = 0.0
        self.workers = 0
        self.made: list[Call] = []
        self.sent: list[Call] = []
        self.ended: list[Call] = []
        self.apply(Begin())

    def apply(self, event: Event) -> None:
        if isinstance(event, WorkerGone):
            self.workers -= 1
        for item in self.supervisor.handle(event, self.now):
            if isinstance(item, StartWorker):
                self.workers += 1
                assert self.workers == 1
            elif isinstance(item, Send):
                assert self.workers == 1
                self.sent.append(item.call)
                assert item.call.number == len(self.sent)
            elif isinstance(item, Deliver | Fail):
                self.ended.append(item.call)
            elif isinstance(item, Over):
                assert self.workers == 0

    def step(self, word: str) -> None:
        self.now += 10.0 if word == "hang" else 0.5
        incarnation = self.supervisor.incarnation
        answered = next((call.number for call in self.sent if call not in self.ended), 0)
        if word == "submit":
            self.made.append(Call("m"))
            self.apply(Submitted(self.made[-1]))
            return
        events: dict[str, Event] = {
            "up": WorkerUp(incarnation),
            "made": Constructed(incarnation),
            "answer": Answered(incarnation, answered),
            "late": Answered(incarnation - 1, answered),
            "tick": Tick(),
            "hang": Tick(),
            "failed": ConstructionFailed(incarnation, "k", ActorError),
            "gone": WorkerGone(incarnation, KILLED),
        }
        if word != "gone" or self.workers:
            self.apply(events[word])


WORDS = ["submit", "up", "made", "answer", "gone", "tick", "failed", "late", "hang"]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(WORDS), max_size=60), st.integers(0, 4))
def test_whatever_happens_each_call_ends_once_and_one_worker_lives(
    script: list[str], max_restarts: int
) -> None:
    world = World(Policy(max_restarts=max_restarts, step_timeout=5.0))
    for word in script:
        world.step(word)
    world.apply(End(lambda: RuntimeFault("over")))
    world.step("gone")
    assert sorted(map(id, world.ended)) == sorted(map(id, world.made))
