"""Shared by tests of several packages."""

import os
import signal
import warnings
from collections.abc import Iterator

import pytest

# Who is started in the background of a shell, or by nohup, ignores these, and so does whatever it
# starts; what the tests start shall hear them, as in a terminal.
for _number, _usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    """A small Ray that runtimes share, as a user's own `ray.init()` would be; else a skip."""
    ray = pytest.importorskip("ray", reason="needs the extra `ray`: pip install -e '.[ray]'")
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # no token file in the home directory
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")  # the machine may be busy
    os.environ.setdefault("RAY_agent_register_timeout_ms", "300000")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(
            address="local",
            num_cpus=4,
            resources={"arcade": 1},
            object_store_memory=200 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="warning",
        )
    yield
    ray.shutdown()
