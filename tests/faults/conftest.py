"""One launcher for all tests of faults: importing everything takes longer than most of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.runs import Launcher


@pytest.fixture(scope="session")
def started_launcher() -> Iterator[Launcher]:
    started = Launcher()
    yield started
    started.close()


@pytest.fixture
def launcher(started_launcher: Launcher, tmp_path: Path) -> Iterator[Launcher]:
    started_launcher.directory = tmp_path
    yield started_launcher
    started_launcher.end_run()  # one that a failed test left would fail all that follow
