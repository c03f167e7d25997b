"""`rl record`: the frames of an episode, in a file; and what it says where it cannot."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rl.cli.main import rl_main, train_main

pytest.importorskip("pygame")
imageio: Any = pytest.importorskip("imageio.v2")

SHORT = "--total-steps 64 --rollout-length 32 --minibatch-size 32 --num-epochs 1 --no-preset"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    words = f"--env CartPole-v1 --run-dir first {SHORT} --env-runners.envs-per-runner 2"
    assert train_main([*words.split(), "--evaluation.num-episodes", "1"]) == 0
    return tmp_path / "first"


def test_an_episode_is_written_frame_by_frame(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rl_main(["record", "first", "--out", "films/a.gif", "--seed", "3"]) == 0
    told = capsys.readouterr().out
    frames = imageio.mimread("films/a.gif", memtest=False)
    count = int(told.split()[1])
    assert count / 2 < len(frames) <= count  # a GIF shows equal frames as one that lasts longer
    assert np.asarray(frames[0]).shape[:2] == (400, 600)
    assert not np.array_equal(frames[0], frames[-1])
    # A reward of 1 a step, and a frame more than steps.
    assert f"returns {count - 1} " in told
    assert rl_main(["evaluate", "first", "--episodes", "1", "--seed", "3", "--json"]) == 0
    assert f'"returns": [{count - 1}.0]' in capsys.readouterr().out  # the same episode
    assert rl_main(["record", "first", "--out", "films/a.gif"]) == 2
    assert "nothing is ever overwritten" in capsys.readouterr().err
    assert rl_main(["record", "first", "--out", "b.avi", "--steps", "0"]) == 2
    assert "--steps: must be a whole number of at least 1" in capsys.readouterr().err
    assert rl_main(["record", "first", "--out", "b.avi"]) == 2
    assert "b.avi: a video ends in .mp4 or .gif" in capsys.readouterr().err
    assert rl_main(["record", "first", "--out", "c.gif", "--steps", "2", "--episodes", "2"]) == 0
    assert "6 frames, returns 2, 2" in capsys.readouterr().out
