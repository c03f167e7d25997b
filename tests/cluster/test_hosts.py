"""On two hosts, with a network between them that fails."""

import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.box import ADDRESS, UNSHARE
from tests.cluster.counted import held, hold, release
from tests.cluster.nodes import running
from tests.cluster.outcome import MIDDLE, calm, check_outcome, on_ray, settings

pytest.importorskip("ray", reason="needs the extra `ray`: pip install -e '.[ray]'")
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.xdist_group("ray"),
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("ray_variables"),
]


@pytest.fixture
def may_unshare() -> None:
    """Skips where namespaces are not allowed."""
    try:
        tried = subprocess.run(
            [*UNSHARE, "ip", "link", "add", "one", "type", "veth", "peer", "name", "two"],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        pytest.skip(f"needs `unshare` and `ip`: {error}")
    if tried.returncode:
        pytest.skip(f"needs root, to make network namespaces: {tried.stderr.strip()}")


@pytest.mark.usefixtures("may_unshare")
def test_a_host_that_is_cut_off_costs_a_fragment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a token: who has it on one host is let in by the other."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    for name, value in (("period_ms", "500"), ("timeout_ms", "500"), ("failure_threshold", "3")):
        monkeypatch.setenv(f"RAY_health_check_{name}", value)
    same = settings(2, 1536)
    expected = calm(tmp_path / "calm", same)
    hold(tmp_path, at=MIDDLE)
    box = [*UNSHARE, sys.executable, "-m", "tests.cluster.box", str(tmp_path), "--"]
    with running(tmp_path / "run", same + on_ray(ADDRESS, tmp_path), box) as run:
        run.until(lambda: len(held(tmp_path)) == 2)
        assert len(set(held(tmp_path).values())) == 2, "one on each host"
        (tmp_path / "cut").touch()
        run.until(lambda: "warning: actor 'runner-" in run.log.read_text())
        release(tmp_path)
        text = run.end()
    assert "Restarting" in text
    check_outcome(run, tmp_path, expected, steps=1536, lost=1)
