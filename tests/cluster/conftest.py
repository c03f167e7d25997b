"""What the tests of clusters share."""

import pytest

from tests.cluster.nodes import ROOT


@pytest.fixture
def ray_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """For every process of a cluster and of the runs in it."""
    pytest.importorskip("ray", reason="needs the extra `ray`: pip install -e '.[ray]'")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # no token file in the home directory
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "300")  # the machine may be busy
    monkeypatch.setenv("RAY_agent_register_timeout_ms", "300000")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
