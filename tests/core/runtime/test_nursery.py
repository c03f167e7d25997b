"""Forkservers that are begun before a runtime wants one."""

import os
import sys
from collections.abc import Iterator

import pytest

from rl.core.runtime import Runtime, nursery

PATIENCE = 20.0
LIGHT_MODULE = "colorsys"
"""In the standard library, and nobody imports it."""


class Reader:
    def variable(self, name: str) -> str | None:
        return os.environ.get(name)

    def parent(self) -> int:
        return os.getppid()

    def has(self, module: str) -> bool:
        return module in sys.modules


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    nursery._spare.clear()
    yield
    assert not nursery._spare


def test_workers_are_born_from_the_one_that_was_begun() -> None:
    nursery.begin((LIGHT_MODULE,))
    (spare,) = nursery._spare
    nursery.begin(())  # there is one
    with Runtime("process") as runtime:
        reader = runtime.spawn(Reader)
        assert reader.call(Reader.parent).result(PATIENCE) == spare.process.pid
        assert reader.call(Reader.has, LIGHT_MODULE).result(PATIENCE)
        # One that wants less than is there is no reason for another forkserver.
        same = runtime.spawn(Reader, preload=(LIGHT_MODULE,))
        assert same.call(Reader.parent).result(PATIENCE) == spare.process.pid
        other = runtime.spawn(Reader, preload=(LIGHT_MODULE, "this"))
        assert other.call(Reader.parent).result(PATIENCE) != spare.process.pid
    assert spare.process.returncode is not None
    assert not nursery._spare


def test_workers_see_variables_that_were_set_since(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RL_TEST_GOES", "away")
    nursery.begin(())
    (spare,) = nursery._spare
    monkeypatch.delenv("RL_TEST_GOES")
    monkeypatch.setenv("RL_TEST_COMES", "late")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # of the driver alone
    with Runtime("process") as runtime:
        reader = runtime.spawn(Reader)
        assert reader.call(Reader.parent).result(PATIENCE) == spare.process.pid
        said = [
            reader.call(Reader.variable, name).result(PATIENCE)
            for name in ("RL_TEST_GOES", "RL_TEST_COMES", "OMP_NUM_THREADS")
        ]
    assert said == [None, "late", "1"]


def test_a_runtime_that_ends_before_its_first_worker_leaves_none_behind() -> None:
    with Runtime("process"):
        nursery.begin(())
        (spare,) = nursery._spare
    assert not nursery._spare
    assert spare.process.returncode is not None


def test_one_that_died_is_not_taken() -> None:
    nursery.begin(())
    nursery._spare[0].process.kill()
    nursery._spare[0].process.wait()
    with Runtime("process") as runtime:
        assert runtime.spawn(Reader).call(Reader.variable, "HOME").result(PATIENCE) is not None


def test_one_that_nobody_took_is_ended() -> None:
    with nursery.begun(()):
        (spare,) = nursery._spare
    assert spare.process.returncode is not None
    assert not nursery._spare
