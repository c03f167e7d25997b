import errno
import json
import math
import os
from pathlib import Path

import pytest

from rl.core.records.episodes import EpisodeLog, EpisodeWindow


def test_every_episode_is_a_row(tmp_path: Path) -> None:
    path = tmp_path / "episodes.csv"
    for step in (10, 20):  # the second log continues the first one's file
        log = EpisodeLog(path)
        log.append(step, 0.1 + 0.2, 9, 1.5)
        log.close()
    assert path.read_text() == (
        "env_step,return,length,seconds\n"
        "10,0.30000000000000004,9,1.500\n"
        "20,0.30000000000000004,9,1.500\n"
    )


def test_a_full_disk_costs_rows_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = EpisodeLog(tmp_path / "episodes.csv")

    def refuse(descriptor: int, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", refuse)
        for step in range(3):
            log.append(step, 1.0, 1, 0.0)
            log.flush()
    assert log.dropped == 3
    assert len(caplog.records) == 1
    assert "No space left" in caplog.text
    log.append(3, 1.0, 1, 0.0)
    log.close()
    assert (tmp_path / "episodes.csv").read_text().splitlines()[1:] == ["3,1.0,1,0.000"]


def test_a_log_that_never_opened_counts_what_it_drops(tmp_path: Path) -> None:
    log = EpisodeLog(tmp_path / "missing" / "episodes.csv")
    log.append(1, 1.0, 1, 0.0)
    log.close()
    assert log.dropped == 1


def test_means_are_over_the_last_episodes_only() -> None:
    window = EpisodeWindow(2)
    assert math.isnan(window.return_mean)
    assert window.metrics() == {}
    for episode_return, length in ((100.0, 1), (1.0, 10), (2.0, 20)):
        window.add(episode_return, length)
    assert window.metrics() == {"rollout/ep_rew_mean": 1.5, "rollout/ep_len_mean": 15.0}
    assert len(window) == 2


def test_success_is_averaged_over_the_episodes_that_tell() -> None:
    window = EpisodeWindow()
    window.add(0.0, 1, success=True)
    window.add(0.0, 1)
    window.add(0.0, 1, success=False)
    assert window.metrics()["rollout/success_rate"] == 0.5


def test_the_window_comes_back_from_json() -> None:
    window = EpisodeWindow(3)
    for number in range(5):
        window.add(number / 3, number, success=None if number == 4 else number % 2 == 0)
    again = EpisodeWindow(3)
    again.add(1e9, 1)
    again.load_state(json.loads(json.dumps(window.state())))
    assert again.state() == window.state()
    assert again.metrics() == window.metrics()
    smaller = EpisodeWindow(1)
    smaller.load_state(window.state())
    assert smaller.return_mean == 4 / 3
